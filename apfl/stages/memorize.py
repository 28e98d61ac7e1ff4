"""``apfl memorize``: train the semantic generator on the models that a federated run kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from apfl.engine.work import Diverged
from apfl.errors import UserError
from apfl.federation.evaluation import outcomes, pooled_indices
from apfl.federation.method import BaseModels
from apfl.federation.problem import Problem
from apfl.memorization.generator import GeneratorConfig, build_memory, ensemble_log_probabilities, memorize, teachers_of
from apfl.stages.cycles import generator_cycles
from apfl.stages.handover import base_diverged, load_base
from apfl.stages.job import USUAL, Keeping, Made, Work, run_once
from apfl.stages.problem import Inputs, load_problem
from apfl.stages.samples import no_samples, sample_grid
from apfl.stages.specification import Specification, configure
from apfl.storage.files import digest
from apfl.storage.run_folder import Record
from apfl.storage.tensors import write_tensors


def accuracies(problem: Problem, base: BaseModels, config: GeneratorConfig) -> dict[str, float]:
    """Accuracy in [0, 1] on the real pooled test images of the Eq. 7-weighted teachers, and of the global model."""
    indices = pooled_indices(problem)
    models, weights = teachers_of(problem, base, dataclasses.replace(config, teacher="clients"))
    weighted = outcomes(
        problem, lambda images: ensemble_log_probabilities(problem.model, models, weights, images), indices
    )
    average = outcomes(problem, lambda images: problem.model(base.global_model, images), indices)
    return {name: one.correct.double().mean().item() for name, one in (("teachers", weighted), ("global", average))}


def memorize_run(
    specification: Specification, inputs: Inputs, out: Path, device: str = "auto", keeping: Keeping = USUAL
) -> None:
    """Train a generator for each of the named rounds and write ``generator.safetensors``, ``samples.png``,
    ``run.json``."""
    specification.require("semantics", "rounds")

    def prepare() -> tuple[Problem, Work]:
        config = configure(GeneratorConfig, specification.parameters or {}, "generator")
        problem = load_problem(specification, inputs, device)
        if (semantics := problem.semantics) is None:
            raise UserError("memorize: needs --semantics; give the path of an embedding table made by `apfl semantics`")
        return problem, lambda record, watch: _train(config, problem, semantics, inputs, record)

    run_once("memorize", specification, inputs, out, prepare, keeping=keeping)


def _train(config: GeneratorConfig, problem: Problem, semantics: Tensor, inputs: Inputs, record: Record) -> Made:
    """A generator for each round."""
    base, rounds = inputs.required("run"), tuple(record.specification["rounds"])
    if base_diverged(base):
        return _diverged(config, record, f"{base}: diverged, so there is nothing to learn from")
    tensors = {"embeddings": semantics}
    found: dict[str, dict[str, Any]] = {"history": {}, "teachers": {}, "cycles": {}}
    try:
        for number, models in load_base(base, rounds, problem.engine.device, problem.start).items():
            memory = build_memory(config, semantics, problem.images.pixels.shape[-1], problem.seed)
            teachers, weights = teachers_of(problem, models, config)
            done = memorize(memory, problem.model, teachers, weights, problem.engine, problem.seed, number,
                            on_epoch=_printer(number, config))  # fmt: skip
            found["history"][str(number)] = done.history
            found["teachers"][str(number)] = accuracies(problem, models, config)
            found["cycles"][str(number)] = generator_cycles(problem, memory, weights)
            tensors |= {f"round{number}/{name}": value for name, value in memory.generator.state_dict().items()}
    except Diverged as error:
        return _diverged(config, record, f"{error}; lower generator.learning_rate")
    return Made(_files(config, record, tensors, lambda path: sample_grid(path, problem, memory, inputs.data)), found)


def _diverged(config: GeneratorConfig, record: Record, why: str) -> Made:
    """Says that there is no generator, in files that the next stage reads."""
    print(why)
    files = _files(config, record, {}, lambda path: no_samples(path, why))
    return Made(files, {"history": {}, "teachers": {}}, diverged=True)


def _files(
    config: GeneratorConfig, record: Record, tensors: dict[str, Tensor], picture: Callable[[Path], None]
) -> dict[str, Callable[[Path], None]]:
    header = {"config": vars(config), "specification": digest(record.specification)}
    return {"generator.safetensors": lambda path: write_tensors(path, tensors, header), "samples.png": picture}


def _printer(number: int, config: GeneratorConfig) -> Callable[[dict[str, Any]], None]:
    def show(entry: dict[str, Any]) -> None:
        print(
            f"generator of round {number}: epoch {entry['epoch']}/{config.passes}"
            f"  classification {entry['classification']:.4f}  diversity {entry['diversity']:.4f}",
            flush=True,
        )

    return show
