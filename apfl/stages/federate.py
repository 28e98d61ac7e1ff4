"""``apfl federate``: a federated run of any method, with metrics, the states later stages need, and exact
resumption."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from apfl.artifacts import (
    digest,
    provenance,
    read_record,
    read_tensors,
    write_parquet,
    write_tensors,
)
from apfl.asynchronous import AsyncRound, check_schedule, payload, run_clock, staleness_of
from apfl.clock import Schedule, Timeline, plan
from apfl.errors import UserError
from apfl.evaluation import evaluate, headline, metrics_frame
from apfl.federation import BaseModels, CarryOut, Method, Problem, Round, run, run_all
from apfl.locks import alone_in
from apfl.nets import Params
from apfl.stages.inputs import Inputs, check_specification, configure, finished, load_problem, method_of
from apfl.stages.record import Company, Stopwatch, identity, recorded, run_record
from apfl.training import Diverged

CHECKPOINT = "checkpoint.safetensors"


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


def saved_models(now: Round, method: Method, problem: Problem) -> dict[str, Tensor]:
    """What later stages read of a round: the global model, the last local models and how stale each is."""
    models = method.client_models(now.state, problem, now.latest)
    tree: dict[str, Any] = {"local": {str(client): params for client, params in now.latest.items()}}
    if isinstance(shared := models.get("global"), dict) and not any(isinstance(key, int) for key in shared):
        tree["global"] = shared
    if isinstance(now, AsyncRound):
        tree["staleness"] = {str(client): torch.tensor(tau) for client, tau in staleness_of(now).items()}
    return flatten({f"round{now.round}": tree})


def base_diverged(folder: Path) -> bool:
    """Whether the run in ``folder``, or what it started from, diverged: nothing can be made of it then."""
    return read_record(folder / "run.json").get("status") == "diverged"


def load_base(
    folder: Path, rounds: tuple[int, ...], device: torch.device, like: Params | None = None
) -> dict[int, BaseModels]:
    """The models that a federated run kept of these rounds; a `UserError` if they are not ``like`` the network's."""
    path = folder / "state.safetensors"
    tensors, _ = read_tensors(path, "run state", str(device))
    bases = {}
    try:
        tree = unflatten(tensors)
    except (AttributeError, TypeError):
        raise UserError(f"{path}: holds no models by round; make the run again") from None
    for number in rounds:
        saved = tree.get(f"round{number}")
        if not isinstance(saved, dict):
            kept = ", ".join(sorted(name.removeprefix("round") for name in tree)) or "none"
            raise UserError(f"rounds {number}: not kept in {path} (it has {kept}); name it in training.save_rounds")
        if "global" not in saved:
            raise UserError(f"base {folder}: its method has no global model to start from; choose another base")
        try:
            local = _number_keys(saved.get("local", {}))
            staleness = {int(client): int(tau) for client, tau in saved.get("staleness", {}).items()}
        except (AttributeError, TypeError, ValueError):
            raise UserError(f"{path}: its models of round {number} are not by client; make the run again") from None
        for params in (saved["global"], *local.values()) if like is not None else ():
            _check_network(params, like, path)
        bases[number] = BaseModels(saved["global"], local, staleness)
    return bases


def _check_network(params: Params, like: Params, path: Path) -> None:
    # What is no parameter at all, such as a branch where a leaf should be, has no shape.
    shapes = [
        {name: [*getattr(value, "shape", "?")] for name, value in one.items()} if isinstance(one, dict) else {}
        for one in (params, like)
    ]
    if shapes[0] != shapes[1]:
        name = min(name for name in {*shapes[0], *shapes[1]} if shapes[0].get(name) != shapes[1].get(name))
        there, here = (one.get(name, "absent") for one in shapes)
        raise UserError(
            f"{path}: is of another network: {name} is {there} there and {here} in this one; give that network"
        )


