"""A study's results as a few small files, zipped and with smaller pictures: what tables, figures and the page need.

``metrics.parquet`` holds the rows of all finished runs, with the run's folder as first column; ``records.zip`` their
``run.json`` (together in ``records.json``, since they are much alike), the study's configuration, the partitions in few
bytes, and one picture of synthetic images for each data set and semantics. `unpack` makes of them a results folder
again, without models and with paler pictures, and else to the byte: every command that reads results works on it.
A whole archive has every file of its runs in ``runs.zip`` as well, so that the study can go on from it.
"""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from apfl.errors import UserError
from apfl.storage.files import atomic_path, read_npz, read_record, require_file, sha256_file, write_npz
from apfl.storage.tables import read_parquet, write_parquet
from apfl.study.cells import artefacts, runs
from apfl.study.runs import generators
from apfl.study.study import Study

if TYPE_CHECKING:
    import numpy.typing as npt
    import pandas as pd

METRICS, RECORDS, WHOLE = "metrics.parquet", "records.zip", "runs.zip"
TOGETHER = "records.json"
"""In ``records.zip``, the text of each run's record by the run's folder."""
EPOCH = (1980, 1, 1, 0, 0, 0)
"""The date of everything in the archive, so that equal contents are equal bytes."""
COLOURS = 32
LARGEST = 1 << 28
"""Bytes that an archive may unpack to."""


def pack(study: Study, text: str, results: Path, folder: Path, whole: bool = False) -> list[Path]:
    """Write the archive of the study's finished runs under ``results`` into ``folder``; returns its files.

    ``text`` is the study's configuration as it was run; ``whole``: with every file of each run, its models among them.
    """
    done = [run for run in runs(study) if (results / run.path / "run.json").is_file()]
    if not done:
        raise UserError(f"study {study.name}: no finished run under {results}; run it first, or give --results")
    tables = {run.path: results / run.path / METRICS for run in done}
    frames = {path: read_parquet(table, "metrics") for path, table in tables.items() if table.is_file()}
    files = {f"{study.name}/study.json": text.encode()}
    files[TOGETHER] = json.dumps({run.path: (results / run.path / "run.json").read_text() for run in done}).encode()
    beside = [Path(file) for method in study.methods.values() for file in method.files]
    files |= {f"{study.name}/{path.name}": path.read_bytes() for path in beside}
    rules = Path(study.rules).glob("*.smk") if study.rules else ()
    files |= {f"{study.name}/{path.parent.name}/{path.name}": path.read_bytes() for path in rules}
    beside_runs = [entry for entry in artefacts(study) if (results / entry.path).is_file()]
    files |= {entry.path: (results / entry.path).read_bytes() for entry in beside_runs if entry.kind == "tune"}
    files |= {entry.path: _narrow(results / entry.path) for entry in beside_runs if entry.kind == "partition"}
    shown = (first.path for first, *_ in generators(done).values())
    files |= {f"{path}/samples.png": _smaller(results / path / "samples.png") for path in shown}
    folder.mkdir(parents=True, exist_ok=True)
    write_parquet(folder / METRICS, _stacked(frames))
    with (
        atomic_path(folder / RECORDS) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive,
    ):
        for name in sorted(files):
            archive.writestr(zipfile.ZipInfo(name, EPOCH), files[name], zipfile.ZIP_DEFLATED, 9)
    if whole:
        _store([results / run.path for run in done], results, folder / WHOLE)
    return [folder / name for name in (METRICS, RECORDS, *([WHOLE] if whole else []))]


def unpack(folder: Path, results: Path) -> Path:
    """Write what `pack` packed under ``results``; returns the path of the study's configuration."""
    frame = read_parquet(folder / METRICS, "archive", ("run",))
    files = contents(folder)
    study = next((name for name in files if name.endswith("/study.json")), None)
    if study is None:
        raise UserError(f"archive {folder / RECORDS}: has no study.json; make it again with `apfl pack`")
    if unknown := [run for run in frame["run"].unique() if f"{run}/run.json" not in files]:
        raise UserError(f"archive {folder}: metrics of {unknown[0]!r} have no run.json; make it again with `apfl pack`")
    for name, content in files.items():
        with atomic_path(results / name) as temporary:
            temporary.write_bytes(content)
            if name.endswith(".npz"):
                write_npz(temporary, **_cast(read_npz(temporary, "partition"), lambda _: np.int64))
    for run, rows in frame.groupby("run", sort=True, observed=True):
        write_parquet(results / str(run) / METRICS, rows.drop(columns="run").reset_index(drop=True))
    if (folder / WHOLE).is_file():
        _extract(folder / WHOLE, files, results)
    return results / study


def _store(runs: Iterable[Path], results: Path, path: Path) -> None:
    """Every file that the records of ``runs`` name, uncompressed: models hardly shrink."""
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for run in runs:
            for name in sorted(read_record(run / "run.json").get("outputs", ())):
                entry = zipfile.ZipInfo((run / name).relative_to(results).as_posix(), EPOCH)
                with require_file(run / name, "file of a run").open("rb") as source, archive.open(entry, "w") as target:
                    shutil.copyfileobj(source, target)


def _extract(path: Path, records: Mapping[str, bytes], results: Path) -> None:
    """The files of runs, each of which must be what its run's record says."""
    expected = {
        f"{name.rpartition('/')[0]}/{file}": sha256
        for name, content in records.items()
        if name.endswith("/run.json")
        for file, sha256 in json.loads(content).get("outputs", {}).items()
        if PurePosixPath(file).name == file
    }
    with _opened(path) as archive:
        for entry in archive.infolist():
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


def _narrow(path: Path) -> bytes:
    """The arrays of a partition with their integers in few bytes, for the zip file to compress: half the size."""
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=False, **_cast(read_npz(path, "partition"), _fewest))
    return stream.getvalue()


def _cast(arrays: Mapping[str, np.ndarray], kind: Callable[[np.ndarray], npt.DTypeLike]) -> dict[str, np.ndarray]:
    """With whole numbers as ``kind`` says."""
    return {name: array.astype(kind(array)) if array.dtype.kind in "iu" else array for name, array in arrays.items()}


def _fewest(array: np.ndarray) -> np.dtype:
    return np.result_type(*map(np.min_scalar_type, (array.min(), array.max()))) if array.size else array.dtype


def _smaller(path: Path) -> bytes:
    """The picture with few colours, a quarter of its size."""
    from PIL import Image

    stream = io.BytesIO()
    with Image.open(require_file(path, "picture")) as picture:
        picture.convert("RGB").quantize(COLOURS).save(stream, format="PNG", optimize=True)
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
        files |= {f"{run}/run.json": str(text).encode() for run, text in dict(records).items()}
    for name in files:
        parts = PurePosixPath(name)
        if parts.is_absolute() or ".." in parts.parts or "\\" in name or not parts.suffix:
            raise UserError(f"archive {path}: names {name!r}, which is not a file below its folder; fetch it again")
    return files


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """A zip file to read from; a `UserError` where it turns out to be damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, OSError, ValueError, TypeError, NotImplementedError, RuntimeError, EOFError) as error:
        raise UserError(f"archive {path}: cannot be read ({error}); fetch it again") from None


def portable(values: Mapping[str, Any]) -> str:
    """A study's configuration as JSON, without this machine's folders, which nobody needs who only reads its results.

    >>> portable({"name": "demo", "data_root": "/home/me/data"})
    '{"name": "demo", "data_root": "unpacked", "semantics_root": "unpacked"}'
    """
    return json.dumps({**values, "data_root": "unpacked", "semantics_root": "unpacked"})
