"""``apfl memorize``: train the semantic generator on the models that a federated run kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from apfl.engine.work import Diverged
from apfl.errors import UserError
from apfl.federation.evaluation import outcomes, pooled_indices
from apfl.federation.method import BaseModels
from apfl.federation.problem import Problem
from apfl.memorization.generator import (
    GeneratorConfig,
    build_memory,
    ensemble_log_probabilities,
    memorize,
    teachers_of,
)
from apfl.stages.cycles import generator_cycles
from apfl.stages.handover import base_diverged, load_base
from apfl.stages.problem import Inputs, load_problem
from apfl.stages.record import run_record
from apfl.stages.samples import no_samples, sample_grid
from apfl.stages.specification import check_specification, configure
from apfl.stages.stopwatch import Stopwatch
from apfl.storage.files import digest
from apfl.storage.locks import alone_in
from apfl.storage.provenance import provenance
from apfl.storage.run_folder import finished, recorded
from apfl.storage.tensors import write_tensors

FILES = ("generator.safetensors", "samples.png")


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
    specification: Mapping[str, Any], inputs: Inputs, base: Path, out: Path, device: str = "auto"
) -> dict[str, Any]:
    """Train a generator for each of the named rounds and write ``generator.safetensors``, ``samples.png``,
    ``run.json``."""
    check_specification(specification, "semantics", "rounds")
    record = run_record("memorize", specification, inputs, run=base / "state.safetensors")
    if finished(out, record):
        return record
    config = configure(GeneratorConfig, specification.get("parameters", {}), "generator")
    problem = load_problem(specification, inputs, device)
    if problem.semantics is None:
        raise UserError("memorize: needs --semantics; give the path of an embedding table made by `apfl semantics`")
    with alone_in(out):
        if not finished(out, record):  # by the process that was waited for
            _carry_out(config, problem, base, inputs.data, record, out)
    return record


def _carry_out(
    config: GeneratorConfig, problem: Problem, base: Path, data: Path, record: dict[str, Any], out: Path
) -> None:
    """Train and write the generators; ``record`` is completed."""
    watch, rounds = Stopwatch(), tuple(record["specification"]["rounds"])
    if base_diverged(base):
        _diverged(record, out, problem, watch, config, f"{base}: diverged, so there is nothing to learn from")
        return
    tensors, histories, measured, cycles = {}, {}, {}, {}
    try:
        for number, models in load_base(base, rounds, problem.engine.device, problem.start).items():
            memory = build_memory(config, problem.semantics, problem.images.pixels.shape[-1], problem.seed)
            teachers, weights = teachers_of(problem, models, config)
            done = memorize(
                memory,
                problem.model,
                teachers,
                weights,
                problem.engine,
                problem.seed,
                number,
                on_epoch=_printer(number, config),
            )
            histories[str(number)] = done.history
            measured[str(number)] = accuracies(problem, models, config)
            cycles[str(number)] = generator_cycles(problem, memory, weights)
            tensors |= {f"round{number}/{name}": value for name, value in memory.generator.state_dict().items()}
    except Diverged as error:
        _diverged(record, out, problem, watch, config, f"{error}; lower generator.learning_rate")
        return
    tensors["embeddings"] = problem.semantics
    with recorded(out, record, *FILES):
        _write_generator(out, record, config, tensors)
        sample_grid(out / "samples.png", problem, memory, data)
        record |= {"status": "finished", "history": histories, "teachers": measured, "cycles": cycles}
        record |= {"seconds": round(watch.seconds, 3), **watch.usage(problem), **provenance()}


def _write_generator(out: Path, record: Mapping[str, Any], config: GeneratorConfig, tensors: dict[str, Tensor]) -> None:
    header = {"config": config.__dict__, "specification": digest(record["specification"])}
    write_tensors(out / "generator.safetensors", tensors, header)


def _diverged(
    record: dict[str, Any], out: Path, problem: Problem, watch: Stopwatch, config: GeneratorConfig, why: str
) -> None:
    """Say that there is no generator, in files that the next stage reads."""
    print(why)
    with recorded(out, record, *FILES):
        _write_generator(out, record, config, {})
        no_samples(out / "samples.png", why)
        record |= {"status": "diverged", "history": {}, "teachers": {}, "seconds": round(watch.seconds, 3)}
        record |= {**watch.usage(problem), **provenance()}


def _printer(number: int, config: GeneratorConfig):
    def show(entry: dict[str, Any]) -> None:
        print(
            f"generator of round {number}: epoch {entry['epoch']}/{config.passes}"
            f"  classification {entry['classification']:.4f}  diversity {entry['diversity']:.4f}",
            flush=True,
        )

    return show
