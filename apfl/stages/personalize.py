"""``apfl personalize``: a derived method (fine-tuning, AP-FL) on the rounds that a federated run kept."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apfl.artifacts import provenance, write_parquet
from apfl.errors import UserError
from apfl.evaluation import evaluate, headline, metrics_frame
from apfl.federation import Derived, Problem
from apfl.locks import alone_in
from apfl.stages.federate import base_diverged, load_base
from apfl.stages.inputs import Inputs, check_specification, finished, load_problem, method_of
from apfl.stages.memorize import load_accuracies, load_memory
from apfl.stages.record import Stopwatch, identity, recorded, run_record
from apfl.training import Diverged


def personalize_run(
    specification: Mapping[str, Any],
    inputs: Inputs,
    base: Path,
    generator: Path | None,
    out: Path,
    device: str = "auto",
) -> dict[str, Any]:
    """Personalize each of the named rounds, evaluate, and write ``metrics.parquet`` and ``run.json``."""
    check_specification(specification, "method", "module", "rounds")
    method = method_of(specification)
    made = None if generator is None else generator / "generator.safetensors"
    record = run_record("personalize", specification, inputs, run=base / "state.safetensors", generator=made)
    if finished(out, record):
        return record
    if not isinstance(method, Derived):
        raise UserError(f"method {specification['module']!r}: is a federated method; use `apfl federate`")
    if "generator" in method.needs and generator is None:
        raise UserError(
            f"method {specification['module']!r}: needs --generator; give the folder that `apfl memorize` made"
        )
    problem = load_problem(specification, inputs, device)
    with alone_in(out):
        if not finished(out, record):  # by the process that was waited for
            _carry_out(method, problem, base, generator, record, out)
    return record


def _carry_out(
    method: Derived, problem: Problem, base: Path, generator: Path | None, record: dict[str, Any], out: Path
) -> None:
    """Personalize, evaluate and write the run; ``record`` is completed."""
    specification = record["specification"]
    watch, rows, status = Stopwatch(), [], "finished"
    try:
        if any(base_diverged(folder) for folder in (base, generator) if folder is not None):
            raise Diverged(specification["rounds"][-1], "what it starts from")
        rounds = tuple(specification["rounds"])
        for number, models in load_base(base, rounds, problem.engine.device, problem.start).items():
            memory = None if generator is None else load_memory(generator, number, problem)
            here = evaluate(problem, method.personalize(problem, models, number, memory), number)
            for row in here:
                if not math.isfinite(row["loss"]):
                    raise Diverged.of_client(number, row["client"], row["model"])
            rows += here
            print(f"{method.title}: round {number}  pooled {100 * headline(here, method.model):5.2f} %", flush=True)
    except Diverged as error:
        status = "diverged"
        print(
            f"{specification['method']}: {error}; lower training.learning_rate or change the method's hyper-parameters"
        )
    with recorded(out, record, "metrics.parquet"):
        write_parquet(out / "metrics.parquet", metrics_frame(rows, **identity(specification)))
        if generator is not None:
            record["teachers"] = load_accuracies(generator)
        record |= {"status": status, "seconds": round(watch.seconds, 3), **watch.usage(problem), **provenance()}
