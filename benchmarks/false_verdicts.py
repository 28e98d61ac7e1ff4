"""How often the rule of the verdicts is wrong, where the truth is known.

Claims of each kind of comparison are judged by the functions that judge a study (`apfl.paper.verdict.contrasts`,
`apfl.paper.verdict.family`), on columns drawn at the edge of what the claim says: 18 rows, six baselines, and a share
of each column's variance that is common to all of its cells in a seed. For contradictions all comparisons lie at their
bounds; for "reproduced" one does, and all others far inside, which is the worst for either. The former rule is judged
beside it. ``python -m benchmarks.false_verdicts`` writes the file that docs/claims.md shows; ``--quick`` is a trial.

In the kinds of `COLLAPSING` a method collapses in a tenth of its seeds, in all cells of the seed, and is as good as the
others on average: where no seed collapsed, nothing in the numbers says that one could. They show what the intervals,
which take the means of seeds for normal, do not hold, and are checked apart.

The number of trials is fixed and the random streams are named, so no setting is drawn again because of what came out.
Where one comparison lies at its bound, "reproduced" is wrong in 2.5 % of the trials by construction, not in fewer, so
that the shares of many settings lie on both sides of that. Of 168 such shares, the largest is above three of its own
standard errors in about one simulation of five although nothing is wrong. (It was: 2.835 % for lines by data set with
five seeds that share nothing, where the rate is known to be 1 - (1 - 0.025 / 3)^3 = 2.48 %.) So the shares are compared
with `limit`, which is corrected for the number of settings looked at. So are those of the settings of a kind together,
which have less error of simulation.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from apfl.paper.numbers.intervals import ERROR, LEVEL, Cellwise, mean
from apfl.paper.verdict.claims import Ask, Claim, Row, parse
from apfl.paper.verdict.contrasts import Contrast, Question, by_row, contrasts, in_study
from apfl.paper.verdict.family import (
    CONTRADICTED,
    REPRODUCED,
    corrected,
    judge_claim,
    judge_rows,
    sets,
)
from apfl.paper.verdict.measures import Series
from apfl.storage.files import write_text
from apfl.streams import numpy_stream
from benchmarks.interval_coverage import stratified

FILE = Path(__file__).parents[1] / "docs" / "measurements" / "false_verdicts.csv"
SEEDS, SHARED = (3, 5, 10), (0.0, 0.2, 0.5, 0.9)
TRIALS, BLOCK = 20_000, 2_000
BASELINES = ["Local", "FedAvg", "FedProx", "SCAFFOLD", "FedGen", "FedDF"]
FAR = 20.0
"""Deviations that no comparison loses."""
TABLE = [{"dataset": ["cifar10", "cifar100", "emnist"], "clients": ["5", "10"], "alpha": ["0.01", "0.05", "0.1"]}]
PLACES = [{"dataset": ["cifar10", "cifar100", "emnist"], "clients": ["5", "10"]}]
CELLS = [{"dataset": ["cifar10"], "clients": ["5", "10", "20"], "alpha": ["0.01", "0.05", "0.1"]}]
FIGURE = [{"dataset": ["cifar10", "emnist"]}]

Level = Callable[[str, Row], float]
"""The true mean of a column in a row, in deviations; the row has the value of the axis."""


def ours(value: float) -> Level:
    return lambda column, row: value if column == "AP-FL" else 0.0


def one_close(column: str, row: Row) -> float:
    """AP-FL equal to one baseline, and all others far behind."""
    return 0.0 if column in ("AP-FL", "FedAvg") else -FAR


def one_steadier(column: str, row: Row) -> float:
    """Courses as restless as AP-FL's in one baseline, and much more so in all others."""
    return 0.0 if column in ("AP-FL", "FedAvg") else FAR


def noisy_at(*alphas: str) -> Level:
    """Twice the deviation at some values of alpha."""
    return lambda column, row: 2.0 if row["alpha"] in alphas else 1.0


