"""A study's results as a few small files, zipped and with smaller pictures: what tables, figures and the page need.

``metrics.parquet`` holds the rows of all finished runs, with the run's folder as first column; ``records.zip`` their
``run.json`` (together in ``records.json``, since they are much alike), the study's configuration, the partitions in few
bytes, and one picture of synthetic images for each data set and semantics. `unpack` makes of them a results folder
again, without models and with smaller, paler pictures, and else to the byte: every command that reads results works on
it. A whole archive has every file of its runs in ``runs.zip`` as well, so that the study can go on from it.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from apfl.errors import UserError
from apfl.jobs.paths import KINDS
from apfl.storage.files import (
    atomic_path,
    first_line,
    put_npz,
    read_npz,
    read_record,
    require_file,
    sha256_file,
    write_npz,
)
from apfl.storage.run_folder import Record
from apfl.storage.tables import read_parquet, write_parquet
from apfl.study.cells import artefacts, runs
from apfl.study.records import difference
from apfl.study.runs import generators
from apfl.study.study import Study

if TYPE_CHECKING:
    import pandas as pd

METRICS, RECORDS, WHOLE = "metrics.parquet", "records.zip", "runs.zip"
TOGETHER = "records.json"
"""In ``records.zip``, the text of each run's record by the run's folder."""
PARTITIONS = re.sub(r"\{\w+\}", "*", KINDS["partition"].path)
EPOCH = (1980, 1, 1, 0, 0, 0)
"""The date of everything in the archive, so that equal contents are equal bytes."""
WIDTH, COLOURS = 560, 16
"""Pixels and colours of a picture at most."""
LARGEST = 1 << 28
"""Bytes that an archive may unpack to."""


def pack(study: Study, text: str, results: Path, folder: Path, whole: bool = False) -> list[Path]:
    """Write the archive of the study's finished runs under ``results`` into ``folder``; returns its files.

    ``text`` is the study's configuration as it was run; ``whole``: with every file of each run, its models among them.
    """
    done = [run for run in runs(study) if (results / run.path / "run.json").is_file()]
    if not done:
        raise UserError(f"study {study.name}: no finished run under {results}; run it first, or give --results")
    for run in done:
        if other := difference(run, read_record(results / run.path / "run.json")):
            raise UserError(f"run {run.path}: {other}; make it again, or pack with the study as it was")
    tables = {run.path: results / run.path / METRICS for run in done}
    frames = {path: read_parquet(table, "metrics") for path, table in tables.items() if table.is_file()}
    if not frames:
        raise UserError(f"study {study.name}: its runs under {results} have no {METRICS}; make them again")
    files = {f"{study.name}/study.json": text.encode()}
    files[TOGETHER] = json.dumps({run.path: _text(results / run.path / "run.json") for run in done}).encode()
    beside = [Path(file) for method in study.methods.values() for file in method.files]
    for path in beside:
        name, content = f"{study.name}/{path.name}", path.read_bytes()
        if files.setdefault(name, content) != content:
            raise UserError(f"{path}: an archive has one file {name}, which another file is already; rename this one")
    rules = Path(study.rules).glob("*.smk") if study.rules else ()
    files |= {f"{study.name}/{path.parent.name}/{path.name}": path.read_bytes() for path in rules}
    beside_runs = [entry for entry in artefacts(study) if (results / entry.path).is_file()]
    files |= {entry.path: (results / entry.path).read_bytes() for entry in beside_runs if entry.kind == "tune"}
    # What goes on starts from the very bytes, which another machine's zlib might not make again.
    taken = Path.read_bytes if whole else _narrow
    files |= {entry.path: taken(results / entry.path) for entry in beside_runs if entry.kind == "partition"}
    shown = (first.path for first, *_ in generators(done).values())
    files |= {f"{path}/samples.png": _smaller(results / path / "samples.png") for path in shown}
    folder.mkdir(parents=True, exist_ok=True)
    if whole:
        _store([results / run.path for run in done], results, folder / WHOLE)
    else:
        (folder / WHOLE).unlink(missing_ok=True)
    table = _stacked(frames)
    # No two losses are alike, so that a dictionary of them would only add to their size.
    alike = [name for name in table if name != "loss"]
    split = dict.fromkeys({"loss"} & {*table}, "BYTE_STREAM_SPLIT") or None
    write_parquet(folder / METRICS, table, compression_level=19, use_dictionary=alike, column_encoding=split)
    with (
        atomic_path(folder / RECORDS) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_BZIP2) as archive,
    ):
        for name in sorted(files):
            archive.writestr(zipfile.ZipInfo(name, EPOCH), files[name], zipfile.ZIP_BZIP2)
    return [folder / name for name in (METRICS, RECORDS, *([WHOLE] if whole else []))]


def unpack(folder: Path, results: Path) -> Path:
    """Write what `pack` packed under ``results``; returns the path of the study's configuration."""
    import pyarrow as pa

    frame = read_parquet(folder / METRICS, "archive", ("run",))
    files = contents(folder)
    study = next((name for name in files if name.endswith("/study.json")), None)
    if study is None:
        raise UserError(f"archive {folder / RECORDS}: has no study.json; make it again with `apfl pack`")
    for run in (name for name in files if name.endswith("/run.json") and (results / name).is_file()):
        if files[run] != (results / run).read_bytes():
            raise UserError(f"{results / run}: is another run; unpack elsewhere, or use `apfl merge`")
    if unknown := [run for run in frame["run"].unique() if f"{run}/run.json" not in files]:
        raise UserError(f"archive {folder}: metrics of {unknown[0]!r} have no run.json; make it again with `apfl pack`")
    # Records come last, so that what stops half-way, or finds a damaged file, leaves no run that looks finished.
    for run, rows in frame.groupby("run", sort=True, observed=True):
        table = pa.Table.from_pandas(rows.drop(columns="run"), preserve_index=False)
        write_parquet(results / str(run) / METRICS, table.replace_schema_metadata())  # runs write nothing of pandas
    if (folder / WHOLE).is_file():
        _extract(folder / WHOLE, files, results)
    for name, content in files.items():
        with atomic_path(results / name) as temporary:
            temporary.write_bytes(content)
            if PurePosixPath(name).match(PARTITIONS):
                _widen(temporary, f"archive {folder / RECORDS}: {name}")
    return results / study


