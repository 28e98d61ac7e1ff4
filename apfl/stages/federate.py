"""``apfl federate``: a federated run of any method, with metrics, the states later stages need, and exact
resumption."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from apfl.artifacts import (
    digest,
    provenance,
    read_tensors,
    write_json,
    write_parquet,
    write_tensors,
)
from apfl.errors import UserError
from apfl.evaluation import evaluate, headline, metrics_frame
from apfl.federation import BaseModels, Method, Problem, Round, load_method, run
from apfl.stages.inputs import Inputs, finished, load_problem
from apfl.stages.record import Stopwatch, identity, run_record
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
    """What later stages read of a round: the global model and the last local models."""
    models = method.client_models(now.state, problem, now.latest)
    tree: dict[str, Any] = {"local": {str(client): params for client, params in now.latest.items()}}
    if isinstance(shared := models.get("global"), dict) and not any(isinstance(key, int) for key in shared):
        tree["global"] = shared
    return flatten({f"round{now.round}": tree})


def load_base(folder: Path, rounds: tuple[int, ...], device: torch.device) -> dict[int, BaseModels]:
    """The models that a federated run kept of these rounds."""
    path = folder / "state.safetensors"
    tensors, _ = read_tensors(path, "run state", str(device))
    tree = unflatten(tensors)
    bases = {}
    for number in rounds:
        saved = tree.get(f"round{number}")
        if saved is None:
            kept = ", ".join(sorted(name.removeprefix("round") for name in tree)) or "none"
            raise UserError(f"rounds {number}: not kept in {path} (it has {kept}); name it in training.save_rounds")
        if "global" not in saved:
            raise UserError(f"base {folder}: its method has no global model to start from; choose another base")
        local = {int(client): params for client, params in saved.get("local", {}).items()}
        bases[number] = BaseModels(saved["global"], local)
    return bases


def write_checkpoint(path: Path, now: Round, saved: dict[str, Tensor], header: Mapping[str, Any]) -> None:
    latest = {str(client): params for client, params in now.latest.items()}
    tensors = flatten({"state": now.state, "latest": latest}) | {
        f"saved/{name}": value for name, value in saved.items()
    }
    write_tensors(path, tensors, {**header, "round": now.round})


def read_checkpoint(
    path: Path, specification: Mapping[str, Any], code: str, device: str
) -> tuple[Round, dict[str, Tensor], dict[str, Any]] | None:
    """The round to go on from, the states kept so far and the header; None if there is none, or other code made it."""
    if not path.exists():
        return None
    tensors, header = read_tensors(path, "checkpoint", device)
    if header.get("specification") != digest(specification):
        raise UserError(f"checkpoint {path}: of another configuration; remove it to start again, or restore that one")
    if header.get("code") != code:
        print(f"{path}: made by other code; starting again")
        return None
    saved = {name.removeprefix("saved/"): value for name, value in tensors.items() if name.startswith("saved/")}
    tree = unflatten({name: value for name, value in tensors.items() if not name.startswith("saved/")})
    latest = {int(client): params for client, params in tree.get("latest", {}).items()}
    return Round(header["round"], tree.get("state", {}), latest), saved, header


def federate(specification: Mapping[str, Any], inputs: Inputs, out: Path, device: str = "auto") -> dict[str, Any]:
    """Run a method and write ``metrics.parquet``, ``state.safetensors`` and ``run.json`` to ``out``; returns the
    record.

    A finished run is not repeated; an interrupted one goes on from its last checkpoint and ends in the same bits.
    """
    record = run_record("federate", specification)
    if finished(out, specification, record["code"]):
        print(f"{out}: finished already, nothing to do")
        return record
    method = load_method(specification["module"], specification.get("parameters"))
    if not isinstance(method, Method):
        raise UserError(f"method {specification['module']!r}: is derived from another one; use `apfl personalize`")
    problem = load_problem(specification, inputs, device)
    for need in method.needs:
        if getattr(problem, need) is None:
            raise UserError(f"method {specification['module']!r}: needs --{need}; give its path")
    checkpoint = out / CHECKPOINT
    watch = Stopwatch()
    restored = read_checkpoint(checkpoint, specification, record["code"], str(problem.engine.device))
    start, saved, header = restored or (None, {}, {"rows": [], "seconds": 0.0})
    rows, earlier = header["rows"], header["seconds"]
    status = "finished"
    try:
        for now in _evaluated(method, problem, start, rows, saved):
            _print_round(method, problem, now, rows, watch, first=start.round if start else 0)
            if now.round % problem.training.checkpoint_every == 0 and 0 < now.round < problem.training.rounds:
                fields = {"specification": digest(specification), "code": record["code"], "rows": rows}
                write_checkpoint(checkpoint, now, saved, fields | {"seconds": earlier + watch.seconds})
    except Diverged as error:
        status = "diverged"
        print(
            f"{specification['method']}: {error}; lower training.learning_rate or change the method's hyper-parameters"
        )
    write_parquet(out / "metrics.parquet", metrics_frame(rows, **identity(specification)))
    write_tensors(out / "state.safetensors", saved, {"specification": digest(specification)})
    record |= {"status": status, "seconds": round(earlier + watch.seconds, 3), **watch.usage(problem), **provenance()}
    write_json(out / "run.json", record)
    checkpoint.unlink(missing_ok=True)
    return record


def _evaluated(
    method: Method, problem: Problem, start: Round | None, rows: list[dict[str, Any]], saved: dict[str, Tensor]
) -> Iterator[Round]:
    """The rounds of `run`, each evaluated and kept (into ``rows`` and ``saved``) if the study asks for it."""
    for now in run(method, problem, start):
        if now.round in problem.training.evaluate_rounds:
            rows.extend(evaluate(problem, method.client_models(now.state, problem, now.latest), now.round))
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
    left = (problem.training.rounds - now.round) * watch.seconds / (now.round - first)
    here = [row for row in rows if row["round"] == now.round]
    accuracy = f"  pooled {100 * headline(here, method.model):5.2f} %" if here else ""
    print(
        f"{method.title}: round {now.round}/{problem.training.rounds}{accuracy}"
        f"  {samples / max(seconds, 1e-9):,.0f} samples/s  {time.strftime('%H:%M:%S', time.gmtime(left))} left",
        flush=True,
    )