@dataclass(frozen=True)
class Kind:
    """A kind of comparison: the claim's ``asks`` on ``rows``; the true levels where it must not be contradicted, and
    where it must not be reproduced (None: it may be, as it is true); ``split``: is it asked of each of its lines,
    ``row`` or ``data set``, any of which may be wrong, or is each place a claim of its own (``claims``), any of which
    may be counted after correction for all? ``spread`` is the deviation in a row, ``collapses`` by how much a column is
    lower where it collapses; ``there``: is it in the study?"""

    asks: Sequence[Mapping[str, Any]]
    rows: Sequence[Mapping[str, Any]]
    at_bound: Level
    all_but_one: Level | None
    split: str = ""
    spread: Level = lambda column, row: 1.0
    collapses: Level = lambda column, row: 0.0
    there: Callable[[Row], bool] = lambda row: True
    every: bool = False
    output: str = "table2"
    draw: str = "normal"
    former_apart: bool = False
    former_best: bool = False

    @property
    def claim(self) -> Claim:
        facts = {name: "x" for name in ("id", "sentence", "where", "why")} | {"source": "paper", "tests": ["pooled"]}
        facts |= {"readings": "all", "output": self.output, "rows": self.rows, "asks": self.asks, "every": self.every}
        return parse({"claims": [facts]})[0]


MEAN = {"mean_over": "all", "above": 0}
EACH = {"first": "AP-FL", "against": BASELINES} | MEAN
ALPHAS = {"axis": "alpha", "at": ["0.01", "0.05"]}
LEAD = EACH | ALPHAS | {"take": "best", "others": ["0.1"]}
SAMPLES = {"first": "AP-FL", "axis": "samples_per_class", "at": ["600"], "others": ["50"]} | MEAN
SLOPE = {"first": "AP-FL", "slope": "noise_dimension", "values": ["20", "100", "400", "512"], "below": 0}
KINDS: Mapping[str, Kind] = {
    "each baseline, mean over rows": Kind([EACH], TABLE, ours(0.0), one_close, former_apart=True),
    "each baseline, row by row": Kind([EACH], TABLE, ours(0.0), one_close, split="row", former_apart=True),
    "each baseline, by data set": Kind([EACH], TABLE, ours(0.0), one_close, split="data set"),
    "each baseline, by data set, parts of two": Kind(
        [EACH], TABLE, ours(0.0), one_close, split="data set", every=True,
        there=lambda row: row["dataset"] == "cifar10" or row["clients"] == "5",
    ),
    "each baseline, six claims together": Kind(
        [EACH | {"mean_over": ["alpha"]}], TABLE, ours(0.0), one_close, split="claims"
    ),
    "each baseline, half a deviation ahead": Kind([EACH], CELLS, ours(0.5), None, former_best=True),
    "best baseline along an axis": Kind([LEAD, EACH | ALPHAS], PLACES, ours(0.0), ours(FAR)),
    "best baseline, skewed cells noisier": Kind(
        [LEAD, EACH | ALPHAS], PLACES, ours(0.0), ours(FAR), spread=noisy_at("0.01", "0.05")
    ),
    "best baseline alone, skewed cells noisier": Kind(
        [LEAD], PLACES, ours(0.0), ours(0.0), spread=noisy_at("0.01", "0.05")
    ),
    "best baseline, other cells noisier": Kind(
        [LEAD, EACH | ALPHAS], PLACES, ours(0.0), ours(FAR), spread=noisy_at("0.1")
    ),
    "mean of baselines within margins": Kind(
        [EACH | {"take": "mean", "above": 5.2, "below": 9.8}], TABLE, ours(5.2), ours(5.2)
    ),
    # Narrower than what the mean scatters by, so that it may be found on either side.
    "mean of baselines within narrow margins": Kind(
        [EACH | {"take": "mean", "above": 5.2, "below": 5.4}], TABLE, ours(5.2), ours(5.2)
    ),
    "along an axis": Kind([SAMPLES], FIGURE, ours(0.0), ours(0.0), output="figure5"),
    "slope": Kind([SLOPE | {"mean_over": "all"}], FIGURE, ours(0.0), ours(0.0), output="figure5"),
    "fall along rounds": Kind(
        [{"first": "AP-FL", "against": BASELINES, "mean_over": "all", "measure": "fall", "below": 0}],
        FIGURE, ours(0.0), one_steadier, output="figure4", draw="fall",
    ),
    "speed, better of two schedules": Kind(
        [{"first": "AP-FL", "measure": "speed", "mean_over": "all", "above": 33.65}],
        [{"dataset": ["cifar10"], "heterogeneity": ["0", "1"]}],
        ours(33.65), ours(33.65), output="convergence", draw="speed",
    ),
}  # fmt: skip
COLLAPSED = 0.1
"""The share of seeds in which a method collapses."""
COLLAPSING: Mapping[str, Kind] = {
    f"each baseline, mean over rows, {who}": replace(
        KINDS["each baseline, mean over rows"],
        collapses=lambda column, row, ours=ours: FAR * (ours == (column == "AP-FL")),
    )
    for who, ours in (("AP-FL collapses", True), ("baselines collapse", False))
}
ALL = {**KINDS, **COLLAPSING}


