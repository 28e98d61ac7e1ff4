"""Global memorization (section 3.2): the server's semantic generator, Eq. 5 to 9 and 11.

The generator learns without data from the models that the non-dropout clients sent: a synthetic image of class y
should be classified as y by the clients that hold y (Eq. 6 and 7), and images of one class should differ (Eq. 8).
Classes are given by their semantic embeddings (Eq. 11), so that classes nobody trained on can be asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from apfl.engine.device import Engine, channels_last
from apfl.engine.images import laid_out
from apfl.engine.networks import Model, Params, seeded
from apfl.engine.optimizers import Adam
from apfl.engine.work import Diverged
from apfl.errors import check_fields, require
from apfl.federation.method import BaseModels
from apfl.federation.problem import Problem
from apfl.memorization.network import SemanticGenerator
from apfl.streams import torch_stream


@dataclass(frozen=True)
class GeneratorConfig:
    """How the generator is built and trained.

    :param noise_dimension: dimension of z; the paper calls 20 to 100 best.
    :param samples_per_class: synthetic samples of each seen class in an epoch (600 in the paper).
    :param ce_weight: lambda of Eq. 9 (0.5 in the paper); the diversity term has weight 1 - lambda.
    :param diversity: ``paper`` (Eq. 8), ``ratio`` (mode seeking, Mao et al. 2019) or ``exp`` (FedGen's, bounded).
    :param teacher: ``clients`` (Eq. 7) or ``global`` ("under global model supervision").
    :param class_weight: alpha_k^y of Eq. 7, n_k^y over the images of class y (``class``) or over all images, N
        (``all``: "in the entire global training set", which makes the classification term about as many times smaller
        beside Eq. 8 as there are classes).
    :param staleness_rate: a of the discount (1 + tau)^-a of models that are tau versions old, in Eq. 7; 0 for none. It
        matters where models differ in age: in asynchronous federations, and where the server draws clients.
    :param epochs: passes over ``samples_per_class`` of each seen class (not published).
    :param steps_as_with: samples per class with which ``epochs`` passes take as many steps as are to be taken here, so
        that more samples are no more training; 0 for ``epochs`` passes whatever their number.
    :param learning_rate: of Adam (not published; 1e-3 as in data-free adversarial distillation).
    :param width: channels of the generator (64 in the literature); its cost grows with the square.
    :param batch_size: images a step.
    :param group: images of one class in a batch, among which Eq. 8 compares pairs.
    """

    noise_dimension: int = 100
    samples_per_class: int = 600
    ce_weight: float = 0.5
    diversity: str = "paper"
    teacher: str = "clients"
    class_weight: str = "class"
    staleness_rate: float = 0.5
    epochs: int = 10
    steps_as_with: int = 0
    learning_rate: float = 1e-3
    width: int = 64
    batch_size: int = 100
    group: int = 10

    @property
    def passes(self) -> int:
        """Over the samples of an epoch."""
        return passes(self.epochs, self.samples_per_class, self.steps_as_with)

    def __post_init__(self) -> None:
        whole = ("noise_dimension", "samples_per_class", "epochs", "width", "batch_size")
        least = dict.fromkeys(whole, 1) | {"group": 2, "staleness_rate": 0, "steps_as_with": 0}
        known = {"diversity": DIVERSITIES, "teacher": ("clients", "global"), "class_weight": ("class", "all")}
        check_fields(self, "generator", at_least=least, positive=("learning_rate",), one_of=known)
        require(0 <= self.ce_weight <= 1, f"generator.ce_weight {self.ce_weight}: must be from 0 to 1 (Eq. 9)")
        divides = self.batch_size % self.group == 0
        require(divides, f"generator.group {self.group}: must divide batch_size {self.batch_size}")


def passes(epochs: int, samples: int, as_with: int) -> int:
    """How often to go over ``samples`` so that the steps are those of ``epochs`` over ``as_with`` samples; simply
    ``epochs`` if that is 0.

    >>> passes(10, 600, 0), passes(10, 50, 600), passes(10, 1000, 600)
    (10, 120, 6)
    """
    return max(1, round(epochs * as_with / samples)) if as_with else epochs


def class_weights(counts: Tensor, over: str = "class") -> Tensor:
    """alpha of Eq. 7: [K, classes] counts n_k^y of the non-dropout clients to n_k^y / sum_k n_k^y, or to n_k^y / N with
    N = sum_k,y n_k^y if they are taken ``over`` "all".

    Each seen class has weights that sum to one, or to its share of all images; a class that nobody holds has weight
    zero everywhere.
    """
    counts = counts.double()
    total = counts.sum(0)
    if over == "all":
        total = total.sum().expand_as(total)
    return torch.where(total > 0, counts / total.where(total > 0, torch.ones_like(total)), 0.0).float()


def discounted(counts: Tensor, staleness: Sequence[int], rate: float) -> Tensor:
    """Counts [K, classes] of clients whose models are ``staleness`` versions old, discounted by (1 + tau)^-rate.

    Eq. 7 with these counts listens more to fresh models; each seen class still has weights that sum to one.
    """
    factors = torch.tensor([(1.0 + tau) ** -rate for tau in staleness], dtype=torch.float64, device=counts.device)
    return counts * factors[:, None]


def teachers_of(problem: Problem, base: BaseModels, config: GeneratorConfig) -> tuple[list[Params], Tensor]:
    """The models that the generator learns from, and their weights [teachers, classes] (Eq. 7).

    ``clients``: the latest local model that each non-dropout client sent, discounted if it is stale; ``global``: the
    global model, with weight one on every seen class.
    """
    present = [client for client in problem.participants if client in base.local_models]
    if config.teacher == "global":
        return [base.global_model], (problem.counts[list(problem.participants)].sum(0, keepdim=True) > 0).float()
    staleness = [base.staleness.get(client, 0) for client in present]
    counts = discounted(problem.counts[present], staleness, config.staleness_rate)
    return [base.local_models[client] for client in present], class_weights(counts, config.class_weight)


def diversity_paper(images: Tensor, noise: Tensor) -> Tensor:
    """Eq. 8 on groups of one class [classes, n_s, ...]: minus the mean Euclidean distance over ordered pairs i != j."""
    flat = images.flatten(2).float()
    samples = flat.shape[1]
    return -torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist").sum((1, 2)).mean() / (
        samples * (samples - 1)
    )


def _pairs(images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Mean absolute differences of images and of noise, over pairs of distinct samples: [classes, pairs] each."""
    flat = images.flatten(2).float()
    first, second = torch.triu_indices(flat.shape[1], flat.shape[1], 1, device=flat.device)
    return (flat[:, first] - flat[:, second]).abs().mean(2), (noise[:, first] - noise[:, second]).abs().mean(2)


def diversity_ratio(images: Tensor, noise: Tensor) -> Tensor:
    """Mode seeking (Mao et al. 2019): the inverse of the mean ratio of image distance to noise distance; bounded
    below by 0."""
    between_images, between_noise = _pairs(images, noise)
    return 1 / ((between_images / between_noise.clamp_min(1e-5)).mean() + 1e-5)


def diversity_exp(images: Tensor, noise: Tensor) -> Tensor:
    """FedGen's term (Zhu et al. 2021): exp of minus the mean product of the two distances, in (0, 1]."""
    between_images, between_noise = _pairs(images, noise)
    return torch.exp(-(between_images * between_noise.square()).mean())


DIVERSITIES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "paper": diversity_paper,
    "ratio": diversity_ratio,
    "exp": diversity_exp,
}


