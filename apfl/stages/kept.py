"""A job that makes several runs keeps those that it has finished.

When a job fails or is killed, Snakemake removes all that it was to make, finished runs too. So until the whole job has
ended, the files of a finished run are also in a folder within its own that no rule knows of (as hard links, where there
are such), and the next attempt takes them from there.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from apfl.artifacts import read_record

KEPT = ".kept"
RECORD = "run.json"


def restore(out: Path) -> None:
    """Put back what of a finished run is kept and no longer there; its record comes last."""
    for kept in sorted((out / KEPT).glob("*"), key=lambda path: path.name == RECORD):
        with suppress(FileExistsError):
            _link(kept, out / kept.name)
            os.utime(out / kept.name)  # whoever compares times must not take it for older than its inputs


def keep(out: Path) -> None:
    """Keep the files of the finished run in ``out``."""
    release([out])
    (out / KEPT).mkdir()
    for name in (*read_record(out / RECORD).get("outputs", ()), RECORD):
        _link(out / name, out / KEPT / name)


def release(folders: Iterable[Path]) -> None:
    """Keep nothing of these runs any longer; the runs themselves stay."""
    for out in folders:
        shutil.rmtree(out / KEPT, ignore_errors=True)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:  # no links on this file system
        shutil.copy2(source, target)
