"""The schedules of a study: completed, read from traces and checked before anything is planned.

A schedule has a name in the study; a table may run it at several levels of heterogeneity or dropout. Where a schedule
changes nothing but the time that rounds take, the run is the ordinary one: the same training is not done twice.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from apfl.clock.schedule import Schedule
from apfl.errors import UserError
from apfl.storage.files import canonical_json
from apfl.storage.spreadsheets import read_rows

TRACE = ("client", "start", "arrival")


@dataclass(frozen=True)
class Timing:
    """A schedule as a run has it: its name, all its values, and those of them that a table has changed.

    ``server_speed`` is how many times faster than an average client the server trains a generator, which nothing but
    the time of personalised models depends on.
    """

    name: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)
    changes: Mapping[str, Any] = field(default_factory=dict)
    server_speed: float = 1.0

    @property
    def ordinary(self) -> bool:
        """Is the training that of ordinary synchronous rounds, whatever the time they take?"""
        return not self.values or (
            self.values["mode"] == "sync" and not any(self.values[name] for name in ("dropout", "absences", "trace"))
        )

    @property
    def parts(self) -> tuple[str, ...]:
        """What the folder of a run says of the schedule: ``("fedasync", "heterogeneity-0.5")``."""
        changed = (f"{name}-{value:g}" for name, value in self.changes.items())
        return () if self.ordinary else (self.name, *changed)


def timed(schedules: Mapping[str, Mapping[str, Any]], name: str, **changes: float) -> Timing:
    """The schedule ``name`` with changes; a trace says how long everything takes, so heterogeneity leaves it as it
    is."""
    given = schedules[name]
    if given["latency"] == "trace":
        changes.pop("heterogeneity", None)
    changes = {key: float(value) for key, value in changes.items() if value != given[key]}
    return Timing(name, {**given, **changes}, changes)


def completed(
    values: Mapping[str, Mapping[str, Any]], folders: Sequence[str | os.PathLike[str]]
) -> dict[str, dict[str, Any]]:
    """Every schedule with all its values, numbers of their right types and traces as rows; ``folders`` hold traces."""
    done: dict[str, dict[str, Any]] = {}
    alike: dict[str, str] = {}
    for name, given in values.items():
        trace = given.get("trace", ())
        if isinstance(trace, str):
            trace = read_trace(_found(name, trace, folders))
        done[name] = _completed(name, {**given, "trace": trace})
        if (other := alike.setdefault(canonical_json(done[name]), name)) != name:
            raise UserError(f"schedules.{name}: is the same as {other!r}; remove one of them")
    return done


def check_clients(name: str, values: Mapping[str, Any], clients: int, where: str) -> None:
    """A `UserError` if a schedule does not fit so many clients."""
    try:
        Schedule(**values).check_clients(range(clients))
    except UserError as error:
        raise UserError(f"{_renamed(name, error)} (in {where})") from None


def _completed(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    try:
        values = asdict(Schedule(**given))
    except UserError as error:
        raise UserError(_renamed(name, error)) from None
    floats = {entry.name for entry in fields(Schedule) if "float" in str(entry.type).split(" | ")}
    rows = {key: [_row(row) for row in values[key]] for key in ("absences", "trace")}
    return {key: float(value) if key in floats and value is not None else value for key, value in values.items()} | rows


def _row(row: Iterable[Any]) -> list[Any]:
    client, *times = row
    return [client, *(None if time is None else float(time) for time in times)]


def _renamed(name: str, error: UserError) -> str:
    return str(error).replace("schedule.", f"schedules.{name}.", 1)


def _found(name: str, path: str, folders: Sequence[str | os.PathLike[str]]) -> Path:
    for candidate in (Path(folder) / path for folder in folders):
        with suppress(OSError):  # a name that is too long, or a folder without access
            if candidate.is_file():
                return candidate
    raise UserError(
        f"schedules.{name}.trace {path!r}: no such file beside the study or under data_root; correct the path"
    )


def read_trace(path: Path) -> list[tuple[int, float, float]]:
    """The rows of a CSV file with columns client, start, arrival; a `UserError` names the line that is wrong."""
    rows: list[tuple[int, float, float]] = []
    last: dict[int, float] = {}
    for line, cells in read_rows(path, TRACE, "client and two times"):
        given = [cells[name] for name in TRACE]
        row = _numbers(given)
        if row is None:
            raise UserError(
                f"{path}: line {line}: {','.join(given)!r:.80} is not a client and two times; correct the line"
            )
        client, start, arrival = row
        if not last.get(client, 0.0) <= start < arrival:
            raise UserError(
                f"{path}: line {line}: client {client} from {start:g} to {arrival:g} is out of order; a cycle starts "
                "after the one before it and ends after it started"
            )
        last[client] = arrival
        rows.append(row)
    return rows


def _numbers(cells: Sequence[str]) -> tuple[int, float, float] | None:
    try:
        client, start, arrival = cells
        number = float(client)  # some programs write whole numbers as 3.0
        row = int(number), float(start), float(arrival)
    except (ValueError, OverflowError):
        return None
    return row if row[0] == number >= 0 and all(map(math.isfinite, row)) else None
