"""What a claim compares: for a cell and each of its seeds one number, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from apfl.data.catalogue import size_of
from apfl.data.partition import drawn_counts
from apfl.paper.numbers.metrics import Metrics, averages, cell_values, tested_images
from apfl.paper.numbers.virtual import check_timelines, ready, time_to_target
from apfl.storage.files import read_npz
from apfl.study.cells import Cell, cells
from apfl.study.runs import RunContext
from apfl.study.study import Study

STATES = (
    "diverged", "no samples", "too few rounds", "no target", "not measured", "not in study", "not run", "one seed",
    "ok",
)  # fmt: skip
"""From the worst; of several, the worst is said. ``not measured``: the runs are there without this model."""
REFERENCE = "FedAvg"
"""The one whose accuracy is the target of a speed."""
FEWEST_ROUNDS = 3
"""Less cannot show that an accuracy comes and goes."""


@dataclass(frozen=True)
class Series:
    """One number for each seed of a study: float64 [seeds, ...], NaN where there is none; in points.

    ``bounds`` [seeds] says which of them are only known to be no larger; ``resolution`` is the least step of the
    measure. ``runs`` are finished, ``missing`` are planned and are not, partitions among them; ``planned``: does the
    study have the cells?
    """

    values: np.ndarray
    status: str
    resolution: float = 0.0
    bounds: np.ndarray | None = None
    runs: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    planned: bool = True


def worst(states: Iterable[str]) -> str:
    return min(states, key=STATES.index, default="not in study")


def combined(parts: Sequence[Series], make: Callable[[np.ndarray], np.ndarray]) -> Series:
    """``make`` turns values [parts, seeds, ...] into values [seeds, ...]."""
    return Series(
        make(np.stack([part.values for part in parts])),
        worst(part.status for part in parts),
        max(part.resolution for part in parts),
        np.any([_bounds(part) for part in parts], axis=0),
        tuple(dict.fromkeys(run for part in parts for run in part.runs)),
        tuple(dict.fromkeys(run for part in parts for run in part.missing)),
        all(part.planned for part in parts),
    )


def chosen(parts: Sequence[Series], which: np.ndarray) -> Series:
    """One of several: ``which`` int64 [...] is its number, the same for all seeds."""

    def take(values: np.ndarray) -> np.ndarray:
        taken: np.ndarray = np.take_along_axis(values, np.broadcast_to(which, (1, *values.shape[1:])), axis=0)[0]
        return taken

    whole = combined(parts, take)
    bounds = _bounds(parts[int(which)]) if which.ndim == 0 else whole.bounds
    return replace(whole, bounds=bounds)


def mean(parts: Sequence[Series]) -> Series:
    return combined(parts, lambda values: values.mean(axis=0))


def weighted(parts: Sequence[Series], weights: Sequence[float]) -> Series:
    """A linear combination, seed by seed; its least step is the largest of its parts'."""
    whole = combined(parts, lambda values: np.tensordot(weights, values, 1))
    step = max(abs(weight) * part.resolution for weight, part in zip(weights, parts, strict=True))
    return replace(whole, resolution=step)


def _bounds(part: Series) -> np.ndarray:
    return np.zeros(len(part.values), bool) if part.bounds is None else part.bounds


def accuracy(study: Study, metrics: Metrics, cell: Cell, test: str, role: str) -> Series:
    """The cell of a table: accuracy after the last round, averaged over clients by training samples."""
    if (status := _status(metrics, cell)) != "ok":
        return _empty(metrics, cell, status)
    values = cell_values(metrics, cell, test, role)
    if (status := worst(value.status for value in values)) != "ok":
        return _empty(metrics, cell, status)
    step = 100 / min(value.images for value in values)
    found = np.array([100 * value.weighted for value in values if value.weighted is not None])
    return Series(found, "ok", step, runs=cell.runs)


