"""Files: written atomically, read strictly, never pickled, with provenance.

Formats are npz without pickle, safetensors, Parquet and JSON. A file is first written beside its final place and then
renamed, so that a reader sees the old file or the new one and never a part of one.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from apfl.errors import UserError

if TYPE_CHECKING:
    import pandas as pd
    import torch

PACKAGES = ("numpy", "torch", "torchvision", "pandas", "pyarrow", "scikit-learn", "safetensors", "snakemake")


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``; on success it becomes ``path``, on failure it is removed."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; choose another output folder") from None
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; free some space or choose another folder"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)


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


def sha256_file(path: str | os.PathLike) -> str:
    """The SHA-256 of a file, read in pieces."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def require_file(path: str | os.PathLike, what: str) -> Path:
    """``path`` if a file is there; otherwise a `UserError` that names it."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{what} {path}: no such file; make it first, or correct the path")
    return path


def write_text(path: str | os.PathLike, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write ``value`` as indented JSON with sorted keys."""
    write_text(path, json.dumps(value, sort_keys=True, indent=2, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike, what: str = "JSON file") -> Any:
    path = require_file(path, what)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{what} {path}: not JSON ({error}); make it again") from None


def write_npz(path: str | os.PathLike, **arrays: np.ndarray) -> None:
    """Write arrays as a compressed npz whose bytes depend on the arrays alone (no time stamps, no pickle)."""
    with (
        atomic_path(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
    ):
        for name in sorted(arrays):
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.asanyarray(arrays[name]), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), buffer.getvalue(), zipfile.ZIP_DEFLATED, 1)


def read_npz(path: str | os.PathLike, what: str, required: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """Every array of an npz file; a damaged file, a pickle in it or a missing array is a `UserError`."""
    path = require_file(path, what)
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except Exception as error:  # the reader raises many kinds for damaged files
        raise UserError(f"{what} {path}: cannot be read ({_first_line(error)}); make it again") from None
    if missing := [name for name in required if name not in arrays]:
        raise UserError(f"{what} {path}: has no array {missing[0]!r} (it has {sorted(arrays)}); make it again")
    return arrays


def write_tensors(
    path: str | os.PathLike, tensors: Mapping[str, torch.Tensor], header: Mapping[str, Any] | None = None
) -> None:
    """Write tensors as safetensors; ``header`` is kept as canonical JSON in the file's metadata."""
    from safetensors.torch import save_file

    with atomic_path(path) as temporary:
        flat = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        save_file(flat, temporary, metadata={"header": canonical_json(dict(header or {}))})


def read_tensors(
    path: str | os.PathLike, what: str, device: str = "cpu"
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors and the header of a safetensors file."""
    from safetensors import safe_open

    path = require_file(path, what)
    try:
        with safe_open(path, framework="pt", device=device) as file:
            header = json.loads((file.metadata() or {}).get("header", "{}"))
            names = list(file.keys())
            return {name: file.get_tensor(name) for name in names}, header
    except Exception as error:  # safetensors raises its own error type, json raises ValueError
        raise UserError(f"{what} {path}: cannot be read ({_first_line(error)}); remove it and run again") from None


def write_parquet(path: str | os.PathLike, frame: pd.DataFrame) -> None:
    with atomic_path(path) as temporary:
        frame.to_parquet(temporary, index=False, compression="zstd")


def read_parquet(path: str | os.PathLike, what: str, columns: tuple[str, ...] = ()) -> pd.DataFrame:
    import pandas as pd

    path = require_file(path, what)
    try:
        frame = pd.read_parquet(path)
    except Exception as error:  # pyarrow raises many kinds for damaged files
        raise UserError(f"{what} {path}: cannot be read ({_first_line(error)}); make it again") from None
    if missing := [name for name in columns if name not in frame.columns]:
        raise UserError(f"{what} {path}: has no column {missing[0]!r}; make it again")
    return frame


def provenance() -> dict[str, Any]:
    """What made an artefact: the commit (and whether the tree was clean), versions, and the machine."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "commit": _git("rev-parse", "HEAD"),
        "clean": _git("status", "--porcelain", "--untracked-files=no") == "",
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions,
    }


@cache
def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
