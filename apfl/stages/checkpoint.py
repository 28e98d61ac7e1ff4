"""Everything that the rest of an interrupted run depends on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from apfl.errors import UserError
from apfl.federation.asynchronous import AsyncRound
from apfl.federation.synchronous import Round
from apfl.storage.files import digest
from apfl.storage.run_folder import Record
from apfl.storage.tensors import flatten, number_keys, read_tensors, text_keys, unflatten, write_tensors

CHECKPOINT = "checkpoint.safetensors"


def write_checkpoint(path: Path, now: Round, saved: dict[str, Tensor], header: Mapping[str, Any]) -> None:
    """Everything that the rest of a run depends on: the round, and what the run has kept for later stages."""
    tree = {"state": now.state, "latest": text_keys(now.latest), "saved": unflatten(saved)}
    fields: dict[str, Any] = {"round": now.round}
    if isinstance(now, AsyncRound):
        tree["versions"] = text_keys(now.versions)
        fields |= {"time": now.time, "version": now.version, "versions": list(now.versions)}
        fields |= {"sent_version": text_keys(now.sent_version)}
    write_tensors(path, flatten(tree), {**header, **fields})


def asked(record: Record) -> str:
    """A digest of what a run is asked for: its specification and the contents of its inputs."""
    return digest([record.specification, record.inputs])


def read_checkpoint(path: Path, record: Record, device: str) -> tuple[Round, dict[str, Tensor], dict[str, Any]] | None:
    """The round to go on from, the states kept so far and the header; None if there is none, if it is of another
    configuration or made by other code, or if it is damaged."""
    if not path.exists():
        return None
    try:
        tensors, header = read_tensors(path, "checkpoint", device)
    except UserError as error:
        print(f"{error}: starting again")
        return None
    if header.get("asked") != asked(record):
        print(f"checkpoint {path}: of another configuration; starting again")
        return None
    if header.get("code") != record.code:
        print(f"{path}: made by other code; starting again")
        return None
    try:
        return _restored(tensors, header)
    except (AttributeError, KeyError, TypeError, ValueError):
        print(f"checkpoint {path}: is not what a run leaves: starting again")
        return None


def _restored(tensors: Mapping[str, Tensor], header: dict[str, Any]) -> tuple[Round, dict[str, Tensor], dict[str, Any]]:
    tree = unflatten(tensors)
    now = Round(header["round"], tree.get("state", {}), number_keys(tree.get("latest", {})))
    if "version" in header:
        now = AsyncRound(
            now.round,
            now.state,
            now.latest,
            time=header["time"],
            version=header["version"],
            # A method that shares nothing (Local) has versions without a tensor.
            versions={version: tree.get("versions", {}).get(str(version), {}) for version in header["versions"]},
            sent_version=number_keys(header["sent_version"]),
        )
    return now, flatten(tree.get("saved", {})), header
