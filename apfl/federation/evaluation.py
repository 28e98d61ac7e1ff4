"""The two accuracies of every model, and the tidy table that they go into.

``own``: the client's own test images, whose labels are distributed as its training labels are. ``pooled``: the test
images of all clients together. ``monopoly``: a dropout client's own test images of classes that dropout clients alone
hold. The paper's text describes the first, its Local row fits only the second, so both are recorded for every model.
Where the partition has a validation part, ``validation-own`` and ``validation-pooled`` are the same on that: choices
are made by them, and no table shows them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from apfl.engine.networks import Params
from apfl.engine.work import Diverged
from apfl.federation.method import Models
from apfl.federation.problem import Problem
from apfl.storage.metrics_table import NUMBERS

if TYPE_CHECKING:
    from typing_extensions import TypeIs

NUMBERS |= dict.fromkeys(("virtual_time", "accuracy", "loss"), np.float64)
"""What the columns hold that hold no texts."""
EVALUATION_BATCH = 500


@dataclass(frozen=True)
class Outcome:
    """Per image of the union of all test parts: is it classified rightly, and its cross-entropy."""

    correct: Tensor
    loss: Tensor


def pooled_indices(problem: Problem) -> Tensor:
    """The test images of all clients together."""
    return torch.cat(problem.test)


@dataclass(frozen=True)
class Part:
    """Where a part of the images, such as the test images, lies among those that are evaluated: of all clients
    together, and of each."""

    pooled: slice
    own: tuple[slice, ...]

    @classmethod
    def of(cls, each: Sequence[Tensor], start: int) -> Part:
        """The part made of ``each`` client's images, one client after another from position ``start`` on."""
        ends = list(accumulate((len(one) for one in each), initial=start))
        return cls(slice(start, ends[-1]), tuple(slice(*pair) for pair in pairwise(ends)))


def outcomes(problem: Problem, classify: Callable[[Tensor], Tensor], indices: Tensor) -> Outcome:
    """``classify`` (images to logits or log-probabilities) on the images at ``indices``, in large batches."""
    correct, loss = [], []
    with torch.inference_mode(), problem.engine.autocast():
        for rows in indices.split(EVALUATION_BATCH):
            batch = problem.images.batch(rows)
            logits = classify(batch.images).float()
            correct.append(logits.argmax(1) == batch.labels)
            loss.append(F.cross_entropy(logits, batch.labels, reduction="none"))
    empty = torch.zeros(0)
    return Outcome(torch.cat(correct) if correct else empty.bool(), torch.cat(loss) if loss else empty)


def evaluate(
    problem: Problem, models: Mapping[str, Models], round: int, virtual_time: float | None = None
) -> list[dict[str, Any]]:
    """One row per client, model role and test kind: accuracy in [0, 1], mean cross-entropy, and numbers of samples."""
    indices = torch.cat([*problem.test, *problem.validation])
    labels = problem.images.labels[indices]
    tested = Part.of(problem.test, 0)
    validated = Part.of(problem.validation, tested.pooled.stop) if problem.validation else None
    client: int
    rows = []
    for role, given in models.items():
        shared = None if is_per_client(given) else outcomes(problem, _classifier(problem, given), indices)
        for client in sorted(given) if shared is None else problem.clients:  # type: ignore[assignment]
            outcome = shared or outcomes(problem, _classifier(problem, given[client]), indices)  # type: ignore[arg-type, index]
            tests: dict[str, slice | Tensor] = {"pooled": tested.pooled, "own": tested.own[client]}
            if validated:
                tests |= {"validation-pooled": validated.pooled, "validation-own": validated.own[client]}
            if problem.dropout[client]:
                part = tested.own[client]
                tests["monopoly"] = torch.arange(part.start, part.stop)[problem.unseen[labels[part]].cpu()]
            alike = {
                "round": round,
                "virtual_time": float(round) if virtual_time is None else virtual_time,
                "client": client,
                "client_role": "dropout" if problem.dropout[client] else "non_dropout",
                "model": role,
                "train_samples": problem.size(client),
            }
            for test, chosen in tests.items():
                if samples := len(correct := outcome.correct[chosen]):
                    accuracy, loss = (values.double().mean().item() for values in (correct, outcome.loss[chosen]))
                    rows.append(alike | {"test": test, "accuracy": accuracy, "loss": loss, "samples": samples})
    return rows


def finite(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows; raises `Diverged` if a loss is not finite, as a server's own training may diverge after the clients'
    did not."""
    for row in rows:
        if not math.isfinite(row["loss"]):
            raise Diverged.of_client(row["round"], row["client"], row["model"])
    return rows


def is_per_client(models: Models) -> TypeIs[dict[int, Params]]:
    return all(isinstance(key, int) for key in models)


def _classifier(problem: Problem, params: Params) -> Callable[[Tensor], Tensor]:
    return lambda images: problem.model(params, images)


def headline(rows: list[dict[str, Any]], role: str, test: str = "pooled") -> float:
    """The mean over clients, weighted by training samples, for a progress line; nan if there is no such row."""
    chosen = [row for row in rows if row["model"] == role and row["test"] == test]
    weight = sum(row["train_samples"] for row in chosen)
    return sum(row["accuracy"] * row["train_samples"] for row in chosen) / weight if weight else float("nan")