def fall(study: Study, metrics: Metrics, cell: Cell, test: str, role: str) -> Series:
    """The mean loss of accuracy from one round of the figure to the next; a gain counts as none."""

    def mean_loss(course: np.ndarray) -> float:
        return float(np.maximum(course[:-1] - course[1:], 0).mean())

    return _along_rounds(study, metrics, cell, test, role, mean_loss)


def rise(study: Study, metrics: Metrics, cell: Cell, test: str, role: str) -> Series:
    """How much higher the accuracy is in the last round of the figure than in the first."""
    return _along_rounds(study, metrics, cell, test, role, lambda course: float(course[-1] - course[0]))


def climb(study: Study, metrics: Metrics, cell: Cell, test: str, role: str) -> Series:
    """The most by which the accuracy of a round of the figure is above that of an earlier one; 0 if it never rises."""

    def largest(course: np.ndarray) -> float:
        return float((course - np.minimum.accumulate(course)).max())

    return _along_rounds(study, metrics, cell, test, role, largest)


def _along_rounds(
    study: Study, metrics: Metrics, cell: Cell, test: str, role: str, number: Callable[[np.ndarray], float]
) -> Series:
    """A number of the courses of accuracy over the rounds of the figure, in points; its least step is what one image
    more in the last round makes of a course that goes nowhere."""
    if (status := _status(metrics, cell)) != "ok":
        return _empty(metrics, cell, status)
    rounds, found, steps = set(study.figures[cell.output]["rounds"]), [], []
    for run in cell.runs:
        means = averages(metrics.frames[run], cell.model, test, role)
        course = 100 * means.loc[means["round"].isin(rounds | {means["round"].max()}), "weighted"].to_numpy()
        if len(course) < FEWEST_ROUNDS:
            return _empty(metrics, cell, "too few rounds" if len(course) else "no samples")
        if not np.isfinite(course).all():
            return _empty(metrics, cell, "diverged")
        found.append(number(course))
        step = np.zeros(len(course))
        step[-1] = 100 / tested_images(metrics.frames[run], cell.model, test, role)
        steps.append(max(number(step), number(-step)))
    return Series(np.array(found), "ok", max(steps), runs=cell.runs)


def speed(study: Study, metrics: Metrics, cell: Cell, test: str, role: str) -> Series:
    """How much sooner FedAvg's accuracy after its last round is reached than by FedAvg itself, the synchronous entry of
    the table with that title: 100 ln of its virtual time over ours.

    Where a run does not reach the target it needs longer than it lasted, so its speed is less than the number. Its
    least step is that from one evaluation to the next, as nothing is known of the time between them.
    """
    place = (cell.dataset, cell.axis["heterogeneity"], REFERENCE)
    alike = (one for one in cells(study, "convergence") if one.timing.values["mode"] == "sync")
    reference = next((one for one in alike if (one.dataset, one.axis["heterogeneity"], one.title) == place), None)
    if reference is None:
        return Series(np.full(len(cell.seeds), np.nan), "not in study", planned=False)
    both = replace(cell, runs=tuple(dict.fromkeys((*cell.runs, *reference.runs))))
    if (status := worst((_status(metrics, cell), _status(metrics, reference)))) != "ok":
        return _empty(metrics, both, status)
    check_timelines([cell, reference], metrics)
    ours, theirs = (time_to_target(one, reference, 1.0, metrics, test) for one in (cell, reference))
    states = {value.status for value in ours} - {"not reached"} | {value.status for value in theirs}
    if states - {"ok"}:
        found = worst("no target" if state == "not reached" else state for state in states)
        return _empty(metrics, both, found)
    times = [
        value.time if value.time is not None else float(ready(cell, seed, run, metrics)[-1])
        for seed, run, value in zip(cell.seeds, cell.runs, ours, strict=True)
    ]
    others = [value.time for value in theirs if value.time is not None]
    values = [100 * float(np.log(other / time)) for time, other in zip(times, others, strict=True)]
    step = max(*_steps(metrics, cell, times), *_steps(metrics, reference, others))
    if not np.isfinite(step):
        return _empty(metrics, both, "too few rounds")
    censored = np.array([value.status != "ok" for value in ours])
    return Series(np.array(values), "ok", step, censored, both.runs)


