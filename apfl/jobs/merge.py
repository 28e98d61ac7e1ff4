"""Results of several machines as one results folder: equal runs once, different ones under one name refused."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from apfl.errors import UserError
from apfl.jobs.archive import RECORDS, unpack
from apfl.jobs.paths import KINDS, RUNS
from apfl.storage.files import atomic_path, canonical_json, read_record, sha256_file
from apfl.storage.run_folder import ASKED, RECORD, Record, keep

READ_BY_RUNS = ("data", "semantics", "partition", "initial")
"""The kinds of files that runs start from. Tables, figures and pages are made anew from the merged runs."""
SAME = ("stage", *ASKED, "outputs")
"""What the records of equal runs have in common; where, when and how fast they were made may differ."""
Found = Mapping[str, Sequence[Path]]
"""By path below a results folder, the files of that path in the folders that have it, in their order."""


def merge(folders: Sequence[Path], out: Path) -> tuple[int, int]:
    """Copy the finished runs of results folders or archives, and the files that runs start from, into ``out``, which
    may hold results already; returns how many runs there are, and how many of them came more than once.

    Files are written in the order in which a study makes them, so that none is older than what it was made from. A
    `UserError`, before anything is written, if two folders hold different files or different runs under one name.
    """
    with ExitStack() as opened:
        given = [_results(folder, opened) for folder in folders]
        sources = [*([out] if out.is_dir() else []), *given]
        files = _found(sources, *(pattern for kind in READ_BY_RUNS for pattern in _patterns(kind)))
        choices = _found(sources, *_patterns("tune"))
        records = tuple(dict.fromkeys(f"{kind.path}/{RECORD}" for kind in RUNS.values()))
        runs = _found(sources, *records)
        for folder, source in zip(folders, given, strict=True):
            if not _found([source], *records):
                raise UserError(f"{folder}: no finished run; name folders of results, or archives")
        if differing := [*_differing({**files, **choices}, sha256_file), *_differing(runs, _said)]:
            more = f", and {len(differing) - 1} more" if len(differing) > 1 else ""
            raise UserError(
                f"{differing[0]}: not the same in all folders{more}; merge those apart, or remove one of them"
            )
        for path, places in files.items():
            _copy(places[0], out / path)
        for with_choice in (False, True):  # a choice is made from trials, and tuned runs are made with it
            for path, places in choices.items() if with_choice else ():
                _copy(places[0], out / path)
            for path in sorted(runs, key=lambda path: [*RUNS, ""].index(_stage(runs[path][0]))):
                if ("tuned" in Record.read(runs[path][0]).specification) == with_choice:
                    _copy_run([place.parent for place in runs[path]], (out / path).parent)
        return len(runs), sum(len(places) > 1 for places in runs.values())


def _results(folder: Path, opened: ExitStack) -> Path:
    """The folder itself, or a temporary one with what the archive in it holds."""
    if not (folder / RECORDS).is_file():
        return folder
    unpacked = Path(opened.enter_context(TemporaryDirectory()))
    unpack(folder, unpacked)
    return unpacked


def _patterns(kind: str) -> Iterator[str]:
    return iter(KINDS[kind].files.values() or (KINDS[kind].path,))


def _found(sources: Iterable[Path], *patterns: str) -> Found:
    found: dict[str, list[Path]] = {}
    for pattern in patterns:
        for source in sources:
            for place in sorted(source.glob(re.sub(r"\{\w+\}", "*", pattern))):
                found.setdefault(place.relative_to(source).as_posix(), []).append(place)
    return found


def _differing(found: Found, content: Callable[[Path], str]) -> list[str]:
    return [path for path, places in found.items() if len(set(map(content, places))) > 1]


def _stage(record: Path) -> str:
    stage = Record.read(record).stage
    return stage if stage in RUNS else ""


def _said(record: Path) -> str:
    found = Record.read(record)
    return canonical_json({name: getattr(found, name) for name in SAME})


def _copy_run(places: Sequence[Path], out: Path) -> None:
    """Each file of a run from the first folder that has it whole, or has it at all: archives need not have models. The
    record comes last, and a run with all its files is kept."""
    record, outputs = read_record(places[0] / RECORD), Record.read(places[0] / RECORD).outputs
    whole = True
    for name, sha256 in outputs.items():
        there = [place / name for place in places if (place / name).is_file()]
        same = [path for path in there if sha256_file(path) == sha256]
        whole = whole and bool(same)
        if there:
            _copy((same or there)[0], out / name)
    _copy(places[0] / RECORD, out / RECORD)
    if whole:
        keep(out, record)


def _copy(source: Path, target: Path) -> None:
    if source == target:
        target.touch()
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)