def teacher_loss(
    model: Callable[[Params, Tensor], Tensor],
    teachers: Sequence[Params],
    weights: Tensor,
    images: Tensor,
    labels: Tensor,
) -> Tensor:
    """Eq. 6 and 7, averaged over the batch: mean_b sum_k alpha_k^{y_b} CE(D(x_b; theta_k), y_b).

    A teacher sees only the images of the classes it has weight in: the others would be multiplied by zero.
    """
    total = images.new_zeros((), dtype=torch.float32)
    for teacher, weight in zip(teachers, weights[:, labels], strict=True):
        (rows,) = weight.nonzero(as_tuple=True)
        if len(rows):
            loss = F.cross_entropy(model(teacher, laid_out(images[rows])).float(), labels[rows], reduction="none")
            total = total + (weight[rows] * loss).sum()
    return total / len(labels)


def ensemble_log_probabilities(model: Model, teachers: Sequence[Params], weights: Tensor, images: Tensor) -> Tensor:
    """What the teachers together know: log of sum_k alpha_k^c p_k(c | x), normalised over the classes c: [B, classes].

    A friend that learns from their synthetic images gets what they know; its own start may know more.
    """
    total = images.new_zeros((len(images), weights.shape[1]), dtype=torch.float32)
    for teacher, weight in zip(teachers, weights, strict=True):
        total = total + weight * model(teacher, images).float().softmax(1)
    return torch.log(total / total.sum(1, keepdim=True).clamp_min(1e-30) + 1e-30)


