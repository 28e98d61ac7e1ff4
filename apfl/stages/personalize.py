"""``apfl personalize``: a derived method (fine-tuning, AP-FL) on the rounds that a federated run kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from apfl.engine.work import Diverged
from apfl.errors import UserError
from apfl.federation.evaluation import evaluate, finite, headline
from apfl.federation.method import Derived
from apfl.federation.problem import Problem
from apfl.stages.cycles import client_cycles, generator_bytes
from apfl.stages.handover import base_diverged, load_base, load_measured, load_memory
from apfl.stages.job import USUAL, Keeping, Made, Work, run_once
from apfl.stages.problem import Inputs, load_problem
from apfl.stages.record import identity
from apfl.stages.specification import Specification, method_of
from apfl.storage.metrics_table import write_metrics
from apfl.storage.run_folder import Record


def personalize_run(
    specification: Specification, inputs: Inputs, out: Path, device: str = "auto", keeping: Keeping = USUAL
) -> None:
    """Personalize each of the named rounds, evaluate, and write ``metrics.parquet`` and ``run.json``."""
    specification.require("method", "module", "rounds")
    method = method_of(specification)

    def prepare() -> tuple[Problem, Work]:
        if not isinstance(method, Derived):
            raise UserError(f"method {specification.module!r}: is a federated method; use `apfl federate`")
        if "generator" in method.needs and inputs.generator is None:
            raise UserError(
                f"method {specification.module!r}: needs --generator; give the folder that `apfl memorize` made"
            )
        problem = load_problem(specification, inputs, device)
        return problem, lambda record, watch: _personalize(method, problem, inputs, record)

    run_once("personalize", specification, inputs, out, prepare, keeping=keeping)


def _personalize(method: Derived, problem: Problem, inputs: Inputs, record: Record) -> Made:
    """Personalize and evaluate."""
    base, rounds = inputs.required("run"), tuple(record.specification["rounds"])
    rows: list[dict[str, Any]] = []
    diverged = False
    found: dict[str, Any] = {"cycles": {}}
    made = {} if inputs.generator is None else load_measured(inputs.generator, "cycles")
    try:
        if any(base_diverged(folder) for folder in (base, inputs.generator) if folder is not None):
            raise Diverged(rounds[-1], "what it starts from")
        for number, models in load_base(base, rounds, problem.engine.device, problem.start).items():
            memory = None if inputs.generator is None else load_memory(inputs.generator, number, problem)
            here = finite(evaluate(problem, method.personalize(problem, models, number, memory), number))
            rows += here
            clients = client_cycles(method, problem, models, memory)
            found["cycles"][str(number)] = {"server": made.get(str(number), 0.0), "clients": clients}
            if memory is not None:
                found["generator_bytes"] = generator_bytes(memory)
            print(f"{method.title}: round {number}  pooled {100 * headline(here, method.model):5.2f} %", flush=True)
    except Diverged as error:
        diverged = True
        print(f"{record.specification['method']}: {error}; {error.REMEDY}")
    if inputs.generator is not None:
        found["teachers"] = load_measured(inputs.generator, "teachers")
    files = {"metrics.parquet": lambda path: write_metrics(path, rows, **identity(record))}
    return Made(files, found, diverged)