def write_checkpoint(path: Path, now: Round, saved: dict[str, Tensor], header: Mapping[str, Any]) -> None:
    """Everything that the rest of a run depends on: the round, and what the run has kept for later stages."""
    tree = {"state": now.state, "latest": _text_keys(now.latest), "saved": unflatten(saved)}
    fields = {"round": now.round}
    if isinstance(now, AsyncRound):
        tree["versions"] = _text_keys(now.versions)
        fields |= {"time": now.time, "version": now.version, "versions": list(now.versions)}
        fields |= {"sent_version": _text_keys(now.sent_version)}
    write_tensors(path, flatten(tree), {**header, **fields})


def asked(record: Mapping[str, Any]) -> str:
    """A digest of what a run is asked for: its specification and the contents of its inputs."""
    return digest([record["specification"], record["inputs"]])


def read_checkpoint(
    path: Path, record: Mapping[str, Any], device: str
) -> tuple[Round, dict[str, Tensor], dict[str, Any]] | None:
    """The round to go on from, the states kept so far and the header; None if there is none, if other code made it, or
    if it is damaged."""
    if not path.exists():
        return None
    try:
        tensors, header = read_tensors(path, "checkpoint", device)
    except UserError as error:
        print(f"{error}: starting again")
        return None
    if header.get("asked") != asked(record):
        raise UserError(f"checkpoint {path}: of another configuration; remove it to start again, or restore that one")
    if header.get("code") != record["code"]:
        print(f"{path}: made by other code; starting again")
        return None
    try:
        return _restored(tensors, header)
    except (AttributeError, KeyError, TypeError, ValueError):
        print(f"checkpoint {path}: is not what a run leaves: starting again")
        return None


def _restored(tensors: Mapping[str, Tensor], header: dict[str, Any]) -> tuple[Round, dict[str, Tensor], dict[str, Any]]:
    tree = unflatten(tensors)
    now = Round(header["round"], tree.get("state", {}), _number_keys(tree.get("latest", {})))
    if "version" in header:
        now = AsyncRound(
            now.round,
            now.state,
            now.latest,
            time=header["time"],
            version=header["version"],
            # A method that shares nothing (Local) has versions without a tensor.
            versions={version: tree.get("versions", {}).get(str(version), {}) for version in header["versions"]},
            sent_version=_number_keys(header["sent_version"]),
        )
    return now, flatten(tree.get("saved", {})), header


def _text_keys(by_number: Mapping[int, Any]) -> dict[str, Any]:
    return {str(number): value for number, value in by_number.items()}


def _number_keys(by_text: Mapping[str, Any]) -> dict[int, Any]:
    return {int(text): value for text, value in by_text.items()}


def federate(
    specification: Mapping[str, Any],
    inputs: Inputs,
    out: Path,
    device: str = "auto",
    carry_out: CarryOut = run_all,
    company: Company | None = None,
) -> dict[str, Any]:
    """Run a method and write ``metrics.parquet``, ``state.safetensors`` and ``run.json`` to ``out``; returns the
    record.

    A finished run is not repeated; an interrupted one goes on from its last checkpoint and ends in the same bits.
    ``carry_out`` is what trains; the ``company`` of other runs shares it, and the time that it takes.
    """
    check_specification(specification, "method", "module")
    method = method_of(specification)
    record = run_record("federate", specification, inputs)
    if finished(out, record):
        with suppress(OSError):  # left by a process that was killed just before it would have removed it
            (out / CHECKPOINT).unlink()
        return record
    if not isinstance(method, Method):
        raise UserError(f"method {specification['module']!r}: is derived from another one; use `apfl personalize`")
    problem = load_problem(specification, inputs, device)
    for need in method.needs:
        if getattr(problem, need) is None:
            raise UserError(f"method {specification['module']!r}: needs --{need}; give its path")
    schedule, timeline = scheduled(specification, method, problem)
    with alone_in(out):
        if not finished(out, record):  # by the process that was waited for
            watch = Stopwatch(company)
            try:
                _carry_out(method, problem, schedule, timeline, record, out, carry_out, watch)
            finally:
                watch.stop()
    return record


