"""``apfl memorize``: train the semantic generator on the models that a federated run kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from apfl.artifacts import digest, provenance, read_record, read_tensors, write_tensors
from apfl.errors import UserError
from apfl.evaluation import outcomes, pooled_indices
from apfl.federation import BaseModels, Problem
from apfl.locks import alone_in
from apfl.memorization import (
    GeneratorConfig,
    Memory,
    build_memory,
    ensemble_log_probabilities,
    memorize,
    teachers_of,
)
from apfl.stages.federate import base_diverged, load_base
from apfl.stages.inputs import Inputs, check_specification, configure, finished, load_problem
from apfl.stages.pictures import no_samples, sample_grid
from apfl.stages.record import Stopwatch, recorded, run_record
from apfl.training import Diverged

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
    tensors, histories, measured = {}, {}, {}
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
            tensors |= {f"round{number}/{name}": value for name, value in memory.generator.state_dict().items()}
    except Diverged as error:
        _diverged(record, out, problem, watch, config, f"{error}; lower generator.learning_rate")
        return
    tensors["embeddings"] = problem.semantics
    with recorded(out, record, *FILES):
        _write_generator(out, record, config, tensors)
        sample_grid(out / "samples.png", problem, memory, data)
        record |= {"status": "finished", "history": histories, "teachers": measured, "seconds": round(watch.seconds, 3)}
        record |= {**watch.usage(problem), **provenance()}


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


def load_memory(folder: Path, number: int, problem: Problem) -> Memory:
    """The generator that a `memorize_run` trained on a round."""
    path = folder / "generator.safetensors"
    tensors, header = read_tensors(path, "generator", str(problem.engine.device))
    prefix = f"round{number}/"
    state = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    if not state:
        raise UserError(f"generator {path}: has nothing of round {number}; name that round when it is trained")
    if "config" not in header or "embeddings" not in tensors:
        raise UserError(f"generator {path}: lacks its configuration or its embeddings; train it again")
    config = configure(GeneratorConfig, header["config"], "generator")
    memory = build_memory(config, tensors["embeddings"], problem.images.pixels.shape[-1], problem.seed)
    try:
        memory.generator.load_state_dict(state)
    except RuntimeError as error:
        fault = " ".join(str(error).split())[:150]
        raise UserError(f"generator {path}: is not of its own configuration ({fault}); train it again") from None
    memory.generator.eval()
    return memory


def load_accuracies(folder: Path) -> dict[str, Any]:
    """What a `memorize_run` recorded of its teachers' accuracy, by round."""
    return read_record(folder / "run.json").get("teachers", {})


def _printer(number: int, config: GeneratorConfig):
    def show(entry: dict[str, Any]) -> None:
        print(
            f"generator of round {number}: epoch {entry['epoch']}/{config.passes}"
            f"  classification {entry['classification']:.4f}  diversity {entry['diversity']:.4f}",
            flush=True,
        )

    return show