@dataclass(frozen=True)
class Memory:
    """A trained generator with the class embeddings it was given: the artefact that the server sends to clients.

    ``embeddings`` [classes, d] are all classes, seen or not.
    """

    config: GeneratorConfig
    generator: SemanticGenerator
    embeddings: Tensor

    def sample(self, labels: Tensor, stream: torch.Generator, engine: Engine) -> Tensor:
        """Images [n, C, 32, 32] of the classes ``labels`` [n], normalised as real images are; chunk by chunk."""
        images = []
        self.generator.eval()
        with torch.inference_mode(), engine.autocast():
            for rows in labels.split(500):
                noise = torch.randn(len(rows), self.config.noise_dimension, generator=stream, device=stream.device)
                images.append(self.generator(noise, self.embeddings[rows]).float())
        channels: int = self.generator.image[-1].num_features  # type: ignore[assignment]
        return torch.cat(images) if images else torch.zeros(0, channels, 32, 32, device=labels.device)


@dataclass(frozen=True)
class Memorized:
    """What `memorize` returns: the memory, and the two terms of Eq. 9 after each epoch, for the record."""

    memory: Memory
    history: list[dict[str, Any]] = field(default_factory=list)


def build_memory(config: GeneratorConfig, embeddings: Tensor, channels: int, seed: int) -> Memory:
    """An untrained generator for these class embeddings [classes, d]."""
    generator = seeded(
        lambda: SemanticGenerator(config.noise_dimension, embeddings.shape[1], channels, config.width),
        seed,
        "generator",
    )
    return Memory(config, generator.to(embeddings.device, memory_format=torch.channels_last), embeddings)  # type: ignore[call-overload]


def memorize(
    memory: Memory,
    model: Model,
    teachers: Sequence[Params],
    weights: Tensor,
    engine: Engine,
    seed: int,
    round: int = 0,
    on_epoch: Callable[[dict[str, Any]], None] = lambda entry: None,
) -> Memorized:
    """Train the generator on Eq. 9 with the teachers fixed; it goes on from what ``memory`` knows, in place.

    ``weights`` [teachers, classes] are `class_weights`; only classes with weight (the seen ones) are asked for.
    Afterwards the batch statistics are set to their averages over one epoch, so that sampling does not depend on the
    batch.
    """
    config, generator = memory.config, memory.generator
    teachers = [channels_last(teacher) for teacher in teachers]
    parameters = list(generator.parameters())
    optimizer = Adam(parameters, config.learning_rate)
    stream = torch_stream(seed, "memorize", round=round, device=engine.device)
    diversity = DIVERSITIES[config.diversity]
    generator.train()
    history = []
    for epoch in range(1, config.passes + 1):
        sums, steps = torch.zeros(2), 0
        for labels in epoch_labels(weights, config, stream):
            noise = torch.randn(len(labels), config.noise_dimension, generator=stream, device=engine.device)
            with engine.autocast():
                images = generator(noise, memory.embeddings[labels])
                classification = teacher_loss(model, teachers, weights, images, labels)
            groups = (-1, config.group)
            spread = diversity(images.view(*groups, *images.shape[1:]), noise.view(*groups, noise.shape[1]))
            loss = config.ce_weight * classification + (1 - config.ce_weight) * spread
            optimizer.step(torch.autograd.grad(loss, parameters))
            sums += torch.stack([classification.detach().cpu(), spread.detach().cpu()])
            steps += 1
        means = (sums / max(steps, 1)).tolist()
        if not all(map(math.isfinite, means)):
            raise Diverged(round, "the generator")
        history.append({"epoch": epoch, "classification": means[0], "diversity": means[1]})
        on_epoch(history[-1])
    _calibrate(memory, weights, engine, stream)
    return Memorized(memory, history)


def epoch_labels(weights: Tensor, config: GeneratorConfig, stream: torch.Generator) -> Sequence[Tensor]:
    """The labels of one epoch, batch by batch: ``samples_per_class`` of each seen class, in shuffled groups of one
    class."""
    seen = weights.sum(0).nonzero().flatten()
    groups = seen.repeat_interleave(max(1, round(config.samples_per_class / config.group)))
    order = torch.randperm(len(groups), generator=stream, device=stream.device)
    batches = groups[order].split(config.batch_size // config.group)
    return [batch.repeat_interleave(config.group) for batch in batches]


def _calibrate(memory: Memory, weights: Tensor, engine: Engine, stream: torch.Generator) -> None:
    """Set batch statistics to their plain averages over an epoch of synthetic images."""
    layers = [layer for layer in memory.generator.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
    with torch.no_grad(), engine.autocast():
        for labels in epoch_labels(weights, memory.config, stream):
            noise = torch.randn(len(labels), memory.config.noise_dimension, generator=stream, device=engine.device)
            memory.generator(noise, memory.embeddings[labels])
    for layer in layers:
        layer.momentum = 0.1
    memory.generator.eval()
