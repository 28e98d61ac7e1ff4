"""From the runs' metrics to the numbers of a cell: the last round, not the best; all seeds, not the survivors."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from apfl.errors import UserError
from apfl.storage.files import read_record
from apfl.storage.tables import read_parquet
from apfl.study.cells import Cell
from apfl.study.records import difference
from apfl.study.runs import Run

COLUMNS = ("round", "client", "client_role", "model", "test", "accuracy", "samples", "train_samples")
"""What this module reads of a run's metrics.parquet."""
MadeBy = dict[tuple[str, str], tuple[str, str | None]]
"""By stage and module, a run and the code that made it."""


@dataclass(frozen=True)
class Metrics:
    """What runs measured: by run folder, the tidy rows, and the contents of run.json; a missing run is in neither.
    ``folder`` is where they lie."""

    frames: Mapping[str, pd.DataFrame]
    records: Mapping[str, Mapping[str, Any]]
    folder: Path | None = None

    def status(self, run: str) -> str:
        """``ok``, ``not run`` or ``diverged``."""
        if run not in self.records:
            return "not run"
        return "diverged" if self.records[run].get("status") == "diverged" else "ok"


@dataclass(frozen=True)
class SeedValue:
    """A cell in one seed: accuracies in [0, 1] averaged over clients, and how many clients they stand for.

    ``weighted`` is Eq. 2's mean, by training samples; ``plain`` weighs the clients equally. ``status`` is ``ok``,
    ``not run``, ``diverged``, or ``no samples`` where no client has both training samples and samples of this test.
    ``images`` is the number of test images behind it, 0 if it is not known: one of them is its least step.
    """

    seed: int
    status: str
    weighted: float | None = None
    plain: float | None = None
    clients: int = 0
    left_out: int = 0
    images: int = 0


@dataclass(frozen=True)
class Estimate:
    """A cell over its seeds, in per cent. ``std`` has one degree of freedom less than seeds, so one seed has none.

    A cell in which a seed diverged is ``diverged`` and has no mean: the seeds that survived would flatter it.
    ``clients`` and ``left_out`` are sums over seeds.
    """

    status: str
    planned: int
    seeds: int = 0
    mean: float | None = None
    std: float | None = None
    plain: float | None = None
    clients: int = 0
    left_out: int = 0

    @property
    def columns(self) -> dict[str, Any]:
        """As columns of a tidy row."""
        return {
            "reproduced_mean": self.mean,
            "reproduced_std": self.std,
            "plain_mean": self.plain,
            "seeds": self.seeds,
            "seeds_planned": self.planned,
            "clients_evaluated": self.clients,
            "clients_left_out": self.left_out,
            "status": self.status,
        }


def collect(
    results: str | Path, runs: Iterable[str], partial: bool | None = None, command: str = "snakemake",
    planned: Iterable[Run] = (),
) -> Metrics:  # fmt: skip
    """Read ``{results}/{run}/metrics.parquet`` and ``run.json`` of each run.

    Runs of one stage and module must have been made by the same code. A missing run is a `UserError` that names it and
    the ``command`` that makes it, unless ``partial`` is asked; None if it cannot be. So is one that the study, whose
    runs are ``planned``, no longer asks for as it was made: what it left is not shown as the study's.
    """
    frames, records = {}, {}
    made_by: MadeBy = {}
    asked, outdated = {run.path: run for run in planned}, []
    for run in sorted(set(runs)):
        folder = Path(results) / run
        record = read_record(folder / "run.json", "run") if (folder / "run.json").is_file() else None
        if record is not None and run in asked and (other := difference(asked[run], record)):
            if not partial:
                raise UserError(f"run {run}: {other}; run `{command}` to make it again")
            outdated.append(f"{run} ({other})")
            continue
        if record is None or not ((folder / "metrics.parquet").is_file() or record.get("status") == "diverged"):
            if not partial:
                instead = "" if partial is None else ", or leave it out with --partial"
                raise UserError(f"run {run}: not finished under {results}; make it with `{command}`{instead}")
            continue
        _refuse_mixed_code(run, record, made_by, command)
        records[run] = record
        if (folder / "metrics.parquet").is_file():
            frames[run] = read_parquet(folder / "metrics.parquet", "metrics", COLUMNS)
            _check_frame(frames[run], folder / "metrics.parquet")
    if outdated:
        others = f" and {len(outdated) - 1} more" if outdated[1:] else ""
        print(f"{results}: leaves out what the study has changed since: {outdated[0]}{others}", file=sys.stderr)
    return Metrics(frames, records, Path(results))


def _check_frame(frame: pd.DataFrame, path: Path) -> None:
    """A `UserError` unless accuracies are in [0, 1] (or lost, in a run that diverged) and the counts are counts."""
    for name in ("accuracy", "round", "client", "samples", "train_samples"):
        kinds, most, wanted = ("iu", np.inf, "0 or more") if name != "accuracy" else ("f", 1, "0 to 1")
        column = frame[name]
        if column.dtype.kind not in kinds and len(column):
            raise UserError(
                f"metrics {path}: column {name!r} holds {column.dtype}, not numbers of its kind; make it again"
            )
        if len(wrong := column[(column < 0) | (column > most)]):
            raise UserError(f"metrics {path}: column {name!r} has {wrong.iloc[0]}, not {wanted}; make it again")


def _refuse_mixed_code(run: str, record: Mapping[str, Any], made_by: MadeBy, command: str) -> None:
    specification = record.get("specification", {})
    if not isinstance(specification, dict):
        raise UserError(f"run {run}: its run.json has no specification; run `{command}` to make it again")
    part = (record.get("stage", ""), specification.get("module", ""))
    other, code = made_by.setdefault(part, (run, record.get("code")))
    if code != record.get("code"):
        raise UserError(
            f"runs {other} and {run}: made by different code of {' '.join(filter(None, part)) or 'one stage'} "
            f"({code} and {record.get('code')}); run `{command}` to make the older one again"
        )


