"""``apfl federate``: a federated run of any method, with metrics, the states later stages need, and exact
resumption."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from apfl.clock.schedule import Schedule
from apfl.clock.timeline import Timeline, plan
from apfl.engine.work import Diverged
from apfl.errors import UserError
from apfl.federation.asynchronous import AsyncRound, payload, run_clock
from apfl.federation.evaluation import evaluate, finite, headline
from apfl.federation.method import Method
from apfl.federation.problem import CarryOut, Problem, run_all
from apfl.federation.synchronous import Round, run
from apfl.stages.checkpoint import CHECKPOINT, asked, can_go_on, read_checkpoint, read_last_state, write_checkpoint
from apfl.stages.handover import saved_models, unheard
from apfl.stages.job import USUAL, Keeping, Made, Work, run_once
from apfl.stages.problem import Inputs, load_problem
from apfl.stages.record import identity
from apfl.stages.specification import Specification, configure, method_of
from apfl.stages.stopwatch import SharedTime, Stopwatch
from apfl.storage.files import digest
from apfl.storage.metrics_table import FOLLOWED, Followed, write_metrics
from apfl.storage.run_folder import Record, relatives
from apfl.storage.tensors import write_tensors


def federate(
    specification: Specification, inputs: Inputs, out: Path, device: str = "auto", carry_out: CarryOut = run_all,
    shared: SharedTime | None = None, keeping: Keeping = USUAL,
) -> None:  # fmt: skip
    """Run a method and write ``metrics.parquet``, ``state.safetensors`` and ``run.json`` to ``out``.

    A finished run is not repeated; an interrupted one goes on from its last checkpoint, and one of more rounds than a
    finished one from where that ended: both end in the same bits as if they had been made at once. ``carry_out`` is
    what trains; runs side by side have a ``shared`` time. While it trains, ``metrics.csv`` has the rows that there are.
    """
    specification.require("method", "module")
    method = method_of(specification)

    def prepare() -> tuple[Problem, Work]:
        if not isinstance(method, Method):
            raise UserError(f"method {specification.module!r}: is derived from another one; use `apfl personalize`")
        problem = load_problem(specification, inputs, device)
        for need in method.needs:
            if getattr(problem, need) is None:
                raise UserError(f"method {specification.module!r}: needs --{need}; give its path")
        rounds, found = _server(specification.schedule, method, problem, carry_out)
        return problem, partial(_train, method, problem, rounds, found, out, keeping)

    run_once("federate", specification, inputs, out, prepare, shared, keeping)
    for name in (CHECKPOINT, FOLLOWED):
        with suppress(OSError):  # there may be none
            (out / name).unlink()


Rounds = Callable[[Round | None], Iterator[Round]]
"""The rounds of a federation from a given one on, or from the beginning."""


def _server(
    schedule: Mapping[str, Any] | None, method: Method, problem: Problem, carry_out: CarryOut
) -> tuple[Rounds, dict[str, Any]]:
    """The server that a specification asks for, and what run.json says of what it does."""
    found: dict[str, Any] = {"payload": payload(method, method.init(problem)), "clients": len(method.clients(problem))}
    if problem.draws:
        found["drawn"] = [method.clients_of_round(problem, number) for number in range(1, problem.training.rounds + 1)]
        found["clients"] = len(found["drawn"][0])
    if schedule is None:
        return lambda start: run(method, problem, start, carry_out), found
    timing = configure(Schedule, schedule, "schedule")
    drawn = partial(method.clients_of_round, problem) if problem.draws else None
    timeline = plan(timing, method.clients(problem), problem.training.rounds, problem.seed, drawn)
    found["timeline"] = timeline_record(timeline)
    return lambda start: run_clock(method, problem, timing, timeline, start, carry_out), found


def _train(
    method: Method, problem: Problem, rounds: Rounds, found: Mapping[str, Any], out: Path, keeping: Keeping,
    record: Record, watch: Stopwatch,
) -> Made:  # fmt: skip
    """Train from the start, from the last checkpoint, or from the last state of a shorter run."""
    checkpoint, device, last = out / CHECKPOINT, str(problem.engine.device), problem.training.rounds
    goes_on = can_go_on(record)
    restored = read_checkpoint(checkpoint, record, device)
    if restored is None and goes_on:
        restored = read_last_state(relatives(out, record, keeping.store), record, problem.training, device)
    start, saved, header = restored or (None, {}, {"rows": [], "seconds": 0.0})
    rows, earlier, diverged = header["rows"], header["seconds"], False
    followed = Followed(checkpoint.with_name(FOLLOWED), **identity(record))
    followed.tell(rows)
    now = start

    def save(now: Round, seconds: float) -> None:
        fields = {"asked": asked(record), "code": record.code, "rows": rows, "seconds": seconds}
        write_checkpoint(checkpoint, now, saved, fields)

    try:
        for now in _evaluated(method, problem, rounds(start), rows, saved):
            followed.tell(rows)
            _print_round(method, problem, now, rows, watch, first=start.round if start else 0)
            if now.round % problem.training.checkpoint_every == 0 and 0 < now.round < last:
                save(now, earlier + watch.seconds)
    except Diverged as error:
        diverged = True
        print(f"{record.specification['method']}: {error}; {error.REMEDY}")
    kept = goes_on and keeping.last_state and not diverged and now is not None
    if kept and now is not None:
        save(now, 0.0)  # which run.json says: so equal runs have equal last states
    files = {
        "metrics.parquet": lambda path: write_metrics(path, rows, **identity(record)),
        "state.safetensors": lambda path: write_tensors(path, saved, {"specification": digest(record.specification)}),
    }
    return Made(files, found, diverged, earlier, [checkpoint] if kept else [])


def timeline_record(timeline: Timeline) -> dict[str, Any]:
    """The uploads of a timeline as a small table, for run.json."""
    columns = ("client", "cycle", "start", "time", "started", "version", "fate")
    return {"columns": columns, "rows": [[getattr(one, name) for name in columns] for one in timeline.arrivals]}


def _evaluated(
    method: Method, problem: Problem, rounds: Iterable[Round], rows: list[dict[str, Any]], saved: dict[str, Tensor]
) -> Iterator[Round]:
    """The rounds, each evaluated and kept (into ``rows`` and ``saved``) if the study asks for it."""
    for now in rounds:
        training = problem.training
        here = replace(problem, unheard=unheard(now, method, problem))
        if now.round in training.evaluate_rounds:
            time_ = now.time if isinstance(now, AsyncRound) else float(now.round)
            models = method.client_models(now.state, here, now.latest)
            shown = models.get(method.model) or {}
            each = all(isinstance(client, int) for client in shown)  # otherwise it is one model for all
            if lacking := set(here.clients) - set(shown) if each else ():
                what = f"returns no {method.model!r} model for client {min(lacking)}; return one for every client"
                raise UserError(f"{method.title}: client_models {what}")
            rows.extend(finite(evaluate(here, models, now.round, time_)))
        if now.round in training.save_rounds:
            saved.update(saved_models(now, method, here))
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
        f"  {samples / max(seconds, 1e-9):,.0f} samples/s"
        f"  {int(left) // 3600:02}{time.strftime(':%M:%S', time.gmtime(left))} left",
        flush=True,
    )
