"""Tensors as safetensors, with a header and a checksum."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from apfl.errors import UserError
from apfl.storage.files import atomic_path, canonical_json, first_line, require_file

if TYPE_CHECKING:
    import torch


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Tensor]:
    """A nested dictionary of tensors as one level, keys joined by slashes."""
    flat: dict[str, Tensor] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat |= {name: value} if isinstance(value, Tensor) else flatten(value, f"{name}/")
    return flat


def unflatten(flat: Mapping[str, Tensor]) -> dict[str, Any]:
    """The inverse of `flatten`.

    >>> unflatten(flatten({"a": {"b": torch.ones(1)}}))
    {'a': {'b': tensor([1.])}}
    """
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *path, leaf = name.split("/")
        node = tree
        for key in path:
            node = node.setdefault(key, {})
        node[leaf] = value
    return tree


def text_keys(by_number: Mapping[int, Any]) -> dict[str, Any]:
    return {str(number): value for number, value in by_number.items()}


def number_keys(by_text: Mapping[str, Any]) -> dict[int, Any]:
    return {int(text): value for text, value in by_text.items()}


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, torch.Tensor], header: Mapping[str, Any] | None = None
) -> None:
    """Write tensors as safetensors; ``header`` is kept as canonical JSON in the file's metadata, with a checksum.

    Metadata of more than one key would be written in any order, so that equal files had other bytes.
    """
    from safetensors.torch import save

    with atomic_path(path) as temporary:
        flat = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        fields = dict(header or {})
        fields["sha256"] = _checksum(flat, fields)
        # Not `save_file`, which writes to a temporary file of its own: after a kill nobody would remove that.
        temporary.write_bytes(save(flat, metadata={"header": canonical_json(fields)}))


def read_tensors(
    path: str | os.PathLike[str], what: str, device: str = "cpu"
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors and the header of a safetensors file; a `UserError` if they are not those that were written.

    Files of foreign methods have no checksum, and are taken as they are.
    """
    from safetensors import safe_open

    path = require_file(path, what)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            written = file.metadata() or {}
            header = json.loads(written.get("header", "{}"))
            tensors = {name: file.get_tensor(name) for name in list(file.keys())}
        # Only a file of another program may be without a checksum, not one whose word for it has changed.
        ours = written.keys() - {"format"}
        if not isinstance(header, dict) or (ours and header.pop("sha256", None) != _checksum(tensors, header)):
            raise ValueError("not what was written to it")
    except Exception as error:  # safetensors raises its own error type, json raises ValueError
        raise UserError(f"{what} {path}: cannot be read ({first_line(error)}); remove it and run again") from None
    return {name: tensor.to(device) for name, tensor in tensors.items()}, header


def _checksum(tensors: Mapping[str, torch.Tensor], header: Mapping[str, Any]) -> str:
    """The SHA-256 of tensors, their names, types and shapes, and of the header."""
    import torch

    total = hashlib.sha256(canonical_json(header).encode())
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tensor.dtype} {[*tensor.shape]}".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
    return total.hexdigest()
