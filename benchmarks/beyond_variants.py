"""What was tried in search of a variant of AP-FL that beats FedAvg (docs/beyond.md): other local training, replay of
what the server memorizes, ensembles and their distillation, and other heads for the global model.

None of this is a method of the suite. What was found is `baselines.apfl_plus`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from apfl.engine.device import channels_last
from apfl.engine.networks import Model, Params
from apfl.engine.work import Gradient, Loss, Result, Step, Work
from apfl.federation.method import BaseModels, State
from apfl.federation.problem import Problem
from apfl.memorization.generator import (
    GeneratorConfig,
    Memory,
    build_memory,
    class_weights,
    ensemble_log_probabilities,
    memorize,
)
from apfl.streams import torch_stream
from baselines.apfl_plus import APFLPlus
from baselines.fedavg import FedAvg

GENERATOR = GeneratorConfig(samples_per_class=300, epochs=5, width=16)
"""The generator of all variants that have one, in a quarter of the usual width, for a CPU."""


def log_prior(counts: Tensor, share: float) -> Tensor:
    """log of a client's class frequencies [C], ``share`` of them spread over all classes."""
    frequencies = counts.double() / counts.sum().clamp_min(1)
    return ((1 - share) * frequencies + share / len(counts)).log().float()


@dataclass(frozen=True)
class LocalLoss:
    """Cross-entropy with three additions, each of which may be absent.

    ``prior`` [C] is added to the logits (logit adjustment, Menon et al. 2021; in federations FedLC, Zhang et al. 2022);
    ``teacher``, by ``not_true``, is followed on the wrong classes of the client's own images (FedNTD, Lee et al. 2022);
    ``images`` with ``targets``, by ``replay``, are learnt beside the client's own, ``count`` at a step.
    """

    prior: Tensor | None = None
    teacher: Params | None = None
    not_true: float = 0.0
    images: Tensor | None = None
    targets: Tensor | None = None
    replay: float = 1.0
    count: int = 25

    def __call__(self, model: Model, params: Params, step: Step) -> Tensor:
        logits, labels = model(params, step.batch.images).float(), step.batch.labels
        loss = F.cross_entropy(logits if self.prior is None else logits + self.prior, labels)
        if self.teacher is not None:
            loss = loss + self.not_true * self.divergence(model, logits, step)
        if self.images is not None:
            rows = torch.randint(len(self.images), (self.count,), generator=step.stream)
            loss = loss + self.replay * F.cross_entropy(model(params, self.images[rows]).float(), self.targets[rows])
        return loss

    def divergence(self, model: Model, logits: Tensor, step: Step) -> Tensor:
        """KL divergence over the classes that an image is not of."""
        with torch.no_grad():
            given = model(self.teacher, step.batch.images).float()
        true = F.one_hot(step.batch.labels, logits.shape[1]).bool()
        ours, theirs = (values.masked_fill(true, -1e9).log_softmax(1) for values in (logits, given))
        return F.kl_div(ours, theirs, log_target=True, reduction="none").masked_fill(true, 0).sum(1).mean()


def from_generator(trial: Trial, state: State, problem: Problem, client: int, stream: torch.Generator) -> Tensor:
    """Synthetic images of the classes of which the client holds less than 1 %, as frequent as in the federation."""
    lacking = problem.counts[client] < 0.01 * problem.size(client)
    labels = torch.multinomial(problem.counts.sum(0).double() * lacking, trial.pool, replacement=True, generator=stream)
    return trial.memory(problem, state["generator"]).sample(labels, stream, problem.engine).clone()


def from_noise(trial: Trial, state: State, problem: Problem, client: int, stream: torch.Generator) -> Tensor:
    return torch.randn(trial.pool, *problem.images.batch(problem.train[client][:1]).images.shape[1:], generator=stream)


def from_own(trial: Trial, state: State, problem: Problem, client: int, stream: torch.Generator) -> Tensor:
    rows = torch.randint(problem.size(client), (trial.pool,), generator=stream)
    return problem.images.batch(problem.train[client][rows]).images


REPLAYED: Mapping[str, Callable[..., Tensor]] = {
    "clients": from_generator,
    "global": from_generator,
    "noise": from_noise,
    "own": from_own,
}


