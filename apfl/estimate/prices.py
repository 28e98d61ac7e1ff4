"""What a method takes on this machine for a client, for an image and for a server, measured on random images.

The method works once for two clients with few images, and with as few synthetic ones in proportion, and once for twice
as many: a line through both says what more images take. Everything is computed on the CPU; seconds are those that the
process computes, so that other programs at work do not count.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from timeit import repeat

import torch

from apfl.data.catalogue import channels_of
from apfl.engine.device import Engine
from apfl.engine.images import Images
from apfl.engine.networks import Model, build_network, initial_parameters
from apfl.engine.settings import TrainingConfig
from apfl.engine.work import Result, Work
from apfl.federation.evaluation import is_per_client
from apfl.federation.method import BaseModels, Derived, Method, load_method
from apfl.federation.problem import Problem, run_all
from apfl.federation.synchronous import Round, one_round
from apfl.memorization.generator import GeneratorConfig, build_memory
from apfl.study.runs import Run

CLIENTS, IMAGES, EPOCHS = 2, 50, 2
"""At most so many clients, images of each (and twice as many, synthetic ones among them), and epochs are measured."""
SYNTHETIC = ("samples_per_class", "steps_as_with")
"""Hyper-parameters that say how many synthetic images there are: fewer in proportion where a method is measured."""
SERVER_STEPS = {"steps": 4, "generator_steps": 4}
"""Hyper-parameters with which a server's work grows, and the most of them that is measured; synthetic images do too."""
DIMENSION = 512
"""Of class embeddings, whose own dimension stands in their files alone; it hardly matters for the cost."""


@dataclass(frozen=True)
class Price:
    """Seconds of a client whatever its images, and for each of them, in all local epochs and with the synthetic images
    that go with it; seconds of the server in a round; and how many models of each client are evaluated."""

    client: float
    image: float
    server: float = 0.0
    models: float = 1.0


def measured(
    run: Run, generator: GeneratorConfig | None, clients: int, images: float, held: int, classes: int
) -> Price:
    """The price of a run's method where ``clients`` have so many ``images`` each, of ``held`` of the ``classes``."""
    training, parameters = TrainingConfig(**run.spec["training"]), dict(run.spec["parameters"])
    epochs, drawn = min(EPOCHS, training.local_epochs), held * parameters.get("samples_per_class", 0)
    few = max(1, round(min(IMAGES / (1 + drawn / images), images / 2)))

    def at(count: int) -> tuple[float, float, float]:
        """Seconds of two clients with so many images, and of the server; and models of each client."""
        given = {name: parameters[name] for name in (*SYNTHETIC, *SERVER_STEPS) if parameters.get(name)}
        small = {
            name: max(1, round(value * count / images)) if name in SYNTHETIC else min(value, SERVER_STEPS[name])
            for name, value in given.items()
        }
        method = load_method(run.spec["module"], parameters | small)
        problem = small_problem(
            run,
            clients if run.stage == "federate" else CLIENTS,
            replace(training, local_epochs=epochs),
            count,
            held,
            classes,
        )
        if run.stage == "personalize":
            return personalized(method, problem, generator)
        more = max((given[name] / small[name] for name in given), default=1.0)
        spent, server = one_round_of_few(method, problem)
        return spent, server * more, 1.0

    (one, server, models), (two, again, _) = (at(count) for count in (few, 2 * few))
    image = max(0.0, two - one) / (CLIENTS * few)
    client = max(0.0, one / CLIENTS - few * image)
    return Price(client, image * training.local_epochs / epochs, min(server, again), models)


def one_round_of_few(method: Method, problem: Problem) -> tuple[float, float]:
    """Seconds of two clients in a round of a federated method, and of its server, who hears as many as there are: the
    others send what these do."""
    spent = 0.0

    def carry_out(problem: Problem, pieces: Sequence[tuple[Work, int]]) -> list[Result]:
        nonlocal spent
        some = list(dict.fromkeys(piece.client for piece, _ in pieces))[:CLIENTS]
        began = time.process_time()
        results = list(run_all(problem, [piece for piece in pieces if piece[0].client in some]))
        spent = (time.process_time() - began) * CLIENTS / len(some)
        like = {result.role: result for result in results}
        return [replace(like[piece.role], work=piece) for piece, _ in pieces]

    now, clients, began = Round(0, method.init(problem), {}), method.clients(problem), time.process_time()
    one_round(method, problem, now, 1, clients, carry_out)
    whole = time.process_time() - began
    return spent, max(0.0, whole - spent * min(1, len(clients) / CLIENTS))


def personalized(method: Derived, problem: Problem, generator: GeneratorConfig | None) -> tuple[float, float, float]:
    """Seconds of the clients' personalizations, none of a server; and models of each client."""
    base = BaseModels(problem.start, dict.fromkeys(problem.clients, problem.start))
    embeddings, channels = torch.randn(problem.classes, DIMENSION), problem.images.pixels.shape[-1]
    memory = build_memory(generator, embeddings, channels, 0) if generator else None
    began = time.process_time()
    models = method.personalize(problem, base, 1, memory)
    spent = time.process_time() - began
    return spent, 0.0, sum(len(given) if is_per_client(given) else 1 for given in models.values()) / CLIENTS


def price_of_drawing(config: GeneratorConfig, channels: int) -> Price:
    """The price of drawing an image from a generator."""
    memory = build_memory(config, torch.randn(10, DIMENSION), channels, 0)
    labels, stream, engine = torch.arange(100) % 10, torch.Generator().manual_seed(0), Engine.choose("auto", "cpu")
    spent = repeat(lambda: memory.sample(labels, stream, engine), timer=time.process_time, repeat=3, number=1)
    return Price(0.0, min(spent) / 100)


def small_problem(run: Run, clients: int, training: TrainingConfig, images: int, held: int, classes: int) -> Problem:
    """Clients with as many random ``images`` each, of ``held`` of the ``classes``, on the run's network."""
    channels, count = channels_of(run.dataset), clients * images
    pixels = torch.randint(0, 256, (count, 32, 32, channels), dtype=torch.uint8)
    labels = torch.arange(count) % held
    drawn = Images(pixels, labels, torch.full((channels,), 127.0), torch.full((channels,), 74.0))
    train = tuple(torch.arange(client * images, (client + 1) * images) for client in range(clients))
    return Problem(
        model=Model(build_network(run.spec["network"], channels, classes)),
        images=drawn,
        train=train,
        test=tuple(part[:1] for part in train),
        counts=torch.stack([torch.bincount(labels[part], minlength=classes) for part in train]),
        dropout=(False,) * clients,
        unseen=torch.zeros(classes, dtype=torch.bool),
        training=training,
        seed=0,
        start=initial_parameters(run.spec["network"], channels, classes, 0),
        engine=Engine.choose(training.precision, "cpu"),
        semantics=torch.randn(classes, DIMENSION),
        proxy=drawn,
    )
