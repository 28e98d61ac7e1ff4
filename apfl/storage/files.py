"""Files: written atomically, read strictly, never pickled, with provenance.

Formats are npz without pickle, safetensors, Parquet and JSON. A file is first written beside its final place and then
renamed, so that a reader sees the old file or the new one and never a part of one.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np

from apfl.errors import UserError
from apfl.storage.locks import open_part

MOST_BYTES = 16 << 30
"""More than any artefact holds: a small file can unpack to more than fits into memory."""
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``; on success it becomes ``path``, on failure it is removed."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = open_part(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; choose another output folder") from None
    try:
        yield temporary
        _sync(temporary)
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
        with suppress(OSError):  # so that a power cut keeps the order in which files were written, where folders can
            _sync(path.parent)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; free some space or choose another folder"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)
        os.close(handle)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@cache
def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text, whatever the order of their keys."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """The first 12 hexadecimal digits of the SHA-256 of the canonical JSON of ``value``."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:12]


def sha256_file(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, read in pieces."""
    try:
        with Path(path).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); correct the path or its rights") from None


def expanded(path: str | os.PathLike[str], where: str) -> str:
    """``path`` with the home folder in place of ~ and the values of environment variables in place of their names.

    `UserError`, naming ``where`` the path was given, for a user or a variable that there is not.
    """
    text = os.path.expanduser(os.path.expandvars(path))
    unknown = re.search(r"^~[^/]*|\$(\w+|\{\w+\})", text)
    if unknown and not os.path.lexists(text):
        raise UserError(f"{where} {path}: there is nothing that {unknown[0]} stands for; write the whole path")
    return text


def require_file(path: str | os.PathLike[str], what: str) -> Path:
    """``path`` if a file is there; otherwise a `UserError` that names it."""
    path = Path(path)
    try:
        if not path.is_file():
            problem = "is a folder, not a file" if path.is_dir() else "no such file"
            raise UserError(f"{what} {path}: {problem}; make it first, or correct the path")
    except OSError as error:
        raise UserError(f"{what} {path}: cannot be read ({error.strerror}); correct the path or its rights") from None
    return path


def require_output(path: str | os.PathLike[str], suffix: str | None = None) -> None:
    """A `UserError` unless ``path`` can be made: a folder, or with a ``suffix`` a file of that kind.

    What takes long asks this first, so that hours of work do not end at a folder that cannot be written to.
    """
    path = Path(path)
    try:
        if suffix is not None and (path.suffix != suffix or path.is_dir()):
            raise UserError(f"--out {path}: is not a file name; end it with {suffix}")
        folder = path if suffix is None else path.parent
        there = next(place for place in (folder, *folder.absolute().parents) if os.path.lexists(place))
        if not there.is_dir():
            raise UserError(f"--out {path}: {there} is not a folder; choose another output folder")
        if not os.access(there, os.W_OK | os.X_OK):
            raise UserError(f"--out {path}: nothing can be written to {there}; choose another output folder")
    except OSError as error:
        raise UserError(f"--out {path}: cannot be written ({error.strerror}); choose another output folder") from None


def write_text(path: str | os.PathLike[str], text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` as indented JSON with sorted keys."""
    write_text(path, json.dumps(value, sort_keys=True, indent=2, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike[str], what: str = "JSON file") -> Any:
    path = require_file(path, what)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise UserError(f"{what} {path}: not JSON ({first_line(error)}); make it again") from None


def read_record(path: str | os.PathLike[str], what: str = "run record") -> dict[str, Any]:
    """A JSON object, such as a run.json."""
    record = read_json(path, what)
    if not isinstance(record, dict):
        raise UserError(f"{what} {path}: holds no JSON object; remove it and run again")
    return record


def write_npz(path: str | os.PathLike[str], /, **arrays: np.ndarray) -> None:
    """Write arrays as a compressed npz whose bytes depend on the arrays alone (no time stamps, no pickle)."""
    with atomic_path(path) as temporary:
        put_npz(temporary, arrays, zipfile.ZIP_DEFLATED)


def put_npz(target: Path | IO[bytes], arrays: Mapping[str, np.ndarray], compression: int) -> None:
    """The same, into a file that is open or nobody else's, compressed as the constant of `zipfile` says."""
    with zipfile.ZipFile(target, "w", compression) as archive:
        for name in sorted(arrays):
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.asanyarray(arrays[name]), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), buffer.getvalue(), compression, 1)


def read_npz(
    path: str | os.PathLike[str], what: str, required: tuple[str, ...] = (), most: int = MOST_BYTES
) -> dict[str, np.ndarray]:
    """Every array of an npz file; a damaged file, more than ``most`` bytes, a pickle or a missing array is a
    `UserError`."""
    path = require_file(path, what)
    try:
        # The reader warns of old headers, and a mistake is to be one line.
        with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
            if size > most:
                raise ValueError(f"it says that it holds {size:,} bytes, more than {most:,}")
            arrays = {name.removesuffix(".npy"): _array(archive, name) for name in archive.namelist()}
    except Exception as error:  # the reader raises many kinds for damaged files
        raise UserError(f"{what} {path}: cannot be read ({first_line(error)}); make it again") from None
    if missing := [name for name in required if name not in arrays]:
        raise UserError(f"{what} {path}: has no array {missing[0]!r} (it has {sorted(arrays)}); make it again")
    return arrays


def json_in(array: np.ndarray, where: str) -> Any:
    """The value whose JSON an array of an npz is; a `UserError` that names ``where`` if it is none."""
    try:
        return json.loads(str(array))
    except (ValueError, RecursionError):
        raise UserError(f"{where} is not JSON; make it again") from None


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """One array of an npz; its header must say how long it is before memory is taken for it."""
    with archive.open(name) as member:
        version = np.lib.format.read_magic(member)
        if version not in HEADERS:
            raise ValueError(f"{name}: of format {version[0]}.{version[1]}")
        shape, _, kind = HEADERS[version](member)
        header = member.tell()
    size = math.prod(shape) * kind.itemsize
    if kind.hasobject or size != archive.getinfo(name).file_size - header:
        raise ValueError(f"{name}: its header says {kind} {[*shape]}, which is not what follows")
    with archive.open(name) as member:
        return np.lib.format.read_array(member, allow_pickle=False)


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its type if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