@dataclass
class Drawn:
    """In the place of a study: every column with ``seeds`` draws in each of ``trials``."""

    level: Level
    draw: str
    seeds: int
    trials: int
    shared: float
    rng: np.random.Generator
    spread: Level = lambda column, row: 1.0
    there: Callable[[Row], bool] = lambda row: True
    collapses: Level = lambda column, row: 0.0
    known: dict[tuple, np.ndarray] = field(default_factory=dict)

    def schedules(self, claim: Claim, reading: str) -> tuple[str, ...]:
        return ("synchronous", "buffered") if claim.output == "convergence" else ("",)

    def series(self, asked: Question, ask: Ask, column: str, row: Row) -> Series:
        if not self.there(row):
            return Series(np.full((self.seeds, self.trials), np.nan), "not in study", planned=False)
        key = (asked.schedule, column, row.get(ask.axis or ask.slope, ""))
        return Series(DRAWS[self.draw](self, key, column, row), "ok")

    def noise(self, key: tuple, row: Row, rounds: int = 0) -> np.ndarray:
        """Unit variance, a share of it common to all rows: float64 [seeds, trials], or [rounds, seeds, trials]."""
        shape = (*([rounds] if rounds else []), self.seeds, self.trials)
        for name in (key, (*key, *row.items())):
            if name not in self.known:
                self.known[name] = self.rng.normal(size=shape)
        return np.sqrt(self.shared) * self.known[key] + np.sqrt(1 - self.shared) * self.known[*key, *row.items()]

    def collapse(self, key: tuple, depth: float) -> np.ndarray:
        """``depth`` lower in some seeds, in all rows alike, and higher in the others, so that the mean stays: float64
        [seeds, trials]."""
        name = ("collapse", *key)
        if name not in self.known:
            self.known[name] = self.rng.random((self.seeds, self.trials)) < COLLAPSED
        return depth * (COLLAPSED - self.known[name])


def normal(made: Drawn, key: tuple, column: str, row: Row) -> np.ndarray:
    found = made.level(column, row) + made.spread(column, row) * made.noise(key, row)
    depth = made.collapses(column, row)
    return found + made.collapse(key, depth) if depth else found


def fall(made: Drawn, key: tuple, column: str, row: Row) -> np.ndarray:
    """The measure of the same name, of courses over ten rounds that go nowhere."""
    course = made.noise(key, row, rounds=10)
    course = course * (1 + made.level(column, row))
    return np.maximum(course[:-1] - course[1:], 0).mean(axis=0)


def speed(made: Drawn, key: tuple, column: str, row: Row) -> np.ndarray:
    """Times that scatter by a tenth (log-normal), over those of a reference that all schedules share."""
    return made.level(column, row) + 10 * (made.noise(key, row) - made.noise(("reference",), row))


DRAWS = {"normal": normal, "fall": fall, "speed": speed}


def drawn(kind: Kind, level: Level, seeds: int, shared: float, trials: int, stream: str) -> Iterator[list[Contrast]]:
    """The contrasts of the claim, in blocks of trials."""
    rng = numpy_stream(0, f"false_verdicts/{stream}")
    for start in range(0, trials, BLOCK):
        made = Drawn(
            level, kind.draw, seeds, min(BLOCK, trials - start), shared, rng, kind.spread, kind.there, kind.collapses
        )
        yield contrasts(made, kind.claim, "literal", "pooled")


def share(kind: Kind, status: str, blocks: Iterator[list[Contrast]]) -> float:
    """The part of the trials in which the claim, or any of the lines of it that are judged, has this status."""
    found = []
    for given in blocks:
        statuses = LINES[kind.split](kind, given)
        found.append(np.any(np.broadcast_arrays(*(one == status for one in statuses)), axis=0))
    return float(np.mean(np.concatenate(found)))


