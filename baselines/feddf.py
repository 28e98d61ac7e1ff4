"""FedDF (ensemble distillation): the server's average model learns from the clients' mean logits on unlabelled images.

    @inproceedings{lin2020ensemble,
      title = {Ensemble distillation for robust model fusion in federated learning},
      author = {Lin, Tao and Kong, Lingjing and Stich, Sebastian U. and Jaggi, Martin},
      booktitle = {NeurIPS}, year = {2020}}

After each round the student starts at the mean of the clients' models and follows, on batches of proxy images,

    KL(softmax(z / T) || softmax(student / T)),    z = 1/K sum_k logits_k, uniform over the clients,

with Adam, a cosine schedule to zero and gradient norms clipped at 5. Every ``evaluate_every`` steps it is measured on
the server's validation part; the best student of the round becomes the global model, and distillation stops after
``patience`` steps without gain. So the paper and its official code (github.com/epfml/federated-learning-public-code,
with the options of its README).

The clients there are of about one size, and hold most classes. Where they do not, mean logits can be worthless: a
class that one client alone holds is outvoted by all others. Three decisions keep the method's chance fair, and each
has a parameter. The student starts at FedAvg's mean, weighted by samples, where the code's is uniform. The start is
among the students to choose from, which the code has as an option. And ``ensemble`` "probabilities" takes the mean of
the clients' probabilities for target, which has the gradient of the code's own default, the mean of the divergences.

The official server holds out 10 % of the training images before they are shared among clients, from FedAvg and all
other methods too. Here a study with FedDF sets a tenth of each client's training images aside, on which no method of
the study trains, and the server has those of the participants, labels included. No test image and no dropout client's
image is touched. In a study that says ``validation: false`` there is no such part, and the last student is taken. The
proxy images come from another data set, in its own normalisation; their labels are never read. A round of the official
10,000 steps costs many times its local training in a small study, so the default is 400: with five clients about as
much as 35,000 images of local training. Where the server draws the clients of a round, those are the teachers; the
validation part is that of all participants in every round.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from apfl.federation import (
    Adam,
    Model,
    Params,
    Problem,
    Result,
    State,
    batches,
    channels_last,
    check_fields,
    torch_stream,
    weighted_mean,
)
from baselines.fedavg import FedAvg

LARGEST_GRADIENT_NORM = 5.0
VALIDATION_BATCH = 500


@dataclass(frozen=True)
class FedDF(FedAvg):
    """
    :param steps: distillation steps per round at most (10,000 in the official code; 400 keeps small studies small).
    :param batch_size: proxy images per step (64 in the official code).
    :param learning_rate: learning rate of the student's Adam (1e-3 in the official code).
    :param temperature: softmax temperature T (1 in the official code).
    :param ensemble: what is averaged over the clients: ``logits`` (the paper) or ``probabilities``.
    :param evaluate_every: steps between evaluations on the validation part (100 in the official code).
    :param patience: steps without improvement after which distillation stops (1,000 in the official code).
    :param weights: weights of the mean from which the student starts: ``samples`` (FedAvg) or ``uniform`` (the official
        code).
    :param keep_start: whether to keep that mean if no student is better on the validation part (off in the official
        README).
    """

    steps: int = 400
    batch_size: int = 64
    learning_rate: float = 1e-3
    temperature: float = 1.0
    ensemble: str = "logits"
    evaluate_every: int = 100
    patience: int = 1000
    weights: str = "samples"
    keep_start: bool = True

    title: ClassVar[str] = "FedDF"
    additive: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ("proxy", "validation")
    search: ClassVar[Mapping[str, Any]] = {
        "learning_rate": {"low": 1e-5, "high": 1e-2, "scale": "log"},
        "temperature": {"low": 0.5, "high": 10.0, "scale": "log"},
        "ensemble": ["logits", "probabilities"],
    }

    def __post_init__(self) -> None:
        least = {"steps": 0, "batch_size": 1, "evaluate_every": 1, "patience": 1}
        known = {"weights": ("uniform", "samples"), "ensemble": ("logits", "probabilities")}
        check_fields(self, "feddf", at_least=least, positive=("learning_rate", "temperature"), one_of=known)

    def server_update(self, state: State, problem: Problem, round: int, results: Sequence[Result]) -> State:
        trained = [result for result in results if problem.size(result.client)]
        if not trained:
            return state
        models = [result.params for result in trained]
        sizes = [problem.weight(result.client) for result in trained]
        mean = weighted_mean(models, sizes if self.weights == "samples" else [1] * len(models))
        return state | {"global": self.distilled(problem, mean, models, round)}

    def distilled(self, problem: Problem, start: Params, teachers: Sequence[Params], round: int) -> Params:
        """The student after this round's distillation: the best one on the validation part, if there is one."""
        held = [problem.validation[client] for client in problem.participants] if problem.validation else []
        validation = torch.cat([problem.train[0][:0], *held])
        teachers = [channels_last(teacher) for teacher in teachers]
        student = {name: value.requires_grad_() for name, value in channels_last(start).items()}
        optimizer = Adam(list(student.values()), self.learning_rate)
        best, best_accuracy, best_step = student, -1.0, 0
        stream = torch_stream(problem.seed, "feddf-proxy", round=round)
        everything = torch.arange(len(problem.proxy.labels), device=problem.engine.device)  # type: ignore[union-attr]
        phase = problem.phase(batch_size=self.batch_size, steps=self.steps)
        for step, rows in enumerate(batches(phase, everything, stream), start=1):
            with problem.engine.autocast():
                gradients = self.gradients(problem.model, student, teachers, problem.proxy.batch(rows).images)  # type: ignore[union-attr]
            norm = torch.linalg.vector_norm(torch.stack([gradient.norm() for gradient in gradients]))
            scale = (LARGEST_GRADIENT_NORM / (norm + 1e-6)).clamp(max=1.0)
            optimizer.learning_rate = self.learning_rate * (1 + math.cos(math.pi * (step - 1) / self.steps)) / 2
            optimizer.step([gradient * scale for gradient in gradients])
            if len(validation) and (step % self.evaluate_every == 0 or step == self.steps):
                accuracy = self.accuracy(problem, student, validation)
                if accuracy > best_accuracy:
                    best, best_accuracy, best_step = channels_last(student), accuracy, step
                if step - best_step >= self.patience:
                    break
        if self.keep_start and len(validation) and self.accuracy(problem, start, validation) >= best_accuracy:
            return start
        return {name: value.detach() for name, value in best.items()}

    def gradients(
        self, model: Model, student: Params, teachers: Sequence[Params], images: Tensor
    ) -> tuple[Tensor, ...]:
        """The gradient of the forward KL divergence, averaged over the images, for each of the student's parameters.

        Its gradient with respect to the student's logits is written out, so that it is exactly zero where student and
        teachers agree: of the rounding that automatic differentiation leaves, Adam would make whole steps.
        """
        with torch.no_grad():
            target = self.target(torch.stack([model(teacher, images).float() for teacher in teachers]))
        logits = model(student, images).float()
        slope = ((logits.detach() / self.temperature).softmax(1) - target) / (self.temperature * len(images))
        return torch.autograd.grad(logits, list(student.values()), slope, allow_unused=True, materialize_grads=True)

    def target(self, logits: Tensor) -> Tensor:
        """The probabilities [B, classes] that the student should learn, of the teachers' logits [K, B, classes]."""

        def mean(values: Tensor) -> Tensor:
            # Sums of a few float32 are exact in float64: the mean of equal numbers is that number.
            return values.double().mean(0).float()

        if self.ensemble == "logits":
            return (mean(logits) / self.temperature).softmax(1)
        return mean((logits / self.temperature).softmax(2))

    @staticmethod
    def accuracy(problem: Problem, params: Params, indices: Tensor) -> float:
        """The share of the images at ``indices`` that the model classifies rightly."""
        right = 0
        with torch.no_grad(), problem.engine.autocast():
            for rows in indices.split(VALIDATION_BATCH):
                batch = problem.images.batch(rows)
                right += int((problem.model(params, batch.images).argmax(1) == batch.labels).sum())
        return right / len(indices)


METHOD = FedDF
