"""What work costs on this machine, in seconds of one core: measured in a few steps on random images."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from apfl.engine.device import Engine
from apfl.engine.networks import Model, build_network, initial_parameters
from apfl.engine.settings import TrainingConfig
from apfl.engine.training import train
from apfl.engine.work import Task, Work
from apfl.estimate.amounts import SEMANTIC_DIMENSION, Counting, narrow, random_images
from apfl.memorization.generator import GeneratorConfig, build_memory, memorize
from apfl.registry.trees import ROOT


def network_prices(
    network: Mapping[str, Any], channels: int, classes: int, training: TrainingConfig, batch: int
) -> tuple[float, float]:
    """Seconds of one image forward, and backward in batches of that size with its share of the optimiser's step."""
    model, engine = Model(build_network(network, channels, classes)), Engine.choose(training.precision, "cpu")
    start, images = initial_parameters(network, channels, classes, 0), random_images(500, channels, classes)
    everything, steps = torch.arange(500), 4
    work = Work(0, start, (training.phase(steps=steps, batch_size=batch),))

    def classify() -> None:
        with torch.inference_mode(), engine.autocast():
            model(start, images.batch(everything).images)

    trained = _shortest(lambda: train(model, Task(work, images, everything, 0, 1), engine)) / (steps * min(batch, 500))
    forward = _shortest(classify) / 500
    return forward, max(0.0, trained - forward)


def generator_prices(config: GeneratorConfig, channels: int, classes: int, precision: str) -> tuple[float, float]:
    """Seconds of one step of the generator without its teachers, and of drawing one image."""
    groups = config.batch_size // config.group
    seen, engine = min(classes, groups), Engine.choose(precision, "cpu")
    small = replace(config, epochs=4, steps_as_with=0, samples_per_class=config.group * (groups // seen))
    memory = build_memory(small, torch.randn(classes, SEMANTIC_DIMENSION), channels, 0)
    teacher, ends = narrow(channels, 1, classes), [time.process_time()]
    weights = (torch.arange(classes) < seen).float()[None]
    memorize(memory, Counting(teacher), [dict(teacher.named_parameters())], weights, engine, 0,
             on_epoch=lambda entry: ends.append(time.process_time()))  # fmt: skip
    labels, stream = torch.arange(100) % classes, torch.Generator().manual_seed(0)
    return min(map(float.__sub__, ends[1:], ends)), _shortest(lambda: memory.sample(labels, stream, engine)) / 100


def start_seconds() -> float:
    """Seconds of computing until the process of a job has begun."""
    code = (
        "import time, apfl.stages.federate, apfl.stages.memorize, apfl.stages.personalize; print(time.process_time())"
    )
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": paths}, stdout=subprocess.PIPE)
    return float(done.stdout or 0)


def _shortest(work: Callable[[], Any], times: int = 3) -> float:
    """Seconds of computing that the quickest of a few attempts takes; the first may warm up."""
    spent = []
    for _ in range(times):
        began = time.process_time()
        work()
        spent.append(time.process_time() - began)
    return min(spent)
