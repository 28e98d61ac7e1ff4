"""Everything that the rest of a run depends on: of an interrupted one, or of one that becomes longer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from apfl.engine.settings import TrainingConfig
from apfl.errors import UserError
from apfl.federation.asynchronous import AsyncRound
from apfl.federation.synchronous import Round
from apfl.registry.code import mentions, modules_of
from apfl.stages.specification import configure
from apfl.storage.files import digest
from apfl.storage.run_folder import RECORD, Record
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


def can_go_on(record: Record) -> bool:
    """Whether the first rounds of a run are the same in a longer one, so that this may start from its last state.

    They are in synchronous rounds, unless a trace of fixed length times them, or the method's code asks how many rounds
    there will be. An asynchronous federation ends with uploads under way.
    """
    schedule: Mapping[str, Any] = record.specification.get("schedule") or {}
    if schedule and (schedule.get("mode") != "sync" or schedule.get("trace")):
        return False
    return not mentions("rounds", modules_of(record.stage, record.specification["module"])[-1])


def read_last_state(
    folders: Iterable[Path], record: Record, training: TrainingConfig, device: str
) -> tuple[Round, dict[str, Tensor], dict[str, Any]] | None:
    """What `read_checkpoint` returns, of the longest of the finished runs in ``folders`` that is no longer than this
    one and looked at all of its rounds so far; the rounds that only that run looked at are left out. None if there is
    none."""
    for folder in sorted(folders, key=lambda one: -_training(one).rounds):
        there = _training(folder)
        looked = there.evaluate_rounds, there.save_rounds
        wanted = training.evaluate_rounds, training.save_rounds
        early = ({number for number in rounds if number <= there.rounds} for rounds in wanted)
        if there.rounds > training.rounds or not all(map(set.issuperset, map(set, looked), early)):
            continue
        finished = Record.read(folder / RECORD)
        if (found := read_checkpoint(folder / CHECKPOINT, finished, device)) is None:
            continue
        now, saved, header = found
        print(f"goes on from round {now.round} of a finished run")
        rows = [row for row in header["rows"] if row["round"] in training.evaluate_rounds]
        kept = {f"round{number}" for number in training.save_rounds}
        saved = {name: value for name, value in saved.items() if name.partition("/")[0] in kept}
        return now, saved, {"rows": rows, "seconds": finished.found.get("seconds", 0.0)}
    return None


def _training(folder: Path) -> TrainingConfig:
    specification = Record.read(folder / RECORD).specification
    return configure(TrainingConfig, specification["training"], "training")


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