def claims_together(kind: Kind, given: Sequence[Contrast]) -> list[np.ndarray]:
    """Each place as a claim of its own, corrected for all of them."""
    apart = [[one for one in given if one.place == name] for name in dict.fromkeys(one.place for one in given)]
    return corrected([judge_claim(one, kind.every)[0] for one in apart])


LINES: Mapping[str, Callable[[Kind, Sequence[Contrast]], list[np.ndarray]]] = {
    "": lambda kind, given: [judge_claim(given, kind.every)[0].status],
    "row": lambda kind, given: [one.status for one in judge_rows(given, {})],
    "data set": lambda kind, given: [one.status for one in judge_claim(given, kind.every)[1].values()],
    "claims": claims_together,
}
"""What the verdicts say of each line, by the functions that judge a study."""


def former(kind: Kind, given: Sequence[Contrast]) -> np.ndarray:
    """Was the claim contradicted by the rule before this one? bool [trials].

    Each row was a comparison, the best baseline the highest in each seed. Only the interval that takes cells for
    independent was corrected for the number of sets; the one over seeds' means stayed at 95 %. (The bootstrap that was
    asked as well never widened them.)
    """
    given = [in_study(one) for one in given]
    if kind.former_best:
        values = np.min([[part.values for part in one.strata] for one in given], axis=0)
        return _ends(values, 1)[1] < 0
    apart = [one for contrast in given for one in (by_row(contrast, {}) if kind.former_apart else [contrast])]
    chosen = sets(apart)
    found = np.zeros(given[0].strata[0].values.shape[1:], bool)
    for alike in chosen:
        low, high = _ends(np.array([part.values for one in alike for part in one.strata]), len(chosen))
        one = alike[0]
        found |= (high < one.low) if one.low is not None else np.zeros_like(found)
        found |= (low > one.high) if one.high is not None else np.zeros_like(found)
    return found


def _ends(values: np.ndarray, family: int) -> tuple[np.ndarray, np.ndarray]:
    """The wider ends of both intervals; ``values`` [cells, seeds, trials]."""
    pairs = (stratified(values, ERROR / family), mean([Cellwise(one) for one in values]).interval())
    return np.minimum(*(pair[0] for pair in pairs)), np.maximum(*(pair[1] for pair in pairs))


def limit(trials: int, settings: int) -> float:
    """The share of wrong trials that none of ``settings`` exceeds in 95 % of simulations, if each is wrong at the
    nominal rate: binomial, corrected for their number (Bonferroni)."""
    return float(stats.binom.isf((1 - LEVEL) / settings, trials, ERROR)) / trials


def measured(name: str, seeds: int, shared: float, trials: int) -> dict[str, float | int | str]:
    """A row of the file."""
    kind = ALL[name]
    stream = f"{name}/{seeds}/{shared}"
    blocks = list(drawn(kind, kind.at_bound, seeds, shared, trials, f"bound/{stream}"))
    row = {"kind": name, "seeds": seeds, "shared": shared, "trials": trials}
    row["false_contradicted"] = share(kind, CONTRADICTED, iter(blocks))
    row["old_contradicted"] = float(np.mean(np.concatenate([former(kind, given) for given in blocks])))
    row["false_reproduced"] = np.nan
    if kind.all_but_one is not None:
        others = drawn(kind, kind.all_but_one, seeds, shared, trials, f"close/{stream}")
        row["false_reproduced"] = share(kind, REPRODUCED, others)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--kind", nargs="*", default=list(ALL), choices=list(ALL), help="the file keeps the others")
    parser.add_argument("--quick", action="store_true", help="2,000 trials, and nothing is written")
    options = parser.parse_args()
    trials = 2_000 if options.quick else options.trials
    rows = [measured(name, seeds, shared, trials) for name in options.kind for seeds in SEEDS for shared in SHARED]
    frame = pd.DataFrame(rows)
    print(frame.to_string(index=False))
    if not options.quick:
        known = pd.read_csv(FILE) if set(options.kind) != set(ALL) else frame[:0]
        frame = pd.concat([known[~known["kind"].isin(options.kind)], frame])
        frame = frame.sort_values("kind", key=lambda names: names.map(list(ALL).index), kind="stable")
        write_text(FILE, frame.to_csv(index=False, float_format="%.5f", lineterminator="\n"))


if __name__ == "__main__":
    main()
