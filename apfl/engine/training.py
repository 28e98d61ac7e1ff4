"""Local training: what one client does between a download and an upload.

A piece of `Work` is data: the parameters to start from and a sequence of phases. A `Phase` says what each step
differentiates (its objective), which parameters it changes, with which optimiser, and for how long. `train` carries the
work out. Whatever a method adds to plain gradient descent is in its objective: FedProx is another loss, SCAFFOLD a
linear term, MAML and the Moreau envelope other gradients.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from apfl.engine.device import Engine, channels_last
from apfl.engine.images import Batch
from apfl.engine.networks import Model, Params
from apfl.engine.work import Diverged, Objective, Result, Step, Task

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


def train(model: Model, task: Task, engine: Engine) -> Result:
    """Carry out a task; a client without samples returns what it started from. Raises `Diverged` if a loss is not
    finite."""
    work, params = task.work, channels_last(task.work.start)
    steps, seen, loss = 0, 0, math.nan
    for number in range(len(work.phases) if len(task.indices) else 0):
        loss, more_steps, more_seen = _run_phase(model, params, task, number, engine)
        steps, seen = steps + more_steps, seen + more_seen
        if more_steps and not math.isfinite(loss):
            raise Diverged.of_client(task.round, work.client, work.role)
    return Result(work, {name: value.detach() for name, value in params.items()}, steps, seen, loss)


def _run_phase(model: Model, params: Params, task: Task, number: int, engine: Engine) -> tuple[float, int, int]:
    """One phase, in place on ``params``; returns the mean loss, the steps and the images seen."""
    phase = task.work.phases[number]
    trainable = {name: value for name, value in params.items() if phase.trainable(name)}
    for name, value in params.items():
        value.requires_grad_(name in trainable)
    optimizer = phase.optimizer.build(list(trainable.values()))
    stream = task.stream(f"objective/{task.work.role}/{number}", engine.device)
    objective = partial(_exact, phase.objective) if phase.batch_size == 0 and phase.batches == 1 else phase.objective
    total, steps, seen = torch.zeros((), device=engine.device), 0, 0
    orders = [task.batches(number, slot) for slot in range(phase.batches)]
    for steps, rows in enumerate(zip(*orders, strict=True), start=1):
        step = Step(tuple(task.samples.batch(row) for row in rows), stream, steps - 1)
        with engine.autocast():
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
