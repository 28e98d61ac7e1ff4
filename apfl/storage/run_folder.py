"""A run that is finished stays finished, whatever becomes of its files.

Snakemake removes the files of a job before it starts it, and when it has failed: of a job that makes several runs the
finished ones too, and those that were there before a seed was added to them. So the files of a finished run are also in
a folder within its own that no rule knows of (as hard links, where there are such), and whoever asks for the very same
run again gets them from there.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from filecmp import cmp
from pathlib import Path
from typing import Any

from apfl.errors import UserError
from apfl.storage.files import canonical_json, read_json, read_record, sha256_file, write_json
from apfl.storage.locks import remove_abandoned

KEPT = ".kept"
RECORD = "run.json"


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


def finished(folder: Path, record: Mapping[str, Any]) -> bool:
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


def _fault(folder: Path, record: Mapping[str, Any]) -> str | None:
    """What is wrong with this run in ``folder``; nothing to speak of ("") if it is another run or none; None if it is
    whole."""
    path = folder / RECORD
    if not path.is_file():
        return ""
    try:
        there = read_json(path, "run record")
    except UserError as error:
        return str(error)
    if not isinstance(there, dict) or any(
        canonical_json(there.get(name)) != canonical_json(record[name]) for name in ("specification", "inputs", "code")
    ):
        return ""
    outputs = there.get("outputs")
    for name, sha256 in outputs.items() if isinstance(outputs, dict) else [("outputs", "")]:
        if not (folder / name).is_file() or sha256_file(folder / name) != sha256:
            return f"{folder / name}: missing, or not as {path.name} says"
    return None


@contextmanager
def recorded(out: Path, record: dict[str, Any], *names: str) -> Iterator[None]:
    """Write the files ``names`` of a run within this context; afterwards ``run.json``, with their SHA-256, is written.

    Until then there is no ``run.json``, not even that of an earlier run, so new files and old ones are never taken for
    one run.
    """
    path = out / "run.json"
    path.unlink(missing_ok=True)
    yield
    record["outputs"] = {name: sha256_file(out / name) for name in names}
    keep(out, record)
    write_json(path, record)