def _store(runs: Iterable[Path], results: Path, path: Path) -> None:
    """Every file that the records of ``runs`` name, uncompressed: models hardly shrink."""
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for run in runs:
            for name in sorted(Record.read(run / "run.json").outputs):
                entry = zipfile.ZipInfo((run / name).relative_to(results).as_posix(), EPOCH)
                with require_file(run / name, "file of a run").open("rb") as source, archive.open(entry, "w") as target:
                    shutil.copyfileobj(source, target)


def _extract(path: Path, records: Mapping[str, bytes], results: Path) -> None:
    """The files of runs, each of which must be what its run's record says."""
    expected = {
        f"{name.rpartition('/')[0]}/{file}": sha256
        for name, content in records.items()
        if name.endswith("/run.json")
        for file, sha256 in Record.parse(json.loads(content)).outputs.items()
        if PurePosixPath(file).name == file
    }
    with _opened(path) as archive:
        for entry in archive.infolist():
            _check_place(path, entry.filename)
            if entry.filename not in expected or entry.compress_type != zipfile.ZIP_STORED:
                raise UserError(f"archive {path}: {entry.filename!r} is not a file of its runs; fetch it again")
            with atomic_path(results / entry.filename) as temporary:
                with archive.open(entry) as source, temporary.open("wb") as target:
                    shutil.copyfileobj(source, target)
                if sha256_file(temporary) != expected[entry.filename]:
                    raise UserError(f"archive {path}: {entry.filename} is damaged; fetch it again")


