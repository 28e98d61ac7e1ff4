"""Local training of several models of one architecture at once: a stack, one tensor a parameter with a leading axis.

On a GPU a small model leaves most of the device idle; a stack of them fills it. On a CPU it does not pay. The
mathematics is that of `apfl.engine.training.train`, client by client: clients are sorted by their number of steps, and
the stack that is trained is a prefix that shrinks; short batches are padded with images that no loss sees; the loss is
the sum of the models' own means, so that one backward pass gives each model its own gradient. The results agree within
the tolerance of floating point, not bit for bit, as sums are taken in another order.

What can be stacked is work of one kind: phases alike in all but their length and their tensors, that follow the plain
gradient of a loss that says ``stackable = True``: it must not depend on random numbers, nor see the number of images
but through the mean of a cross-entropy. All else is trained one after another.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from apfl.engine.device import Engine
from apfl.engine.images import Batch, Samples
from apfl.engine.networks import Model, Params
from apfl.engine.optimizers import SGD, Adam
from apfl.engine.training import train
from apfl.engine.work import Diverged, Gradient, Phase, Result, Step, Task

if TYPE_CHECKING:
    from apfl.engine.work import Loss

PADDING = -100
"""The label that cross-entropy leaves out of its mean."""


def train_stack(model: Model, tasks: Sequence[Task], engine: Engine) -> list[Result]:
    """The result of every task, in their order; those that can be are trained together, ``engine.stack`` at a time.

    Raises `Diverged` for the first task whose loss is not finite.
    """
    return [_fine(outcome) for outcome in attempt_stack(model, tasks, engine)]


def attempt_stack(model: Model, tasks: Sequence[Task], engine: Engine) -> list[Result | Diverged]:
    """As `train_stack`, but what has diverged stands in the place of its result: the other models, which may be of
    other runs, are unaffected."""
    kinds: dict[tuple[object, ...], list[int]] = {}
    for place, task in enumerate(tasks):
        kinds.setdefault(_kind(task) if _stackable(task) else (place,), []).append(place)
    results: dict[int, Result | Diverged] = {}
    for places in kinds.values():
        longest_first = sorted(places, key=lambda place: -_steps(tasks[place]))
        done = _in_chunks(model, [tasks[place] for place in longest_first], engine, max(1, engine.stack))
        results |= zip(longest_first, done, strict=True)
    return [results[place] for place in range(len(tasks))]


def _fine(outcome: Result | Diverged) -> Result:
    if isinstance(outcome, Diverged):
        raise outcome
    return outcome


def _in_chunks(model: Model, tasks: Sequence[Task], engine: Engine, size: int) -> list[Result | Diverged]:
    """Tasks of one kind, ``size`` at a time, or half as many where the device has no room for that."""
    results: list[Result | Diverged] = []
    while len(results) < len(tasks):
        chunk = tasks[len(results) : len(results) + size]
        try:
            results += together(model, chunk, engine) if len(chunk) > 1 else [_alone(model, chunk[0], engine)]
        except torch.cuda.OutOfMemoryError:
            if len(chunk) == 1:
                raise
            size = len(chunk) // 2
            torch.cuda.empty_cache()
            print(f"{len(chunk)} models at once are too many for the device's memory; going on with {size}", flush=True)
    return results


def _alone(model: Model, task: Task, engine: Engine) -> Result | Diverged:
    try:
        return train(model, task, engine)
    except Diverged as error:
        return error


def _stackable(task: Task) -> bool:
    losses = [phase.objective.loss for phase in task.work.phases if isinstance(phase.objective, Gradient)]
    plain = all(phase.batch_size > 0 and phase.batches == 1 for phase in task.work.phases)
    hard = task.samples.batch(task.indices[:1]).labels.ndim == 1
    known = len(losses) == len(task.work.phases) and all(getattr(loss, "stackable", False) for loss in losses)
    return plain and hard and known and len(task.indices) > 0


def _kind(task: Task) -> tuple[object, ...]:
    """What tasks must have in common to be one stack.

    Of two such tasks the one with more images has no fewer steps in any phase.
    """
    phases = (
        (phase.optimizer, phase.batch_size, phase.epochs, phase.steps, phase.shuffle, phase.drift is None,
         phase.trainable, _skeleton(phase.objective.loss))  # type: ignore[attr-defined]
        for phase in task.work.phases
    )  # fmt: skip
    shapes = tuple((name, tuple(value.shape)) for name, value in task.work.start.items())
    image = task.samples.batch(task.indices[:1]).images
    return image.shape, image.dtype, shapes, tuple(phases)


def _steps(task: Task) -> int:
    """How many steps the task takes in all its phases."""
    return sum(_phase_steps(phase, task) for phase in task.work.phases)


def _phase_steps(phase: Phase, task: Task) -> int:
    return phase.epochs * math.ceil(len(task.indices) / phase.batch_size) if phase.steps is None else phase.steps


def together(model: Model, tasks: Sequence[Task], engine: Engine) -> list[Result | Diverged]:
    """Tasks of one kind, those with most steps first."""
    stack = {name: _stacked([task.work.start[name].detach() for task in tasks]) for name in tasks[0].work.start}
    counts, seen, losses = [0] * len(tasks), [0] * len(tasks), [math.nan] * len(tasks)
    diverged: dict[int, Diverged] = {}
    for number in range(len(tasks[0].work.phases)):
        for place, (mean, steps, images) in enumerate(_phase(model, stack, tasks, number, engine)):
            counts[place], seen[place], losses[place] = counts[place] + steps, seen[place] + images, mean
            if steps and not math.isfinite(mean):
                task = tasks[place]
                diverged.setdefault(place, Diverged.of_client(task.round, task.work.client, task.work.role))
    results = (
        Result(task.work, {name: value[place].clone() for name, value in stack.items()}, *facts)  # type: ignore[arg-type]
        for place, (task, *facts) in enumerate(zip(tasks, counts, seen, losses, strict=True))
    )
    return [diverged.get(place, result) for place, result in enumerate(results)]


def _stacked(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).contiguous()


def _phase(
    model: Model, stack: Params, tasks: Sequence[Task], number: int, engine: Engine
) -> list[tuple[float, int, int]]:
    """One phase, in place on ``stack``; for each task its mean loss, its steps and the images it has seen."""
    phases = [task.work.phases[number] for task in tasks]
    first = phases[0]
    rows, steps = _orders([list(task.batches(number)) for task in tasks])
    seen = (rows >= 0).sum((0, 2)).tolist()
    samples = [task.samples for task in tasks]
    trained = {name: value for name, value in stack.items() if first.trainable(name)}
    optimizer = _Prefix(first, list(trained.values()))
    tensors = _tensors([phase.objective.loss for phase in phases])  # type: ignore[attr-defined]
    drift = {name: _stacked([phase.drift[name] for phase in phases]) for name in trained} if first.drift else {}  # type: ignore[index]
    total = torch.zeros(len(tasks), device=engine.device)
    for step in range(max(steps, default=0)):
        active = sum(count > step for count in steps)
        batch = _gathered(samples[:active], rows[step, :active])
        leaves = {name: value[:active].detach().requires_grad_() for name, value in trained.items()}
        params = {name: value[:active] for name, value in stack.items()} | leaves
        parts = {path: value[:active] for path, value in tensors.items()}
        with engine.autocast():
            loss = _losses(model, params, batch, step, first.objective.loss, parts)  # type: ignore[attr-defined]
        gradients = torch.autograd.grad(loss.sum(), list(leaves.values()), allow_unused=True, materialize_grads=True)
        optimizer.step(active, gradients)
        for name, value in drift.items():
            trained[name][:active].sub_(value[:active], alpha=first.optimizer.learning_rate)
        total[:active] += loss.detach()
    means = (total / torch.tensor(steps, device=engine.device).clamp_min(1)).tolist()
    return list(zip(means, steps, seen, strict=True))


def _orders(each: Sequence[Sequence[Tensor]]) -> tuple[Tensor, list[int]]:
    """The batches of all models in all steps as indices [S, M, B], -1 where a model has no image, and its steps [M].

    Made once a phase: on a GPU a step is too short for many small copies.
    """
    steps = [len(own) for own in each]
    if not any(steps):
        return torch.zeros(0, len(each), 0, dtype=torch.int64), steps
    flat = pad_sequence([batch for own in each for batch in own], batch_first=True, padding_value=-1)
    rows = pad_sequence(flat.split(steps), padding_value=-1)
    return rows, steps


def _gathered(samples: Sequence[Samples], rows: Tensor) -> Batch:
    """Images [M, B, ...] and labels [M, B] of the models' own ``samples`` at ``rows`` [M, B], with one look into each
    source. Where a row is -1 stands some image, with a label that no loss sees."""
    there = rows.clamp_min(0)
    sources: dict[int, list[int]] = {}
    for place, source in enumerate(samples):
        sources.setdefault(id(source), []).append(place)
    order = [place for places in sources.values() for place in places]
    if len(sources) == 1:
        part = samples[0].batch(there.flatten())
        images, labels = part.images.unflatten(0, rows.shape), part.labels.view(rows.shape)
    else:
        parts = [samples[places[0]].batch(there[places].flatten()) for places in sources.values()]
        images = torch.cat([part.images for part in parts]).unflatten(0, rows.shape)
        labels = torch.cat([part.labels for part in parts]).view(rows.shape)
        if order != sorted(order):
            back = torch.tensor(order, device=rows.device).argsort()
            images, labels = images[back], labels[back]
    return Batch(images, torch.where(rows < 0, PADDING, labels))


def _losses(
    model: Model, params: Params, batch: Batch, step: int, loss: Loss, tensors: Mapping[tuple[str, ...], Tensor]
) -> Tensor:
    """The loss of each model on its own batch: [M]."""

    def one(own: Params, images: Tensor, labels: Tensor, parts: Mapping[tuple[str, ...], Tensor]) -> Tensor:
        # A loss that can be stacked draws nothing.
        return _with(loss, parts)(model, own, Step((Batch(images, labels),), stream=None, index=step))  # type: ignore[arg-type, no-any-return]

    return torch.func.vmap(one)(params, batch.images, batch.labels, dict(tensors))


class _Prefix:
    """An optimiser over the first models of a stack, fewer and fewer of them; all of these have taken equal steps."""

    def __init__(self, phase: Phase, values: Sequence[Tensor]) -> None:
        self.values = list(values)
        self.whole: Any = phase.optimizer.build(self.values)

    def step(self, active: int, gradients: Sequence[Tensor]) -> None:
        part = [value[:active] for value in self.values]
        if isinstance(self.whole, Adam):
            state = [
                {"step": one["step"], "exp_avg": one["exp_avg"][:active], "exp_avg_sq": one["exp_avg_sq"][:active]}
                for one in self.whole.state
            ]
            Adam(part, self.whole.learning_rate, self.whole.weight_decay, state).step(gradients)
            return
        optimizer = SGD(part, self.whole.learning_rate, self.whole.momentum)
        optimizer.buffers = [buffer[:active] for buffer in self.whole.buffers]
        optimizer.first, self.whole.first = self.whole.first, False
        optimizer.step(gradients)


# The tensors of a loss: FedProx's anchor, SCAFFOLD's correction. Losses are functions or frozen dataclasses.


def _parts(value: Any) -> dict[str, Any] | None:
    """What a mapping or a dataclass is made of, by name; None of anything else."""
    if isinstance(value, Mapping):
        return dict(value)
    return (
        {f.name: getattr(value, f.name) for f in dataclasses.fields(value)} if dataclasses.is_dataclass(value) else None
    )


def _skeleton(value: Any) -> Any:
    """A loss without its tensors: what losses of one stack must have in common."""
    if isinstance(value, Tensor):
        return tuple(value.shape)
    if (parts := _parts(value)) is None:
        return repr(value)
    return type(value).__name__, tuple((name, _skeleton(part)) for name, part in parts.items())


def _paths(value: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Tensor]:
    if isinstance(value, Tensor):
        return {path: value}
    parts = _parts(value) or {}
    return {found: tensor for name, part in parts.items() for found, tensor in _paths(part, (*path, name)).items()}


def _tensors(losses: Sequence[Any]) -> dict[tuple[str, ...], Tensor]:
    """By place, the tensors of the losses, one upon another."""
    each = [_paths(loss) for loss in losses]
    return {path: _stacked([one[path] for one in each]) for path in each[0]}


def _with(value: Any, tensors: Mapping[tuple[str, ...], Tensor], path: tuple[str, ...] = ()) -> Any:
    """The loss with other tensors in their places."""
    if isinstance(value, Tensor):
        return tensors[path]
    if (parts := _parts(value)) is None:
        return value
    changed = {name: _with(part, tensors, (*path, name)) for name, part in parts.items()}
    return changed if isinstance(value, Mapping) else dataclasses.replace(value, **changed)