def _steps(metrics: Metrics, cell: Cell, times: Sequence[float]) -> list[float]:
    """For each seed, 100 ln of the time of the evaluation after the one at ``times`` over it; of the last, of the last
    over the one before; inf where there is but one."""
    found = []
    for seed, run, time in zip(cell.seeds, cell.runs, times, strict=True):
        evaluated = np.unique(ready(cell, seed, run, metrics)[list(cell.rounds)])
        place = min(int(np.searchsorted(evaluated, time)), len(evaluated) - 2)
        found.append(100 * float(np.log(evaluated[place + 1] / evaluated[place])) if place >= 0 else np.inf)
    return found


def constant(study: Study, metrics: Metrics, cell: Cell, test: str, role: str) -> Series:
    """What an answer that is always the same reaches, without a model: on its own test a client's most frequent class
    (of those that nobody else holds, for monopoly classes), on the pooled test the most frequent of all.

    Told from the training images, as the tests are shared out alike; ``not run`` while a partition is not there.
    """
    paths = [RunContext(study, cell.dataset, cell.setting, seed).partition.path for seed in cell.seeds]
    folder = metrics.folder
    missing = tuple(path for path in paths if folder is None or not (folder / path).is_file())
    if folder is None or missing:
        return Series(np.full(len(paths), np.nan), "not run", missing=missing)
    parts = (read_npz(folder / path, "partition", ("counts", "dropout")) for path in paths)
    held = [(np.asarray(part["counts"]), part["dropout"].astype(bool)) for part in parts]
    return Series(np.array([100 * _constant(*one, test, role) for one in held]), "ok")


def expected_constant(study: Study, cell: Cell, test: str, role: str) -> Series:
    """The same before the partitions are there: of partitions drawn alike, of as many images with equal classes; ``not
    run`` where the setting does not say enough."""
    size = size_of(study.data[cell.dataset], cell.dataset)
    held = [drawn_counts(cell.dataset, study.classes(cell.dataset), size, cell.setting, seed) for seed in cell.seeds]
    if any(one is None for one in held):
        return Series(np.full(len(held), np.nan), "not run")
    return Series(np.array([100 * _constant(*one, test, role) for one in held if one is not None]), "ok")


def _constant(counts: np.ndarray, dropout: np.ndarray, test: str, role: str) -> float:
    if test == "pooled":
        return float(counts.sum(axis=0).max() / counts.sum())
    ours, unseen = counts[dropout if role == "dropout" else ~dropout], counts[~dropout].sum(axis=0) == 0
    tested = ours * unseen if test == "monopoly" else ours
    weights = ours.sum(axis=1) * (tested.sum(axis=1) > 0)
    shares = tested.max(axis=1) / np.maximum(tested.sum(axis=1), 1)
    return float(weights @ shares / weights.sum()) if weights.any() else 1 / counts.shape[1]


MEASURES: Mapping[str, Callable[[Study, Metrics, Cell, str, str], Series]] = {
    "accuracy": accuracy,
    "fall": fall,
    "rise": rise,
    "climb": climb,
    "speed": speed,
    "constant": constant,
}


def _status(metrics: Metrics, cell: Cell) -> str:
    """Of the runs, before their numbers are looked at."""
    states = [metrics.status(run) for run in cell.runs]
    frames = [metrics.frames[run] for run, state in zip(cell.runs, states, strict=True) if state == "ok"]
    if any(not (frame["model"] == cell.model).any() for frame in frames):
        states.append("not measured")
    return worst(states)


def _empty(metrics: Metrics, cell: Cell, status: str) -> Series:
    done = tuple(run for run in cell.runs if run in metrics.records)
    missing = tuple(run for run in cell.runs if run not in metrics.records)
    return Series(np.full(len(cell.seeds), np.nan), status, runs=done, missing=missing)
