"""What one stage leaves for the next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from apfl.engine.networks import Params
from apfl.errors import UserError
from apfl.federation.asynchronous import AsyncRound, staleness_of
from apfl.federation.method import BaseModels, Method
from apfl.federation.participation import last_rounds
from apfl.federation.problem import Problem
from apfl.federation.synchronous import Round
from apfl.memorization.generator import GeneratorConfig, Memory, build_memory
from apfl.stages.specification import configure
from apfl.storage.run_folder import RECORD, Record
from apfl.storage.tensors import flatten, number_keys, read_tensors, unflatten


def saved_models(now: Round, method: Method, problem: Problem) -> dict[str, Tensor]:
    """What later stages read of a round: the global model, the last local models and how stale each is."""
    models = method.client_models(now.state, problem, now.latest)
    tree: dict[str, Any] = {"local": {str(client): params for client, params in now.latest.items()}}
    if isinstance(shared := models.get("global"), dict) and not any(isinstance(key, int) for key in shared):
        tree["global"] = shared
    if isinstance(now, AsyncRound) or problem.draws:
        tree["staleness"] = {str(one): torch.tensor(tau) for one, tau in ages(now, method, problem).items()}
    return flatten({f"round{now.round}": tree})


def ages(now: Round, method: Method, problem: Problem) -> dict[int, int]:
    """By client that has taken part: how many versions ago the model that it last sent was begun, not counting the
    version that it made itself."""
    if isinstance(now, AsyncRound):
        return staleness_of(now)
    return {client: now.round - last for client, last in last_rounds(method, problem, now.round).items()}


def unheard(now: Round, method: Method, problem: Problem) -> frozenset[int]:
    """Clients of the method that the server has not heard of so far: never drawn, or all of their uploads lost."""
    return frozenset(method.clients(problem)) - ages(now, method, problem).keys()


def base_diverged(folder: Path) -> bool:
    """Whether the run in ``folder``, or what it started from, diverged: nothing can be made of it then."""
    return Record.read(folder / RECORD).found.get("status") == "diverged"


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
            local = number_keys(saved.get("local", {}))
            staleness = {int(client): int(tau) for client, tau in saved.get("staleness", {}).items()}
        except (AttributeError, TypeError, ValueError):
            raise UserError(f"{path}: its models of round {number} are not by client; make the run again") from None
        for params in (saved["global"], *local.values()) if like is not None else ():
            _check_network(params, like, path)  # type: ignore[arg-type]
        bases[number] = BaseModels(saved["global"], local, staleness)
    return bases


def _check_network(params: Params, like: Params, path: Path) -> None:
    # What is not a parameter at all, such as a branch where a leaf should be, has no shape.
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


def load_memory(folder: Path, number: int, problem: Problem) -> Memory:
    """The generator that a `memorize_run` trained on a round."""
    path = folder / "generator.safetensors"
    tensors, header = read_tensors(path, "generator", str(problem.engine.device))
    prefix = f"round{number}/"
    state = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    if not state:
        raise UserError(f"generator {path}: has nothing of round {number}; name that round when it is trained")
    if "config" not in header or "embeddings" not in tensors:
        raise UserError(f"generator {path}: lacks its configuration or its embeddings; train it again")
    config = configure(GeneratorConfig, header["config"], "generator")
    memory = build_memory(config, tensors["embeddings"], problem.images.pixels.shape[-1], problem.seed)
    try:
        memory.generator.load_state_dict(state)
    except RuntimeError as error:
        fault = " ".join(str(error).split())[:150]
        raise UserError(f"generator {path}: is not of its own configuration ({fault}); train it again") from None
    memory.generator.eval()
    return memory


def load_measured(folder: Path, what: str) -> dict[str, Any]:
    """The accuracies of the ``teachers`` or the ``cycles`` that a `memorize_run` recorded, by round."""
    return Record.read(folder / RECORD).found.get(what, {})  # type: ignore[no-any-return]