def _carry_out(
    method: Method, problem: Problem, schedule: Schedule | None, timeline: Timeline | None, record: dict[str, Any],
    out: Path, carry_out: CarryOut, watch: Stopwatch,
) -> None:  # fmt: skip
    """Train from the start or from the last checkpoint, and write the run; ``record`` is completed."""
    specification, checkpoint, status = record["specification"], out / CHECKPOINT, "finished"
    restored = read_checkpoint(checkpoint, record, str(problem.engine.device))
    start, saved, header = restored or (None, {}, {"rows": [], "seconds": 0.0})
    rows, earlier = header["rows"], header["seconds"]
    try:
        rounds = run(method, problem, start, carry_out)
        if schedule:
            rounds = run_clock(method, problem, schedule, timeline, start, carry_out)
        for now in _evaluated(method, problem, rounds, rows, saved):
            _print_round(method, problem, now, rows, watch, first=start.round if start else 0)
            if now.round % problem.training.checkpoint_every == 0 and 0 < now.round < problem.training.rounds:
                fields = {"asked": asked(record), "code": record["code"], "rows": rows}
                write_checkpoint(checkpoint, now, saved, fields | {"seconds": earlier + watch.seconds})
    except Diverged as error:
        status = "diverged"
        print(
            f"{specification['method']}: {error}; lower training.learning_rate or change the method's hyper-parameters"
        )
    with recorded(out, record, "metrics.parquet", "state.safetensors"):
        write_parquet(out / "metrics.parquet", metrics_frame(rows, **identity(specification)))
        write_tensors(out / "state.safetensors", saved, {"specification": digest(specification)})
        record |= {"payload": payload(method, method.init(problem))}
        if schedule:
            record |= {"timeline": timeline_record(timeline)}
        record |= {"status": status, "seconds": round(earlier + watch.seconds, 3)}
        record |= {**watch.usage(problem), **provenance()}
    checkpoint.unlink(missing_ok=True)


def scheduled(
    specification: Mapping[str, Any], method: Method, problem: Problem
) -> tuple[Schedule, Timeline] | tuple[None, None]:
    """The schedule that the specification names and its course of events; nothing if rounds are simply synchronous."""
    if "schedule" not in specification:
        return None, None
    schedule = configure(Schedule, specification["schedule"], "schedule")
    check_schedule(method, schedule, method.init(problem))
    return schedule, plan(schedule, method.clients(problem), problem.training.rounds, problem.seed)


def timeline_record(timeline: Timeline) -> dict[str, Any]:
    """The uploads of a timeline as a small table, for run.json."""
    columns = ("client", "cycle", "start", "time", "started", "version", "fate")
    return {"columns": columns, "rows": [[getattr(one, name) for name in columns] for one in timeline.arrivals]}


def _evaluated(
    method: Method, problem: Problem, rounds: Iterable[Round], rows: list[dict[str, Any]], saved: dict[str, Tensor]
) -> Iterator[Round]:
    """The rounds, each evaluated and kept (into ``rows`` and ``saved``) if the study asks for it."""
    for now in rounds:
        if now.round in problem.training.evaluate_rounds:
            time_ = now.time if isinstance(now, AsyncRound) else float(now.round)
            here = evaluate(problem, method.client_models(now.state, problem, now.latest), now.round, time_)
            for row in here:  # a server's own training may diverge after the clients' did not
                if not math.isfinite(row["loss"]):
                    raise Diverged.of_client(now.round, row["client"], row["model"])
            rows.extend(here)
        if now.round in problem.training.save_rounds:
            saved.update(saved_models(now, method, problem))
        yield now


def _print_round(
    method: Method, problem: Problem, now: Round, rows: list[dict[str, Any]], watch: Stopwatch, first: int
) -> None:
    """One line a round: accuracy if it was measured, speed, and time left."""
    if now.round <= first:
        watch.lap()
        return
    seconds = watch.lap()
    samples = sum(result.samples for result in now.results)
    left = (problem.training.rounds - now.round) * watch.elapsed / (now.round - first)
    here = [row for row in rows if row["round"] == now.round]
    accuracy = f"  pooled {100 * headline(here, method.model):5.2f} %" if here else ""
    print(
        f"{method.title}, seed {problem.seed}: round {now.round}/{problem.training.rounds}{accuracy}"
        f"  {samples / max(seconds, 1e-9):,.0f} samples/s  {time.strftime('%H:%M:%S', time.gmtime(left))} left",
        flush=True,
    )