@dataclass(frozen=True)
class Trial(FedAvg):
    """Federated averaging with another local loss, and what it needs of the server.

    :param adjust: share of the prior in logit adjustment that is spread over all classes; 0 for plain cross-entropy.
    :param not_true: weight of not-true distillation from the global model.
    :param replay: images that the clients learn besides their own, with the global model's probabilities for labels:
        of a generator with Eq. 7's ``clients`` or the ``global`` model for teacher, ``noise``, or their ``own``.
    :param pool: images to replay, for each client and round.
    :param feedback: in every round the head is read off the memory of features.
    """

    adjust: float = 0.0
    not_true: float = 0.0
    replay: str = ""
    pool: int = 1000
    feedback: bool = False

    title: ClassVar[str] = "trial"
    additive: ClassVar[bool] = False

    @property
    def config(self) -> GeneratorConfig:
        return GeneratorConfig(samples_per_class=300, epochs=1, width=16)

    def memory(self, problem: Problem, parameters: Mapping[str, Tensor] | None = None) -> Memory:
        memory = build_memory(self.config, problem.semantics, problem.images.pixels.shape[-1], problem.seed)
        if parameters is not None:
            memory.generator.load_state_dict(parameters)
        return memory

    def init(self, problem: Problem) -> State:
        generates = REPLAYED.get(self.replay) is from_generator
        return {"global": problem.start} | (
            {"generator": dict(self.memory(problem).generator.state_dict())} if generates else {}
        )

    def client_work(self, state: State, problem: Problem, round: int, clients: Sequence[int]) -> list[Work]:
        phases = (problem.phase(Gradient(self.loss(state, problem, round, client))) for client in clients)
        return [Work(client, state["global"], (phase,)) for client, phase in zip(clients, phases, strict=True)]

    def loss(self, state: State, problem: Problem, round: int, client: int) -> Loss:
        prior = log_prior(problem.counts[client], self.adjust) if self.adjust else None
        teacher = state["global"] if self.not_true else None
        if not self.replay or round == 1:  # nobody knows anything yet
            return LocalLoss(prior, teacher, self.not_true)
        stream = torch_stream(problem.seed, "replay", round=round, client=client)
        images = REPLAYED[self.replay](self, state, problem, client, stream)
        with torch.no_grad(), problem.engine.autocast():
            logits = torch.cat([problem.model(state["global"], part).float() for part in images.split(500)])
        images = images.contiguous(memory_format=torch.channels_last)
        return LocalLoss(prior, teacher, self.not_true, images, logits.softmax(1).clone())

    def server_update(self, state: State, problem: Problem, round: int, results: Sequence[Result]) -> State:
        new = super().server_update(state, problem, round, results)
        if self.feedback:
            memory = APFLPlus.memory(problem, new["global"], problem.participants)
            head = centred(APFLPlus().read(new["global"], memory, memory.counts > 0))
            new = new | {"global": head}
        if "generator" in state:
            memory = self.memory(problem, state["generator"])
            sent = {result.client: result.params for result in results if problem.size(result.client)}
            teachers, weights = list(sent.values()), class_weights(problem.counts[list(sent)])
            if self.replay == "global":
                teachers, weights = [new["global"]], (problem.counts.sum(0, keepdim=True) > 0).float()
            memorize(memory, problem.model, teachers, weights, problem.engine, problem.seed, round)
            new = new | {"generator": {name: value.clone() for name, value in memory.generator.state_dict().items()}}
        return new


def centred(model: Params) -> Params:
    """The model with a head whose rows have the mean zero: the same probabilities, in smaller numbers."""
    return model | {name: model[name] - model[name].mean(0) for name in ("head.weight", "head.bias")}


def ensembles(problem: Problem, base: BaseModels) -> dict[str, Callable[[Tensor], Tensor]]:
    """Ensembles of the local models, as functions of images to scores [B, C]."""
    clients = [client for client in base.local_models if problem.size(client)]
    models, weights = [base.local_models[client] for client in clients], class_weights(problem.counts[clients])
    priors = torch.stack([log_prior(problem.counts[client], 0.03) for client in clients])

    def logits(images: Tensor) -> Tensor:
        return torch.stack([problem.model(model, images).float() for model in models])

    return {
        "Eq. 7": lambda images: ensemble_log_probabilities(problem.model, models, weights, images),
        "mean logits": lambda images: logits(images).mean(0),
        "mean probabilities": lambda images: logits(images).softmax(2).mean(0),
        "mean adjusted probabilities": lambda images: (logits(images) - priors[:, None]).softmax(2).mean(0),
    }


def generator_of(problem: Problem, base: BaseModels) -> Memory:
    """AP-FL's generator, with the clients for teachers (Eq. 7)."""
    clients = [client for client in base.local_models if problem.size(client)]
    teachers, weights = [base.local_models[client] for client in clients], class_weights(problem.counts[clients])
    memory = build_memory(GENERATOR, problem.semantics, problem.images.pixels.shape[-1], problem.seed)
    return memorize(memory, problem.model, teachers, weights, problem.engine, problem.seed).memory


