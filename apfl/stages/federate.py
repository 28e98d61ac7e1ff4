"""``apfl federate``: a federated run of any method, with metrics, the states later stages need, and exact
resumption."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from apfl.clock.schedule import Schedule
from apfl.clock.timeline import Timeline, plan
from apfl.engine.work import Diverged
from apfl.errors import UserError
from apfl.federation.asynchronous import AsyncRound, check_schedule, payload, run_clock
from apfl.federation.evaluation import evaluate, headline
from apfl.federation.method import Method
from apfl.federation.problem import CarryOut, Problem, run_all
from apfl.federation.synchronous import Round, run
from apfl.stages.checkpoint import CHECKPOINT, asked, read_checkpoint, write_checkpoint
from apfl.stages.handover import saved_models
from apfl.stages.problem import Inputs, load_problem
from apfl.stages.record import identity, run_record
from apfl.stages.specification import check_specification, configure, method_of
from apfl.stages.stopwatch import Company, Stopwatch
from apfl.storage.files import digest
from apfl.storage.locks import alone_in
from apfl.storage.metrics_table import metrics_frame
from apfl.storage.provenance import provenance
from apfl.storage.run_folder import finished, recorded
from apfl.storage.tables import write_parquet
from apfl.storage.tensors import write_tensors


def federate(
    specification: Mapping[str, Any],
    inputs: Inputs,
    out: Path,
    device: str = "auto",
    carry_out: CarryOut = run_all,
    company: Company | None = None,
) -> dict[str, Any]:
    """Run a method and write ``metrics.parquet``, ``state.safetensors`` and ``run.json`` to ``out``; returns the
    record.

    A finished run is not repeated; an interrupted one goes on from its last checkpoint and ends in the same bits.
    ``carry_out`` is what trains; the ``company`` of other runs shares it, and the time that it takes.
    """
    check_specification(specification, "method", "module")
    method = method_of(specification)
    record = run_record("federate", specification, inputs)
    if finished(out, record):
        with suppress(OSError):  # left by a process that was killed just before it would have removed it
            (out / CHECKPOINT).unlink()
        return record
    if not isinstance(method, Method):
        raise UserError(f"method {specification['module']!r}: is derived from another one; use `apfl personalize`")
    problem = load_problem(specification, inputs, device)
    for need in method.needs:
        if getattr(problem, need) is None:
            raise UserError(f"method {specification['module']!r}: needs --{need}; give its path")
    schedule, timeline = scheduled(specification, method, problem)
    with alone_in(out):
        if not finished(out, record):  # by the process that was waited for
            watch = Stopwatch(company)
            try:
                _carry_out(method, problem, schedule, timeline, record, out, carry_out, watch)
            finally:
                watch.stop()
    return record


def _carry_out(
    method: Method, problem: Problem, schedule: Schedule | None, timeline: Timeline | None, record: dict[str, Any],
    out: Path, carry_out: CarryOut, watch: Stopwatch,
) -> None:  # fmt: skip
    """Train from the start or from the last checkpoint, and write the run; ``record`` is completed."""
    specification, checkpoint, status = record["specification"], out / CHECKPOINT, "finished"
    restored = read_checkpoint(checkpoint, record, str(problem.engine.device))
    start, saved, header = restored or (None, {}, {"rows": [], "seconds": 0.0})
    rows, earlier = header["rows"], header["seconds"]
    try:
        rounds = run(method, problem, start, carry_out)
        if schedule:
            rounds = run_clock(method, problem, schedule, timeline, start, carry_out)
        for now in _evaluated(method, problem, rounds, rows, saved):
            _print_round(method, problem, now, rows, watch, first=start.round if start else 0)
            if now.round % problem.training.checkpoint_every == 0 and 0 < now.round < problem.training.rounds:
                fields = {"asked": asked(record), "code": record["code"], "rows": rows}
                write_checkpoint(checkpoint, now, saved, fields | {"seconds": earlier + watch.seconds})
    except Diverged as error:
        status = "diverged"
        print(
            f"{specification['method']}: {error}; lower training.learning_rate or change the method's hyper-parameters"
        )
    with recorded(out, record, "metrics.parquet", "state.safetensors"):
        write_parquet(out / "metrics.parquet", metrics_frame(rows, **identity(specification)))
        write_tensors(out / "state.safetensors", saved, {"specification": digest(specification)})
        record |= {"payload": payload(method, method.init(problem))}
        if schedule:
            record |= {"timeline": timeline_record(timeline)}
        record |= {"status": status, "seconds": round(earlier + watch.seconds, 3)}
        record |= {**watch.usage(problem), **provenance()}
    checkpoint.unlink(missing_ok=True)


def scheduled(
    specification: Mapping[str, Any], method: Method, problem: Problem
) -> tuple[Schedule, Timeline] | tuple[None, None]:
    """The schedule that the specification names and its course of events; nothing if rounds are simply synchronous."""
    if "schedule" not in specification:
        return None, None
    schedule = configure(Schedule, specification["schedule"], "schedule")
    check_schedule(method, schedule, method.init(problem))
    return schedule, plan(schedule, method.clients(problem), problem.training.rounds, problem.seed)


def timeline_record(timeline: Timeline) -> dict[str, Any]:
    """The uploads of a timeline as a small table, for run.json."""
    columns = ("client", "cycle", "start", "time", "started", "version", "fate")
    return {"columns": columns, "rows": [[getattr(one, name) for name in columns] for one in timeline.arrivals]}


def _evaluated(
    method: Method, problem: Problem, rounds: Iterable[Round], rows: list[dict[str, Any]], saved: dict[str, Tensor]
) -> Iterator[Round]:
    """The rounds, each evaluated and kept (into ``rows`` and ``saved``) if the study asks for it."""
    for now in rounds:
        if now.round in problem.training.evaluate_rounds:
            time_ = now.time if isinstance(now, AsyncRound) else float(now.round)
            here = evaluate(problem, method.client_models(now.state, problem, now.latest), now.round, time_)
            for row in here:  # a server's own training may diverge after the clients' did not
                if not math.isfinite(row["loss"]):
                    raise Diverged.of_client(now.round, row["client"], row["model"])
            rows.extend(here)
        if now.round in problem.training.save_rounds:
            saved.update(saved_models(now, method, problem))
        yield now


def _print_round(
    method: Method, problem: Problem, now: Round, rows: list[dict[str, Any]], watch: Stopwatch, first: int
) -> None:
    """One line a round: accuracy if it was measured, speed, and time left."""
    if now.round <= first:
        watch.lap()
        return
    seconds = watch.lap()
    samples = sum(result.samples for result in now.results)
    left = (problem.training.rounds - now.round) * watch.elapsed / (now.round - first)
    here = [row for row in rows if row["round"] == now.round]
    accuracy = f"  pooled {100 * headline(here, method.model):5.2f} %" if here else ""
    print(
        f"{method.title}, seed {problem.seed}: round {now.round}/{problem.training.rounds}{accuracy}"
        f"  {samples / max(seconds, 1e-9):,.0f} samples/s  {time.strftime('%H:%M:%S', time.gmtime(left))} left",
        flush=True,
    )
