"""``apfl personalize``: a derived method (fine-tuning, AP-FL) on the rounds that a federated run kept."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apfl.engine.work import Diverged
from apfl.errors import UserError
from apfl.federation.evaluation import evaluate, headline
from apfl.federation.method import Derived
from apfl.federation.problem import Problem
from apfl.stages.cycles import client_cycles, generator_bytes
from apfl.stages.handover import base_diverged, load_base, load_measured, load_memory
from apfl.stages.problem import Inputs, load_problem
from apfl.stages.record import identity, run_record
from apfl.stages.specification import check_specification, method_of
from apfl.stages.stopwatch import Stopwatch
from apfl.storage.locks import alone_in
from apfl.storage.metrics_table import metrics_frame
from apfl.storage.provenance import provenance
from apfl.storage.run_folder import finished, recorded
from apfl.storage.tables import write_parquet


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
    watch, rows, status, cycles = Stopwatch(), [], "finished", {}
    made = {} if generator is None else load_measured(generator, "cycles")
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
            cycles[str(number)] = {
                "server": made.get(str(number), 0.0),
                "clients": client_cycles(method, problem, models, memory),
            }
            if memory is not None:
                record["generator_bytes"] = generator_bytes(memory)
            print(f"{method.title}: round {number}  pooled {100 * headline(here, method.model):5.2f} %", flush=True)
    except Diverged as error:
        status = "diverged"
        print(
            f"{specification['method']}: {error}; lower training.learning_rate or change the method's hyper-parameters"
        )
    with recorded(out, record, "metrics.parquet"):
        write_parquet(out / "metrics.parquet", metrics_frame(rows, **identity(specification)))
        if generator is not None:
            record["teachers"] = load_measured(generator, "teachers")
        record |= {"status": status, "cycles": cycles, "seconds": round(watch.seconds, 3)}
        record |= {**watch.usage(problem), **provenance()}