def distilled(problem: Problem, base: BaseModels, source: str, steps: int = 300, size: int = 64) -> Params:
    """The global model after following the Eq. 7 ensemble on images of ``generator``, ``noise`` or ``real``, which are
    all clients' training images and which no server has."""
    held, everyone = problem.counts.sum(0).nonzero().flatten(), torch.cat(problem.train)
    memory = generator_of(problem, base) if source == "generator" else None
    stream = torch_stream(problem.seed, "beyond-distilled")
    shape = problem.images.batch(everyone[:1]).images.shape[1:]

    def draw() -> Tensor:
        if memory:
            chosen = held[torch.randint(len(held), (size,), generator=stream)]
            return memory.sample(chosen, stream, problem.engine).clone()
        if source == "noise":
            return torch.randn(size, *shape, generator=stream)
        return problem.images.batch(everyone[torch.randint(len(everyone), (size,), generator=stream)]).images

    teacher = ensembles(problem, base)["Eq. 7"]
    student = {name: value.requires_grad_() for name, value in channels_last(base.global_model).items()}
    optimizer = torch.optim.Adam(student.values(), problem.training.learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        images = draw()
        with problem.engine.autocast():
            with torch.no_grad():
                target = teacher(images)
            logits = problem.model(student, images).float()
        optimizer.zero_grad()
        F.kl_div(logits.log_softmax(1), target, log_target=True, reduction="batchmean").backward()
        optimizer.step()
        schedule.step()
    return {name: value.detach() for name, value in student.items()}


def features_of(problem: Problem, model: Params, images: Tensor) -> Tensor:
    """float64 [n, d]."""
    with torch.no_grad(), problem.engine.autocast():
        return torch.cat([problem.model.features(model, part).double() for part in images.split(500)])


def head_of(kind: str, problem: Problem, model: Params, features: Tensor, labels: Tensor) -> Params:
    """The model with a head for these features [n, d]: ``nearest mean``, ``diagonal`` covariance, ``ridge`` regression
    (as Fani et al. 2024), or trained on ``samples`` of a Gaussian for each class (as Luo et al. 2021)."""
    onehot = F.one_hot(labels, problem.classes).double()
    means = onehot.T @ features / onehot.sum(0).clamp_min(1)[:, None]
    if kind == "samples":
        return sampled_head(problem, model, features, labels)
    if kind == "ridge":
        extended = torch.cat([features, torch.ones(len(features), 1)], 1).double()
        penalty = 0.01 * len(features) * torch.eye(extended.shape[1]).double()
        solution = torch.linalg.solve(extended.T @ extended + penalty, extended.T @ onehot).T
        weight, bias = solution[:, :-1], solution[:, -1]
    else:
        spread = ((features - means[labels]).square().mean(0) + 1e-3) if kind == "diagonal" else 1.0
        weight = means / spread
        bias = -(weight * means).sum(1) / 2
    return model | {"head.weight": weight.float(), "head.bias": bias.float()}


def sampled_head(problem: Problem, model: Params, features: Tensor, labels: Tensor, steps: int = 1000) -> Params:
    """The head after ``steps`` of Adam on 500 samples of each class, from its Gaussian with a covariance of its own."""
    stream = torch_stream(problem.seed, "beyond-samples")
    drawn, drawn_labels = [], []
    for label in [label for label in range(problem.classes) if (labels == label).sum() > 1]:
        own = features[labels == label]
        covariance = torch.cov(own.T)
        diagonal = torch.diag(covariance.diagonal())
        factor = torch.linalg.cholesky(torch.lerp(covariance, diagonal, 0.1) + 1e-4 * torch.eye(len(diagonal)))
        drawn.append((own.mean(0) + torch.randn(500, len(factor), generator=stream).double() @ factor.T).clamp_min(0))
        drawn_labels += [label] * 500
    inputs, targets = torch.cat(drawn).float(), torch.tensor(drawn_labels)
    head = {name: model[name].clone().requires_grad_() for name in ("head.weight", "head.bias")}
    optimizer = torch.optim.Adam(head.values(), 1e-3)
    for _ in range(steps):
        rows = torch.randint(len(targets), (100,), generator=stream)
        optimizer.zero_grad()
        F.cross_entropy(problem.model.classify(head, inputs[rows]), targets[rows]).backward()
        optimizer.step()
    return model | {name: value.detach() for name, value in head.items()}