def averages(frame: pd.DataFrame, model: str, test: str, role: str) -> pd.DataFrame:
    """Per round, the mean accuracy over the clients of a role: columns round, weighted, plain, clients, left_out.

    Clients without training samples (weight zero) or without samples of this test are left out and counted. A round in
    which nobody is left has no row.
    """
    ours = frame[frame["client_role"] == role]
    rows = ours[(ours["model"] == model) & (ours["test"] == test)].sort_values(["round", "client"], kind="stable")
    if rows.duplicated(["round", "client"]).any():
        twice = rows[rows.duplicated(["round", "client"])].iloc[0]
        raise UserError(
            f"metrics: client {twice['client']} has two rows in round {twice['round']} ({model}, {test}); "
            "make the run again"
        )
    rows = rows[(rows["samples"] > 0) & (rows["train_samples"] > 0)]
    codes, rounds = pd.factorize(rows["round"].to_numpy(), sort=True)
    accuracy, weight = rows["accuracy"].to_numpy(float), rows["train_samples"].to_numpy(float)

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(codes, weights=values, minlength=len(rounds))

    clients = np.bincount(codes, minlength=len(rounds))
    return pd.DataFrame(
        {
            "round": rounds,
            "weighted": total(weight * accuracy) / total(weight),
            "plain": total(accuracy) / clients,
            "clients": clients,
            "left_out": ours["client"].nunique() - clients,
        }
    )


def cell_values(metrics: Metrics, cell: Cell, test: str, role: str) -> tuple[SeedValue, ...]:
    """The cell's value in the last round, one for each seed."""
    return tuple(
        _seed_value(metrics, cell, run, seed, test, role) for seed, run in zip(cell.seeds, cell.runs, strict=True)
    )


def _seed_value(metrics: Metrics, cell: Cell, run: str, seed: int, test: str, role: str) -> SeedValue:
    status = metrics.status(run)
    if status != "ok":
        return SeedValue(seed, status)
    frame = run_frame(metrics, cell, run)
    means = averages(frame, cell.model, test, role)
    last = means[means["round"] == frame.loc[frame["model"] == cell.model, "round"].max()]
    if last.empty:
        return SeedValue(seed, "no samples", left_out=int(frame.loc[frame["client_role"] == role, "client"].nunique()))
    value = last.iloc[0]
    if not np.isfinite(value["weighted"]):
        return SeedValue(seed, "diverged")
    images = tested_images(frame, cell.model, test, role)
    weighted, plain = float(value["weighted"]), float(value["plain"])
    return SeedValue(seed, "ok", weighted, plain, int(value["clients"]), int(value["left_out"]), images)


def tested_images(frame: pd.DataFrame, model: str, test: str, role: str) -> int:
    """How many test images stand behind a number in the last round; the pooled test is the same for every client."""
    rows = frame[(frame["model"] == model) & (frame["test"] == test) & (frame["client_role"] == role)]
    samples = rows.loc[(rows["round"] == rows["round"].max()) & (rows["train_samples"] > 0), "samples"]
    return max(int(samples.max() if test == "pooled" else samples.sum()), 1) if len(samples) else 1


def run_frame(metrics: Metrics, cell: Cell, run: str) -> pd.DataFrame:
    """The rows of a finished run, which must have evaluated the model that the cell shows."""
    frame = metrics.frames[run]
    if not (frame["model"] == cell.model).any():
        known = ", ".join(sorted(frame["model"].unique()))
        raise UserError(
            f"run {run}: has no model {cell.model!r} for {cell.output} (it has {known}); "
            "correct `model` in the method's file"
        )
    return frame


def estimate(values: Sequence[SeedValue]) -> Estimate:
    """Mean and standard deviation over the seeds that there are."""
    states = {value.status for value in values}
    done = [value for value in values if value.status == "ok"]
    left_out = sum(value.left_out for value in values)
    if "diverged" in states or not done:
        status = next((name for name in ("diverged", "no samples") if name in states), "not run")
        return Estimate(status, planned=len(values), left_out=left_out)
    weighted = np.array([value.weighted for value in done])
    return Estimate(
        status="ok",
        planned=len(values),
        seeds=len(done),
        mean=100 * float(weighted.mean()),
        std=100 * float(weighted.std(ddof=1)) if len(done) > 1 else None,
        plain=100 * float(np.mean([value.plain for value in done])),
        clients=sum(value.clients for value in done),
        left_out=left_out,
    )


def curve(metrics: Metrics, cell: Cell, test: str, role: str) -> pd.DataFrame:
    """The cell along rounds, in per cent: columns round, mean, std, seeds.

    A round is there if every seed that has been run evaluated it, so that no part of a line stands for fewer seeds than
    the rest: it ends where the first seed diverged. std is NaN for one seed.
    """
    runs = [run for run in cell.runs if run in metrics.records]
    if not all(run in metrics.frames for run in runs):
        runs = []
    each = [
        averages(run_frame(metrics, cell, run), cell.model, test, role).set_index("round")["weighted"] for run in runs
    ]
    table = pd.concat(each, axis=1, join="inner").sort_index() if each else pd.DataFrame()
    finite: pd.Series = np.isfinite(table).all(axis=1)  # type: ignore[assignment]
    table = 100 * table[finite]
    return pd.DataFrame(
        {
            "round": table.index.to_numpy(dtype=int),
            "mean": table.mean(axis=1).to_numpy(dtype=float),
            "std": table.std(axis=1, ddof=1).to_numpy(dtype=float),
            "seeds": len(each),
        }
    )
