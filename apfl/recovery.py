"""What a killed Snakemake and a clock set back leave behind, so that the same command goes on without more ado."""

from __future__ import annotations

import fcntl
import os
import platform
import time
from contextlib import suppress
from pathlib import Path

from apfl.locks import busy


def clear_stale_locks(state: str | os.PathLike = ".snakemake") -> None:
    """Remove the locks that a killed Snakemake left below ``state``, and keep others from doing so while we live.

    Whoever is alive shares a lock of the kernel on ``state/host``, which names the machine; who can have it alone is
    the only one. Another machine's locks stay, as the kernel's may not reach it: `snakemake --unlock` removes them.
    """
    name, state = platform.node(), Path(state)
    with suppress(OSError):  # a folder that cannot be written, or a file system without locks
        state.mkdir(exist_ok=True)
        handle = os.open(state / "host", os.O_RDWR | os.O_CREAT, 0o666)
        if not busy(handle):
            stale = list((state / "locks").glob("*.lock"))
            if not stale or os.pread(handle, 4096, 0).decode(errors="replace") == name:
                os.truncate(handle, 0)
                os.pwrite(handle, name.encode(), 0)
                for path in stale:
                    path.unlink(missing_ok=True)
        fcntl.flock(handle, fcntl.LOCK_SH)


def date_back(folder: str | os.PathLike = "results", now: float | None = None) -> int:
    """Give files below ``folder`` that were changed in the future the present time; returns how many there were.

    A clock was set back since. Snakemake throws the output of a job away that is older than the job's input.
    """
    latest, found = time.time() if now is None else now, 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # it is gone by now, or somebody else's
                path = os.path.join(place, name)
                if os.lstat(path).st_mtime > latest:
                    os.utime(path, (latest, latest), follow_symlinks=False)
                    found += 1
    return found
