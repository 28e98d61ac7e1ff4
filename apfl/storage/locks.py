"""Locks that end with their process: the kernel lets go of them, whatever ends it, so a kill leaves none behind.

Where a file system knows no such locks nothing is locked, and files are still whole, as each is renamed into its place.
"""

from __future__ import annotations

import fcntl
import glob
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from apfl.errors import UserError


def busy(handle: int, shared: bool = False) -> bool:
    """Whether another process holds the lock; afterwards it is ours if it was free, perhaps ``shared`` with others.
    `OSError` if there are no locks."""
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def open_part(path: Path) -> tuple[int, Path]:
    """A new file beside ``path`` to be written and renamed to it, locked for as long as the handle is open."""
    remove_abandoned(path.parent, path.name)
    while True:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        try:
            with suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX)
            # Before it was locked, another process may have taken it for abandoned.
            if os.fstat(handle).st_nlink:
                return handle, Path(name)
        except BaseException:  # SIGTERM, for one, which ends the process as an exception
            os.unlink(name)
            raise
        os.close(handle)


def remove_abandoned(folder: Path, name: str | None = None) -> None:
    """Remove what killed processes left half written in ``folder``, of the file ``name`` or of all."""
    for part in folder.glob(f".{'*' if name is None else glob.escape(name)}.*.part"):
        with suppress(OSError):
            handle = os.open(part, os.O_RDWR)
            try:
                if not busy(handle):
                    part.unlink()
            finally:
                os.close(handle)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Be the only process at work in ``folder``, which is made if need be; wait until another one has ended.

    A folder that cannot be written is a `UserError`, before anything is computed for it.
    """
    new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}; choose another output folder") from None
    try:
        with suppress(OSError):
            if busy(handle):
                print(f"{folder}: another process is at work here; waiting for it to end", flush=True)
                fcntl.flock(handle, fcntl.LOCK_EX)
        remove_abandoned(folder)
        yield
    except UserError:
        if new:
            with suppress(OSError):  # it holds something
                folder.rmdir()
        raise
    finally:
        os.close(handle)
