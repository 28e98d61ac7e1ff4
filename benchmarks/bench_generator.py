"""The generator.

A training step of `apfl.memorization.generator.memorize` on ten classes with batch size 100: the forward and backward
passes of the generator and the teachers, Eq. 8, and Adam. The teachers hold classes as the clients of a Dirichlet
partition with alpha 0.1 do. The cost of an image is compared with that of one sample in the classifier's local
training, in the same precision (the default) and with one thread.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
import pytest
import torch

from apfl.engine.device import Engine
from apfl.engine.networks import CNN, Model, initial_parameters
from apfl.engine.process import tune_process
from apfl.memorization.generator import GeneratorConfig, build_memory, class_weights, memorize
from benchmarks.bench_training import library
from benchmarks.measuring import in_turn

CLASSES, EMBEDDING = 10, 512


def weights_of(teachers: int) -> torch.Tensor:
    """Eq. 7's weights [teachers, classes] where 1,000 images of each class are shared as Dirichlet 0.1 does."""
    shares = np.random.default_rng(0).dirichlet([0.1] * teachers, CLASSES).T
    return class_weights(torch.from_numpy((1000 * shares).round()))


def seconds_per_image(width: int, teachers: int, samples: int, engine: Engine) -> float:
    """Seconds per synthetic image of the second epoch of `memorize`."""
    config = GeneratorConfig(width=width, epochs=2, samples_per_class=samples)
    memory = build_memory(config, torch.randn(CLASSES, EMBEDDING), 3, seed=0)
    models = [initial_parameters({"name": "cnn"}, 3, CLASSES, seed) for seed in range(teachers)]
    ends: list[float] = []
    memorize(
        memory, Model(CNN(3, CLASSES)), models, weights_of(teachers), engine, seed=0,
        on_epoch=lambda _: ends.append(time.perf_counter()),
    )  # fmt: skip
    return (ends[1] - ends[0]) / (samples * CLASSES)


@pytest.mark.parametrize("teachers", [1, 10])
@pytest.mark.parametrize("width", [64, 16])
def bench_memorize(benchmark, record, quick, width: int, teachers: int) -> None:
    """The generator's step against the classifier's."""
    tune_process()
    torch.set_num_threads(1)
    engine = Engine.choose("auto", "cpu")
    samples, rounds = (20, 2) if quick else (40, 3)
    ours, classifier = in_turn(
        benchmark,
        rounds,
        lambda: seconds_per_image(width, teachers, samples, engine),
        lambda: 1 / library(500 if quick else 1000, engine.bf16, "adam"),
    )
    record(
        f"width {width}, {teachers} teacher{'s' * (teachers > 1)}: {1 / statistics.median(ours):,.0f} images/s",
        1e6 * statistics.median(ours), "µs an image",
        ratio=statistics.median(one / other for one, other in zip(ours, classifier, strict=True)),
        against="a sample of the classifier's training",
    )  # fmt: skip
