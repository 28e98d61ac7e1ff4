"""Local training: what one client does between a download and an upload.

A piece of `Work` is data: the parameters to start from and a sequence of phases. A `Phase` says what each step
differentiates (its objective), which parameters it changes, with which optimiser, and for how long. `train` carries the
work out. Whatever a method adds to plain gradient descent is in its objective: FedProx is another loss, SCAFFOLD a
linear term, MAML and the Moreau envelope other gradients.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from apfl.engine.device import Engine, channels_last
from apfl.engine.images import Batch, Samples
from apfl.engine.networks import Model, Params
from apfl.engine.work import Diverged, Objective, Phase, Result, Step, Work, batches
from apfl.streams import torch_stream

FULL_GRADIENT_CHUNK = 500


def _exact(objective: Objective, model: Model, params: Params, trainable: Params, step: Step) -> tuple[Tensor, Params]:
    """The objective over a batch of any size, as the weighted mean over chunks that fit in memory."""
    (batch,) = step.batches
    loss, total = torch.zeros(()), {name: torch.zeros_like(value) for name, value in trainable.items()}
    for start in range(0, len(batch), FULL_GRADIENT_CHUNK):
        rows = slice(start, start + FULL_GRADIENT_CHUNK)
        part = Batch(batch.images[rows], batch.labels[rows])
        value, gradient = objective(model, params, trainable, Step((part,), step.stream, step.index))
        weight = len(part) / len(batch)
        loss = loss + weight * value.cpu()
        for name in total:
            total[name] += weight * gradient[name]
    return loss, total


def train(model: Model, work: Work, samples: Samples, indices: Tensor, engine: Engine, seed: int, round: int) -> Result:
    """Carry out one piece of work on the samples at ``indices``; a client without samples returns what it started from.

    The order of the data depends on (seed, role, phase, round, client) alone.
    """
    params = channels_last(work.start)
    steps, count, mean_loss = 0, 0, math.nan
    for number, phase in enumerate(work.phases if len(indices) else ()):
        losses, done, seen = _run_phase(model, params, phase, work, number, samples, indices, engine, seed, round)
        steps, count, mean_loss = steps + done, count + seen, losses
        if done and not math.isfinite(mean_loss):
            raise Diverged.of_client(round, work.client, work.role)
    return Result(work, {name: value.detach() for name, value in params.items()}, steps, count, mean_loss)


def _run_phase(
    model: Model,
    params: Params,
    phase: Phase,
    work: Work,
    number: int,
    samples: Samples,
    indices: Tensor,
    engine: Engine,
    seed: int,
    round: int,
) -> tuple[float, int, int]:
    """One phase, in place on ``params``; returns the mean loss, the steps and the images seen."""
    trainable = {name: value for name, value in params.items() if phase.trainable(name)}
    for name, value in params.items():
        value.requires_grad_(name in trainable)
    optimizer = phase.optimizer.build(list(trainable.values()))
    stream = torch_stream(
        seed, f"objective/{work.role}/{number}", round=round, client=work.client, device=engine.device
    )
    orders = [
        batches(
            phase, indices, torch_stream(seed, f"batches/{work.role}/{number}/{slot}", round=round, client=work.client)
        )
        for slot in range(phase.batches)
    ]
    objective = phase.objective
    total, steps, seen = torch.zeros((), device=engine.device), 0, 0
    for steps, rows in enumerate(zip(*orders, strict=True), start=1):
        step = Step(tuple(samples.batch(row) for row in rows), stream, steps - 1)
        with engine.autocast():
            if phase.batch_size == 0 and phase.batches == 1:
                loss, direction = _exact(objective, model, params, trainable, step)
            else:
                loss, direction = objective(model, params, trainable, step)
        optimizer.step([direction[name] for name in trainable])
        if phase.drift is not None:
            with torch.no_grad():
                for name, value in trainable.items():
                    value.sub_(phase.drift[name], alpha=phase.optimizer.learning_rate)
        total += loss
        seen += sum(len(row) for row in rows)
    for value in params.values():
        value.requires_grad_(False)
    return (total / max(steps, 1)).item(), steps, seen
