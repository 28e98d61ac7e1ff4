"""A run that is finished stays finished, whatever becomes of its files.

Snakemake removes the files of a job before it starts it, and when it has failed: of a job that makes several runs the
finished ones too, and those that were there before a seed was added to them. So the files of a finished run are also in
a folder within its own that no rule knows of (as hard links, where there are such), and whoever asks for the very same
run again gets them from there. When the run becomes longer, the shorter one goes on to be there (`EARLIER`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from filecmp import cmp
from pathlib import Path
from typing import Any

from apfl.errors import UserError
from apfl.storage.files import canonical_json, read_record, sha256_file, write_json
from apfl.storage.locks import remove_abandoned
from apfl.storage.store import ASKED, RECORD, identity_of, line_of, link, place_of, put, runs_of_line

__all__ = ["ASKED", "KEPT", "RECORD", "Record", "finished", "is_kept", "keep", "relatives", "restore", "write_run"]
KEPT = ".kept"
EARLIER = ".earlier"


@dataclass(frozen=True)
class Record:
    """What a run.json says: what a stage was asked for, the SHA-256 of its inputs and the digest of its code; once the
    run is made, what was ``found``, by key, and the SHA-256 of its outputs."""

    stage: str
    specification: Mapping[str, Any]
    inputs: Mapping[str, str]
    code: str
    found: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Record:
        """The run.json at ``path``, of any version of the suite; what it lacks, or has of another kind, is empty. A
        `UserError` if it is not a JSON object."""
        return cls.parse(read_record(path))

    @classmethod
    def parse(cls, found: dict[str, Any]) -> Record:
        """The object of a run.json, as `read` has it."""
        found = dict(found)
        parts = {name: found.pop(name, {}) for name in ("specification", "inputs", "outputs")}
        parts = {name: part if isinstance(part, dict) else {} for name, part in parts.items()}
        return cls(found.pop("stage", ""), code=found.pop("code", ""), found=found, **parts)

    def json(self) -> dict[str, Any]:
        """The object that run.json holds."""
        parts = {name: value for name, value in vars(self).items() if name != "found"}
        return {**parts, **self.found}


def keep(out: Path, record: Mapping[str, Any], beside: Sequence[Path] = ()) -> None:
    """Keep the outputs in ``out`` and the record of a finished run, with files that belong ``beside`` them, in place of
    those of another run; a shorter or longer one of the same line is kept as an earlier one. Where that is impossible
    (a full disk) nothing is kept, and the run itself is as finished as it was."""
    kept = out / KEPT
    with suppress(OSError, UserError):
        if _there(kept) and not _is_of(kept, record, identity_of):
            _set_aside(out, record)
        kept.mkdir(exist_ok=True)
        remove_abandoned(kept)
        for name in record.get("outputs", {}):
            (kept / name).unlink(missing_ok=True)
            link(out / name, kept / name)
        for path in beside:
            part = kept / f".{path.name}.{os.getpid()}.part"
            with suppress(FileNotFoundError):  # another process has just finished the same run, and kept its own
                link(path, part)
                part.replace(kept / path.name)
                part.unlink(missing_ok=True)  # a rename to another name of the same file leaves both
        write_json(kept / RECORD, record)  # which says that all is there


def _there(kept: Path) -> dict[str, Any]:
    """The record of the run that is kept; empty if there is none, or a damaged one."""
    try:
        return read_record(kept / RECORD) if (kept / RECORD).is_file() else {}
    except (OSError, UserError):
        return {}


def _is_of(kept: Path, record: Mapping[str, Any], what: Callable[[Mapping[str, Any]], str]) -> bool:
    there = _there(kept)
    return bool(there) and what(there) == what(record)


def _set_aside(out: Path, record: Mapping[str, Any]) -> None:
    """Make room for the run of a ``record``: what was kept becomes an earlier run if it is of the same line."""
    kept = out / KEPT
    if _is_of(kept, record, line_of):
        put(out / EARLIER, kept)
    else:
        shutil.rmtree(out / EARLIER, ignore_errors=True)
    shutil.rmtree(kept)


def relatives(out: Path, record: Record, store: Path | None = None) -> list[Path]:
    """Folders of finished runs that differ from ``record`` in their rounds at most, and of what is kept with them."""
    asked, kept = record.json(), out / KEPT
    here = [kept] if _is_of(kept, asked, line_of) else []
    return here + [path for root in (out / EARLIER, store) if root for path in runs_of_line(root, asked)]


def is_kept(out: Path) -> bool:
    """Whether the finished run in ``out`` is kept, and not an earlier one, or only a part."""
    kept = out / KEPT
    try:
        same = (kept / RECORD).read_bytes() == (out / RECORD).read_bytes()
        names = read_record(out / RECORD).get("outputs", ()) if same else ()
        return same and all((kept / name).samefile(out / name) or cmp(kept / name, out / name, False) for name in names)
    except OSError:
        return False


def restore(out: Path, source: Path | None = None) -> None:
    """Put the run that is kept in ``source`` in the place of whatever is in ``out``; its record comes last."""
    source = source or out / KEPT
    out.mkdir(parents=True, exist_ok=True)
    (out / RECORD).unlink(missing_ok=True)
    remove_abandoned(out)
    record = read_record(source / RECORD)
    for name in (*record.get("outputs", ()), RECORD):
        (out / name).unlink(missing_ok=True)
        link(source / name, out / name)
        os.utime(out / name)  # whoever compares times must not take it for older than its inputs
    if source != out / KEPT:
        others = {*os.listdir(source)} - {*record.get("outputs", ()), RECORD}
        keep(out, record, [source / name for name in sorted(others)])


def finished(folder: Path, record: Record, store: Path | None = None) -> bool:
    """Whether ``folder`` holds this very run, whole, made by this very code from these very inputs; says so. A run that
    was, and is still kept here or in a ``store``, is put back."""
    fault = _fault(folder, record)
    if fault is not None:
        roots = [root for root in (folder / EARLIER, store) if root]
        places = [folder / KEPT, *(place_of(root, record.json()) for root in roots)]
        source = next((place for place in places if _fault(place, record) is None), None)
        if fault:
            print(f"{fault}; {'put back as it was kept' if source else 'running again'}")
        if source is None:
            return False
        restore(folder, source)
    elif not is_kept(folder):  # it is older than this habit, or what was kept is damaged
        keep(folder, read_record(folder / RECORD))
    print(f"{folder}: finished already, nothing to do")
    return True


def _fault(folder: Path, record: Record) -> str | None:
    """What is wrong with this run in ``folder``; nothing to speak of ("") if it is another run or none; None if it is
    whole."""
    path = folder / RECORD
    if not path.is_file():
        return ""
    try:
        there = Record.read(path)
    except UserError as error:
        return str(error)
    if any(canonical_json(getattr(there, name)) != canonical_json(getattr(record, name)) for name in ASKED):
        return ""
    for name, sha256 in (there.outputs or {"outputs": ""}).items():
        if not (folder / name).is_file() or sha256_file(folder / name) != sha256:
            return f"{folder / name}: missing, or not as {path.name} says"
    return None


def write_run(
    out: Path, record: Record, files: Mapping[str, Callable[[Path], None]], found: Callable[[], Mapping[str, Any]],
    beside: Sequence[Path] = (), store: Path | None = None,
) -> None:  # fmt: skip
    """Write the files of a run, each by its own function, and then ``run.json`` with their SHA-256 and what is
    ``found``. The run is kept, with the files that are to be ``beside`` it, and in a ``store`` too if there is one.

    Until then there is no ``run.json``, not even that of an earlier run, so new files and old ones are never taken for
    one run.
    """
    (out / RECORD).unlink(missing_ok=True)
    for name, write in files.items():
        write(out / name)
    outputs = {name: sha256_file(out / name) for name in files}
    done = replace(record, found=found(), outputs=outputs).json()
    keep(out, done, beside)
    write_json(out / RECORD, done)
    if store:
        put(store, out / KEPT)
