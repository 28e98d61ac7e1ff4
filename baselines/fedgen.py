"""FedGen: a generator of latent features, trained on the clients' models without data, regularises local training.

    @inproceedings{zhu2021data,
      title = {Data-free knowledge distillation for heterogeneous federated learning},
      author = {Zhu, Zhuangdi and Hong, Junyuan and Zhou, Jiayu},
      booktitle = {ICML}, year = {2021}}

After each round the server trains G(y, eps), which maps a class and uniform noise to what the last linear layer reads
(512 numbers in the paper's CNN), on the models that the clients sent:

    sum_k mean_b w_k(y_b) CE(head_k(G(y_b, eps_b)), y_b) + exp(-mean_ij ||eps_i - eps_j||^2 |G_i - G_j|),

with w_k(y) = n_k^y / sum_k n_k^y, labels uniform over the classes that participants hold, and both distances as means
over their dimensions. From the second round on, client k adds to the cross-entropy of a batch (x, y)

    a CE(head(G(y', eps)), y') + b KL(softmax(head(G(y, eps))) || p(x)),

with as many latents as the batch size, y' uniform over the same classes and the first argument of KL a constant. Both
weights shrink in every round. The global model is FedAvg's mean.

All this is the official code's (github.com/zhuangdizhu/FedGen), and the defaults are its settings for MNIST. For
EMNIST it has b = 1 and the generator's learning rate 1e-4; for CIFAR it has a generator (hidden 512, noise dimension
64) and no settings of training, so that MNIST's remain. A study gives them by data set, as those under config/ do:

    fedgen: {datasets: {cifar10: {hidden: 512, noise_dimension: 64}}}

It differs in six points. The published program multiplies a client's losses [B] by weights [B, 1], which broadcasts
to [B, B]: its mean is the mean loss times the mean weight, and no latent is ever weighed by its own label; here each
loss has its own weight, as in the paper's equation. n_k^y are the clients' numbers of samples, where the code counts
those of the last mini-batches, plus one. Its "local epochs" are mini-batches; here they are passes over the data, as
for all methods, and the latents are used in all of them (the code's limit of 20 local epochs never binds in the
paper's set-up). The optimiser of local training is the study's. The code's adversarial term has weight zero, and is
left out. The features that the head reads are those behind a ReLU, as the network has them; the code's are a linear
layer's, like the generator's latents.

Where the server draws the clients of a round, the generator learns from those and from the classes that they hold, as
in the code; latents of other classes are what it made of them before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apfl.federation import (
    Adam,
    Gradient,
    Model,
    Params,
    Problem,
    Result,
    State,
    Step,
    Work,
    check_fields,
    seeded,
    torch_stream,
)
from apfl.memorization.generator import class_weights, teacher_loss
from baselines.fedavg import FedAvg

SMALLEST_WEIGHT = 1e-4


class LatentGenerator(nn.Module):
    """G(y, eps): classes int64 [B] and noise [B, z] to latents [B, latent]; linear - batch norm - ReLU - linear."""

    def __init__(self, noise_dimension: int, classes: int, hidden: int, latent: int) -> None:
        super().__init__()
        self.classes = classes
        self.noise_dimension = noise_dimension
        self.layers = nn.Sequential(
            nn.Linear(noise_dimension + classes, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, latent)
        )

    def forward(self, labels: Tensor, noise: Tensor) -> Tensor:
        return self.layers(torch.cat([noise, F.one_hot(labels, self.classes).to(noise.dtype)], dim=1))  # type: ignore[no-any-return]

    def noise(self, count: int, stream: torch.Generator) -> Tensor:
        """eps, uniform in [0, 1)."""
        return torch.rand(count, self.noise_dimension, generator=stream, device=stream.device)


def diversity(latents: Tensor, noise: Tensor) -> Tensor:
    """The bounded diversity term, in (0, 1]: smaller where different noise gives different latents.

    The mean is over all ordered pairs of the batch, those of a sample with itself included.
    """
    between_latents = (latents[:, None] - latents[None]).abs().mean(2)
    between_noise = (noise[:, None] - noise[None]).square().mean(2)
    return torch.exp(-(between_noise * between_latents).mean())


def uniform_labels(held: Tensor, count: int, stream: torch.Generator) -> Tensor:
    """``count`` labels, each any of the classes ``held``."""
    return held[torch.randint(len(held), (count,), generator=stream, device=stream.device)]


@dataclass(frozen=True)
class Regularized:
    """A client's loss from the second round on: cross-entropy, and the two terms on generated latents."""

    generator: LatentGenerator
    held: Tensor
    label_weight: float
    latent_weight: float
    latents: int

    def __call__(self, model: Model, params: Params, step: Step) -> Tensor:
        batch = step.batch
        logits = model(params, batch.images).float()
        with torch.no_grad():
            same = self.generator(batch.labels, self.generator.noise(len(batch), step.stream))
            target = model.classify(params, same).float().softmax(1)
            labels = uniform_labels(self.held, self.latents, step.stream)
            other = self.generator(labels, self.generator.noise(self.latents, step.stream))
        teaching = F.cross_entropy(model.classify(params, other).float(), labels)
        matching = F.kl_div(logits.log_softmax(1), target, reduction="batchmean")
        return F.cross_entropy(logits, batch.labels) + self.label_weight * teaching + self.latent_weight * matching


