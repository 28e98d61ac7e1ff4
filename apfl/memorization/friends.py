"""Decoupled model interpolation (section 3.2): friend model, localized global model, Eq. 10 and 12."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from apfl.engine.images import SyntheticImages
from apfl.engine.networks import Params
from apfl.engine.work import Work
from apfl.federation.problem import Problem, run_all
from apfl.memorization.generator import Memory, ensemble_log_probabilities
from apfl.streams import torch_stream


def interpolate(local: Params, friend: Params, beta: float) -> Params:
    """Eq. 10 and 12: theta^p = beta theta + (1 - beta) theta^f. With beta 1 the first model, with 0 the friend, bit
    for bit."""
    return {name: torch.lerp(friend[name], local[name], beta) for name in local}


def localize(problem: Problem, clients: Iterable[int], model: Params, round: int) -> dict[int, Params]:
    """theta^l of Eq. 12, by client: the global model fine-tuned once on the client's own data, for the local epochs of
    one round."""
    work = [Work(client, model, (problem.phase(),), role="localized") for client in clients]
    return {result.client: result.params for result in run_all(problem, [(piece, round) for piece in work])}


def label_counts(distribution: Tensor, total: int) -> Tensor:
    """``total`` labels distributed as ``distribution`` [classes] says, by largest remainder: int64 [classes]."""
    shares = distribution.double() / distribution.double().sum() * total
    counts = shares.floor()
    order = torch.argsort(shares - counts, descending=True, stable=True)
    counts[order[: total - int(counts.sum())]] += 1
    return counts.long()


def label_distribution(problem: Problem, client: int, kind: str) -> Tensor:
    """The classes that a friend is trained on, [classes] unnormalised: ``own`` (P_k, the text), ``uniform``, or
    ``global``.

    ``global`` is the label distribution over the non-dropout clients, which is all that the server knows, with the
    client's own classes among it.
    """
    own = problem.counts[client].double()
    if kind == "own":
        return own
    if kind == "uniform":
        return torch.ones_like(own)
    everyone = problem.counts[list(problem.participants)].double().sum(0)
    return everyone if client in problem.participants else everyone + own


def synthetic_images(
    problem: Problem,
    memory: Memory,
    client: int,
    counts: Tensor,
    round: int,
    teachers: tuple[list[Params], Tensor] | None = None,
) -> SyntheticImages:
    """Images of the classes in ``counts`` from the generator; hard labels, or with ``teachers`` (models and Eq. 7
    weights) the labels that they would give."""
    labels = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
    stream = torch_stream(problem.seed, "friend-samples", round=round, client=client, device=problem.engine.device)
    images = memory.sample(labels, stream, problem.engine)
    if teachers is None:
        return SyntheticImages(images, labels)
    with torch.inference_mode(), problem.engine.autocast():
        soft = [ensemble_log_probabilities(problem.model, *teachers, part).exp() for part in images.split(500)]
    return SyntheticImages(images, torch.cat(soft).clone())


def friend_work(problem: Problem, client: int, start: Params, samples: SyntheticImages, epochs: int) -> Work:
    """What makes theta^f: a classifier trained on synthetic images alone."""
    indices = torch.arange(len(samples.labels), device=problem.engine.device)
    return Work(client, start, (problem.phase(epochs=epochs),), role="friend", samples=samples, indices=indices)
