"""The status of a study for people (a table on a terminal, plain lines elsewhere) and for scripts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apfl.durations import hours
from apfl.jobs.paths import KINDS
from apfl.jobs.status import STATES, Job, Left

if TYPE_CHECKING:
    from rich.console import Console

SHOWN = 20
"""How many jobs of a state are listed by name; --json lists them all."""


def as_json(name: str, results: Path, jobs: Sequence[Job], left: Left) -> str:
    """The study's counts, every job, and what is left."""
    counts = Counter(job.state for job in jobs)
    listed = [{key: value for key, value in asdict(job).items() if key != "run"} for job in jobs]
    value: dict[str, Any] = {
        "study": name,
        "results": str(results),
        "counts": {state: counts[state] for state in STATES},
        "left": asdict(left),
        "jobs": listed,
    }
    return json.dumps(value, indent=2)


def show(name: str, results: Path, jobs: Sequence[Job], left: Left, console: Console | None = None) -> None:
    """Print the counts by kind and state, the jobs that run or need a look, and the estimate."""
    from rich.console import Console
    from rich.text import Text

    console = console or Console(highlight=False, soft_wrap=True)
    _print_counts(console, name, jobs)
    styles = {"failed": "bold red", "diverged": "red", "stopped": "yellow", "running": "green"}
    for state, style in styles.items():
        ours = [job for job in jobs if job.state == state]
        for job in ours[:SHOWN]:
            lines = list(_described(job, results))
            # Text, not markup: what stands in a log is shown as it is.
            console.print(Text.assemble((f"{state:<9}", style), lines[0]))
            for line in lines[1:]:
                console.print(Text(f"{'':<9}{line}"))
        if len(ours) > SHOWN:
            console.print(f"{state:<9}and {len(ours) - SHOWN} more; --json lists them all")
    if blocked := sum(bool(job.needs) for job in jobs):
        console.print(f"{blocked} of the waiting jobs need one that failed")
    console.print(estimate(left))


def estimate(left: Left) -> str:
    """What is left, in words.

    >>> from apfl.jobs.status import Left
    >>> estimate(Left(5400.0, 3, 7, ()))
    'left: 3 runs, about 1.5 h of computing, one after another (an estimate from the rounds of 7 runs)'
    """
    if not left.runs:
        return "left: no run"
    said = f"left: {left.runs} {'run' if left.runs == 1 else 'runs'}"
    rest = f"; no estimate for {', '.join(left.unknown)}, as none has got that far" if left.unknown else ""
    if not left.basis:
        return f"{said}, and no estimate yet, as none is finished or says how far it is"
    basis = f"an estimate from the rounds of {'1 run' if left.basis == 1 else f'{left.basis} runs'}{rest}"
    return f"{said}, about {hours(left.seconds)} of computing, one after another ({basis})"


def _described(job: Job, results: Path) -> Iterator[str]:
    """Which job it is and how far; of one that needs a look, the last error or line, and the log."""
    progress = f"  {job.note}" if job.state == "running" and job.note else ""
    yield f"{job.kind} {results / job.path}{progress}"
    if job.state in ("failed", "stopped"):
        if job.error or job.note:
            yield job.error or job.note
        yield f"log: {results / job.log}"


def _print_counts(console: Console, name: str, jobs: Sequence[Job]) -> None:
    counts = Counter((job.kind, job.state) for job in jobs)
    total = Counter(job.state for job in jobs)
    states = [state for state in STATES if total[state] or state in ("done", "running", "failed", "waiting")]
    kinds = [kind for kind in KINDS if any(job.kind == kind for job in jobs)]
    rows = [(kind, *(str(counts[kind, state] or "-") for state in states)) for kind in kinds]
    rows.append(("all", *(str(total[state] or "-") for state in states)))
    title = f"study {name}: {total['done'] + total['diverged']} of {len(jobs)} jobs finished"
    if console.is_terminal:
        from rich.table import Table

        table = Table(title=title, title_justify="left")
        table.add_column("job")
        for state in states:
            table.add_column(state, justify="right")
        for row in rows:
            table.add_row(*row, end_section=row is rows[-2])
        console.print(table)
    else:
        console.print(title)
        for row in (("job", *states), *rows):
            console.print(f"{row[0]:<12}" + "".join(f"{text:>10}" for text in row[1:]))