@dataclass(frozen=True)
class FedGen(FedAvg):
    """
    :param label_weight: a, the weight of the cross-entropy on generated latents (``generative_alpha`` 10 in the
        official code).
    :param latent_weight: b, the weight of the KL term (``generative_beta`` 10 in the official code; 1 for EMNIST).
    :param decay: factor that multiplies both weights and the generator's learning rate in each round (0.98 in the
        official code).
    :param noise_dimension: dimension of the noise eps (32 in the official code; 64 for CIFAR).
    :param hidden: hidden width of the generator (256 in the official code; 512 for CIFAR).
    :param generator_steps: steps of the generator per round (50 in the official code).
    :param learning_rate: learning rate of the generator's Adam (3e-4 in the official code; 1e-4 for EMNIST).
    :param weight_decay: weight decay of the generator's Adam (1e-2 in the official code).
    :param ensemble_weight: weight of the clients' cross-entropy in the generator's loss (1 in the official code).
    :param diversity_weight: weight of the diversity term in the generator's loss (1 in the official code).
    """

    label_weight: float = 10.0
    latent_weight: float = 10.0
    decay: float = 0.98
    noise_dimension: int = 32
    hidden: int = 256
    generator_steps: int = 50
    learning_rate: float = 3e-4
    weight_decay: float = 1e-2
    ensemble_weight: float = 1.0
    diversity_weight: float = 1.0

    title: ClassVar[str] = "FedGen"
    additive: ClassVar[bool] = False
    server_only: ClassVar[tuple[str, ...]] = ("optimizer",)
    search: ClassVar[Mapping[str, Any]] = {
        "label_weight": {"low": 0.1, "high": 30.0, "scale": "log"},
        "latent_weight": {"low": 0.1, "high": 30.0, "scale": "log"},
        "decay": {"low": 0.9, "high": 1.0},
        "generator_steps": {"low": 10, "high": 500, "scale": "log"},
        "learning_rate": {"low": 1e-5, "high": 1e-2, "scale": "log"},
    }

    def __post_init__(self) -> None:
        whole = ("noise_dimension", "hidden", "generator_steps")
        weights = ("label_weight", "latent_weight", "weight_decay", "ensemble_weight", "diversity_weight")
        least = dict.fromkeys(whole, 1) | dict.fromkeys(weights, 0)
        check_fields(self, "fedgen", at_least=least, positive=("learning_rate", "decay"))

    def init(self, problem: Problem) -> State:
        generator = self.build_generator(problem)
        fresh = {
            name: {"step": torch.zeros(()), "exp_avg": torch.zeros_like(value), "exp_avg_sq": torch.zeros_like(value)}
            for name, value in generator.named_parameters()
        }
        return {"global": problem.start, "generator": _copies(generator), "optimizer": fresh}

    def client_work(self, state: State, problem: Problem, round: int, clients: Sequence[int]) -> list[Work]:
        learnt = next(iter(state["optimizer"].values()))["step"] > 0
        if not learnt:  # before the first report the generator knows nothing
            return super().client_work(state, problem, round, clients)
        held = self.held_classes(problem)
        faded = self.decay ** (round - 1)
        loss = Regularized(
            self.generator(problem, state).eval(),
            held,
            max(self.label_weight * faded, SMALLEST_WEIGHT),
            max(self.latent_weight * faded, SMALLEST_WEIGHT),
            problem.training.batch_size,
        )
        return [Work(client, state["global"], (problem.phase(Gradient(loss)),)) for client in clients]

    def server_update(self, state: State, problem: Problem, round: int, results: Sequence[Result]) -> State:
        sent = {result.client: result.params for result in results if problem.size(result.client)}
        if not sent:
            return state
        weights = class_weights(problem.counts[list(sent)])
        return super().server_update(state, problem, round, results) | self.trained_generator(
            state, problem, round, list(sent.values()), weights
        )

    def trained_generator(
        self, state: State, problem: Problem, round: int, teachers: Sequence[Params], weights: Tensor
    ) -> State:
        """The generator's part of the state after its steps of this round; ``weights`` [teachers, classes] are
        w_k(y)."""
        generator = self.generator(problem, state).train()
        names, parameters = zip(*generator.named_parameters(), strict=True)
        moments = [{key: value.clone() for key, value in state["optimizer"][name].items()} for name in names]
        rate = self.learning_rate * self.decay ** (round - 1)
        optimizer = Adam(parameters, rate, self.weight_decay, moments)
        stream = torch_stream(problem.seed, "fedgen-generator", round=round, device=problem.engine.device)
        held = weights.sum(0).nonzero().flatten()
        count = max(2, problem.training.batch_size)  # batch statistics need two
        for _ in range(self.generator_steps):
            labels, noise = uniform_labels(held, count, stream), generator.noise(count, stream)
            latents = generator(labels, noise)
            loss = self.generator_loss(problem.model, teachers, weights, latents, labels, noise)
            optimizer.step(torch.autograd.grad(loss, parameters))
        return {"generator": _copies(generator), "optimizer": dict(zip(names, optimizer.state, strict=True))}

    def generator_loss(
        self, model: Model, teachers: Sequence[Params], weights: Tensor, latents: Tensor, labels: Tensor, noise: Tensor
    ) -> Tensor:
        """What the generator minimises: the clients' weighted cross-entropy on its latents, and the diversity term."""
        ensemble = teacher_loss(model.classify, teachers, weights, latents, labels)
        return self.ensemble_weight * ensemble + self.diversity_weight * diversity(latents, noise)

    def build_generator(self, problem: Problem) -> LatentGenerator:
        """An untrained generator for the latents that the network's head reads."""
        latent: int = problem.model.network.head.in_features  # type: ignore[assignment, union-attr]
        sizes = (self.noise_dimension, problem.classes, self.hidden, latent)
        return seeded(lambda: LatentGenerator(*sizes), problem.seed, "fedgen").to(problem.engine.device)

    def generator(self, problem: Problem, state: State) -> LatentGenerator:
        """The generator as the state has it."""
        generator = self.build_generator(problem)
        generator.load_state_dict(state["generator"])
        return generator

    @staticmethod
    def held_classes(problem: Problem) -> Tensor:
        """The classes that participants hold."""
        return problem.counts[list(problem.participants)].sum(0).nonzero().flatten()


def _copies(generator: LatentGenerator) -> Params:
    """Parameters and batch statistics, as data of their own."""
    return {name: value.detach().clone() for name, value in generator.state_dict().items()}


METHOD = FedGen