def _stacked(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    import pandas as pd

    rows = pd.concat([frame.assign(run=run) for run, frame in sorted(frames.items())], ignore_index=True)
    return rows[["run", *(name for name in rows.columns if name != "run")]]


def _text(path: Path) -> str:
    """The text of a run's record, to the byte; a `UserError` if it is damaged."""
    read_record(path)
    return path.read_bytes().decode()


def _narrow(path: Path) -> bytes:
    """The arrays of a partition with their integers in few bytes, for the zip file to compress: half the size."""
    few = _cast(read_npz(path, "partition"), _fewest)
    if not few:
        return path.read_bytes()
    stream = io.BytesIO()
    put_npz(stream, few, zipfile.ZIP_STORED)
    return stream.getvalue()


def _widen(path: Path, what: str) -> None:
    """A partition with its integers as the suite writes them; one that has them so already stays as it is."""
    try:
        arrays = read_npz(path, "partition", most=LARGEST)
    except UserError:
        raise UserError(f"{what} is damaged; fetch it again") from None
    if wide := _cast(arrays, lambda _: np.dtype(np.int64)):
        write_npz(path, **wide)


def _cast(arrays: Mapping[str, np.ndarray], kind: Callable[[np.ndarray], np.dtype]) -> dict[str, np.ndarray]:
    """The arrays with whole numbers as ``kind`` says; empty if all are so already."""
    kinds = {name: kind(array) if array.dtype.kind in "iu" else array.dtype for name, array in arrays.items()}
    changed = any(kinds[name] != array.dtype for name, array in arrays.items())
    return {name: array.astype(kinds[name]) for name, array in arrays.items()} if changed else {}


def _fewest(array: np.ndarray) -> np.dtype:
    if not array.size:
        return np.dtype(np.int8)
    kind = np.result_type(*map(np.min_scalar_type, (array.min(), array.max())))
    return kind if kind.kind in "iu" else array.dtype  # no integer is as wide as -1 and 2**63 together


def _smaller(path: Path) -> bytes:
    """The picture as a page with many of them shows it, with few colours: an eighth of its size."""
    from PIL import Image

    stream = io.BytesIO()
    try:
        with Image.open(require_file(path, "picture")) as picture:
            flat = picture.convert("RGB")
            flat.thumbnail((WIDTH, 10 * WIDTH), Image.Resampling.LANCZOS)
            flat.quantize(COLOURS).save(stream, format="PNG", optimize=True)
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"picture {path}: cannot be read ({first_line(error)}); make it again") from None
    return stream.getvalue()


def contents(folder: Path) -> dict[str, bytes]:
    """The files in an archive's ``records.zip``, each record under its run; a `UserError` if it is damaged, too large,
    or names a place outside its folder."""
    path = require_file(folder / RECORDS, "archive")
    with _opened(path) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > LARGEST:
            raise UserError(f"archive {path}: unpacks to more than {LARGEST >> 20} MiB; it is not one of ours")
        files = {entry.filename: archive.read(entry) for entry in archive.infolist()}
        records = json.loads(files.pop(TOGETHER, b"{}"))  # older archives have each in a file of its own
        files |= {f"{run}/run.json": text.encode() for run, text in records.items()}
        for name, content in files.items():
            if name.endswith("/run.json") and not isinstance(json.loads(content), dict):
                raise ValueError(f"{name} holds no JSON object")
    for name in files:
        _check_place(path, name)
    return files


def _check_place(path: Path, name: str) -> None:
    """A `UserError` unless a name in the archive is that of a file below its folder."""
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts or "\\" in name or name.endswith("/") or not name.isprintable():
        raise UserError(f"archive {path}: names {name!r}, which is not a file below its folder; fetch it again")


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """A zip file to read from; a `UserError` where it turns out to be damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except UserError:
        raise
    except Exception as error:  # the reader raises many kinds for damaged files
        raise UserError(f"archive {path}: cannot be read ({first_line(error)}); fetch it again") from None


def portable(values: Mapping[str, Any]) -> str:
    """A study's configuration as JSON, without this machine's folders, which nobody needs who only reads its results.

    >>> portable({"name": "demo", "data_root": "/home/me/data"})
    '{"name": "demo", "data_root": "unpacked", "semantics_root": "unpacked"}'
    """
    return json.dumps({**values, "data_root": "unpacked", "semantics_root": "unpacked"})
