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


def lock(handle: int, wait: bool = True) -> bool:
    """Whether the open file is locked now; False if another process holds it and we do not wait, or if there are no
    locks here."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


def busy(handle: int) -> bool:
    """Whether another process holds the lock; afterwards it is ours if it was free."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def open_part(path: Path) -> tuple[int, Path]:
    """A new file beside ``path`` to be written and renamed to it, locked for as long as the handle is open."""
    remove_abandoned(path.parent, path.name)
    while True:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        lock(handle)
        # Before it was locked, another process may have taken it for abandoned.
        if os.fstat(handle).st_nlink:
            return handle, Path(name)
        os.close(handle)


def remove_abandoned(folder: Path, name: str | None = None) -> None:
    """Remove what killed processes left half written in ``folder``, of the file ``name`` or of all."""
    for part in folder.glob(f".{'*' if name is None else glob.escape(name)}.*.part"):
        with suppress(OSError):
            handle = os.open(part, os.O_RDWR)
            try:
                if lock(handle, wait=False):
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
        if busy(handle):
            print(f"{folder}: another process is at work here; waiting for it to end", flush=True)
            lock(handle)
        remove_abandoned(folder)
        yield
    except UserError:
        if new:
            with suppress(OSError):  # it holds something
                folder.rmdir()
        raise
    finally:
        os.close(handle)
