"""A run that is finished stays finished, whatever becomes of its files.

Snakemake removes the files of a job before it starts it, and when it has failed: of a job that makes several runs the
finished ones too, and those that were there before a seed was added to them. So the files of a finished run are also in
a folder within its own that no rule knows of (as hard links, where there are such), and whoever asks for the very same
run again gets them from there.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from filecmp import cmp
from pathlib import Path
from typing import Any

from apfl.artifacts import read_record, write_json
from apfl.errors import UserError
from apfl.locks import remove_abandoned

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
