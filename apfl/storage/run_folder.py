"""A run that is finished stays finished, whatever becomes of its files.

Snakemake removes the files of a job before it starts it, and when it has failed: of a job that makes several runs the
finished ones too, and those that were there before a seed was added to them. So the files of a finished run are also in
a folder within its own that no rule knows of (as hard links, where there are such), and whoever asks for the very same
run again gets them from there.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from filecmp import cmp
from pathlib import Path
from typing import Any

from apfl.errors import UserError
from apfl.storage.files import canonical_json, read_record, sha256_file, write_json
from apfl.storage.locks import remove_abandoned

KEPT = ".kept"
RECORD = "run.json"
ASKED = ("specification", "inputs", "code")
"""What two runs have in common if they are the same."""


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
        found = read_record(path)
        parts = {name: found.pop(name, {}) for name in ("specification", "inputs", "outputs")}
        parts = {name: part if isinstance(part, dict) else {} for name, part in parts.items()}
        return cls(found.pop("stage", ""), code=found.pop("code", ""), found=found, **parts)

    def json(self) -> dict[str, Any]:
        """The object that run.json holds."""
        parts = {name: value for name, value in vars(self).items() if name != "found"}
        return {**parts, **self.found}


def keep(out: Path, record: Mapping[str, Any]) -> None:
    """Keep the outputs in ``out`` and the record of a finished run, in place of those of an earlier one. Where that is
    impossible (a full disk) nothing is kept, and the run itself is as finished as it was."""
    kept = out / KEPT
    with suppress(OSError, UserError):
        if kept.exists():
            shutil.rmtree(kept)
        kept.mkdir()
        for name in record.get("outputs", ()):
            _link(out / name, kept / name)
        write_json(kept / RECORD, record)  # which says that all is there


def is_kept(out: Path) -> bool:
    """Whether the finished run in ``out`` is kept, and not an earlier one, or only a part."""
    kept = out / KEPT
    try:
        same = (kept / RECORD).read_bytes() == (out / RECORD).read_bytes()
        names = read_record(out / RECORD).get("outputs", ()) if same else ()
        return same and all((kept / name).samefile(out / name) or cmp(kept / name, out / name, False) for name in names)
    except OSError:
        return False


def restore(out: Path) -> None:
    """Put the run that is kept in the place of whatever is in ``out``; its record comes last."""
    (out / RECORD).unlink(missing_ok=True)
    remove_abandoned(out)
    for name in (*read_record(out / KEPT / RECORD).get("outputs", ()), RECORD):
        (out / name).unlink(missing_ok=True)
        _link(out / KEPT / name, out / name)
        os.utime(out / name)  # whoever compares times must not take it for older than its inputs


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except FileExistsError:  # another process was faster with the same file
        return
    except OSError:  # no links on this file system
        shutil.copy2(source, target)


def finished(folder: Path, record: Record) -> bool:
    """Whether ``folder`` holds this very run, whole, made by this very code from these very inputs; says so. A run that
    was, and is still kept, is put back."""
    fault = _fault(folder, record)
    if fault is not None:
        restored = _fault(folder / KEPT, record) is None
        if fault:
            print(f"{fault}; {'put back as it was kept' if restored else 'running again'}")
        if not restored:
            return False
        restore(folder)
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
    out: Path, record: Record, files: Mapping[str, Callable[[Path], None]], found: Callable[[], Mapping[str, Any]]
) -> None:
    """Write the files of a run, each by its own function, and then ``run.json`` with their SHA-256 and what is
    ``found``.

    Until then there is no ``run.json``, not even that of an earlier run, so new files and old ones are never taken for
    one run.
    """
    (out / RECORD).unlink(missing_ok=True)
    for name, write in files.items():
        write(out / name)
    outputs = {name: sha256_file(out / name) for name in files}
    done = replace(record, found=found(), outputs=outputs).json()
    keep(out, done)
    write_json(out / RECORD, done)
