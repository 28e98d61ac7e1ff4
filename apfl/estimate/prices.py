"""What a round of a method takes on this machine, measured on random images.

The round is made in miniature: two clients with a few images each, and as small a part of whatever else the method has
many of. Everything is computed on the CPU; seconds are those that the process computes, so that other programs at work
do not count.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from timeit import repeat

import torch

from apfl.data.catalogue import channels_of
from apfl.engine.device import Engine
from apfl.engine.images import Images
from apfl.engine.networks import Model, build_network, initial_parameters
from apfl.engine.settings import TrainingConfig
from apfl.federation.evaluation import is_per_client
from apfl.federation.method import BaseModels, Derived, Models, load_method
from apfl.federation.problem import Problem, run_all
from apfl.federation.synchronous import Round, one_round
from apfl.memorization.generator import GeneratorConfig, build_memory
from apfl.study.runs import Run

CLIENTS, IMAGES = 2, 50
"""Clients of the miniature, and the most images that each has, synthetic ones among them."""
SAMPLES = "samples_per_class"
AMOUNTS = (SAMPLES, "steps_as_with", "steps", "generator_steps")
"""Hyper-parameters with which a round grows as it does with the images of a client."""
DIMENSION = 512
"""Of class embeddings, whose own dimension stands in their files alone; it hardly matters for the cost."""


@dataclass(frozen=True)
class Price:
    """Seconds of a client's round, with its share of the server's, for each of its images; and how many models of each
    client are evaluated."""

    image: float
    models: float = 1.0


def measured(run: Run, generator: GeneratorConfig | None, images: float, held: int, classes: int) -> Price:
    """The price of a run's method where clients have so many ``images`` each, of ``held`` of the ``classes``."""
    given = run.spec["parameters"]
    few = max(1, round(min(images, IMAGES / (1 + held * given.get(SAMPLES, 0) / images))))
    small = {name: max(1, round(given[name] * few / images)) for name in AMOUNTS if given.get(name)}
    # Two clients are too few for a Byzantine one.
    method = load_method(run.spec["module"], {**given, **small, **({"byzantine": 0} if "byzantine" in given else {})})
    problem = small_problem(run, few, held, classes)
    models: dict[str, Models] = {}
    work: Callable[[], object]
    if isinstance(method, Derived):
        base = BaseModels(problem.start, dict.fromkeys(problem.clients, problem.start))
        embeddings, channels = torch.randn(classes, DIMENSION), channels_of(run.dataset)
        memory = build_memory(generator, embeddings, channels, 0) if generator else None
        work = lambda: models.update(method.personalize(problem, base, 1, memory))  # noqa: E731
    else:
        now = Round(0, method.init(problem), {})
        work = partial(one_round, method, problem, now, 1, method.clients(problem), run_all)
    seconds = spent(work)
    each = sum(len(given) if is_per_client(given) else 1 for given in models.values()) / CLIENTS
    return Price(seconds / (CLIENTS * few), each or 1.0)


def price_of_drawing(config: GeneratorConfig, channels: int) -> Price:
    """The price of drawing an image from a generator."""
    memory = build_memory(config, torch.randn(10, DIMENSION), channels, 0)
    labels, stream, engine = torch.arange(100) % 10, torch.Generator().manual_seed(0), Engine.choose("auto", "cpu")
    return Price(spent(lambda: memory.sample(labels, stream, engine)) / len(labels))


def spent(work: Callable[[], object]) -> float:
    """The seconds that some work takes when torch is ready for it, as it is the second time."""
    return min(repeat(work, timer=time.process_time, repeat=2, number=1))


def small_problem(run: Run, images: int, held: int, classes: int) -> Problem:
    """Two clients with as many random ``images`` each, of ``held`` of the ``classes``, on the run's network."""
    training, channels = TrainingConfig(**run.spec["training"]), channels_of(run.dataset)
    pixels = torch.randint(0, 256, (CLIENTS * images, 32, 32, channels), dtype=torch.uint8)
    labels = torch.arange(CLIENTS * images) % held
    drawn = Images(pixels, labels, torch.full((channels,), 127.0), torch.full((channels,), 74.0))
    train = torch.arange(CLIENTS * images).split(images)
    return Problem(
        model=Model(build_network(run.spec["network"], channels, classes)),
        images=drawn,
        train=train,
        test=tuple(part[:1] for part in train),
        counts=torch.stack([torch.bincount(labels[part], minlength=classes) for part in train]),
        dropout=(False,) * CLIENTS,
        unseen=torch.zeros(classes, dtype=torch.bool),
        training=training,
        seed=0,
        start=initial_parameters(run.spec["network"], channels, classes, 0),
        engine=Engine.choose(training.precision, "cpu"),
        semantics=torch.randn(classes, DIMENSION),
        proxy=drawn,
    )
