"""Verdicts: each claim, in each reading and on each test, is reproduced, contradicted, undecided or not run.

A claim is the conjunction of its contrasts. It is *reproduced* if the interval of every contrast lies on the claimed
side: then all of them are true together at that level, without correction (an intersection-union test; Berger,
Technometrics 24, 1982). It is *contradicted* if one of them, or the mean of a set of them named beforehand, lies
wholly on the other side, at a level that holds for all sets that were looked at together (Bonferroni). Otherwise it is
*undecided*, or *not run* where there is nothing to judge. docs/claims.md has the details.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from apfl.paper import published
from apfl.paper.bootstrap import Cellwise, Intervals, bootstrap_interval, intervals
from apfl.paper.claims import Claim, claims
from apfl.paper.contrasts import Contrast, Source, contrasts, place
from apfl.paper.labels import dataset_label, ordered
from apfl.paper.metrics import Metrics
from apfl.streams import numpy_stream
from apfl.study import Study

REPRODUCED, CONTRADICTED, UNDECIDED, NOT_RUN = "reproduced", "contradicted", "undecided", "not run"
STATUSES = (REPRODUCED, CONTRADICTED, UNDECIDED, NOT_RUN)
ABSENT = ("not in study", "not run", "not measured")


@dataclass(frozen=True)
class Judged:
    """A contrast with its intervals, None where it has no number; ``side`` is inside, outside, open or absent."""

    contrast: Contrast
    intervals: Intervals | None
    side: str


@dataclass(frozen=True)
class Line:
    """What is compared (``label``), where, and the mean over those rows that have a number."""

    label: str
    place: str
    intervals: Intervals | None


@dataclass(frozen=True)
class Verdict:
    """The verdict on a claim in a reading, on a test, on all of its data sets or (``dataset``) on one.

    ``lines`` are the comparisons, each over all of its rows; ``headline`` is the set that contradicts the claim, or
    else the line that is nearest to doing so. ``decided_by`` are the cells of the smallest set that decides it,
    ``open`` the contrasts that leave it undecided, ``runs`` the number of finished runs it was judged by, ``missing``
    planned runs that are not there, ``absent`` what the study does not run at all. A verdict on ``stand_in`` data never
    enters one on the paper's.
    """

    claim: Claim
    reading: str
    test: str
    dataset: str
    stand_in: bool
    status: str
    reason: str
    lines: tuple[Line, ...]
    headline: Line | None
    judged: tuple[Judged, ...]
    family: int
    decided_by: tuple[str, ...]
    open: tuple[str, ...]
    runs: int
    missing: tuple[str, ...]
    absent: tuple[str, ...]

    @property
    def primary(self) -> bool:
        """Is it on the test that the claim is first asked on?"""
        return self.test == self.claim.tests[0]


@dataclass(frozen=True)
class Finding:
    """A claim in a reading on a test: the verdict, and beside it those on single data sets and on stand-ins."""

    verdict: Verdict
    datasets: tuple[Verdict, ...]
    stand_ins: tuple[Verdict, ...]


def findings(study: Study, metrics: Metrics, asked: Sequence[Claim] | None = None) -> list[Finding]:
    """Every claim in every reading on every test; ``asked`` replaces the claims of claims.yaml."""
    source = Source.of(study, metrics)
    return [
        _finding(source, claim, reading, test)
        for claim in (claims() if asked is None else asked)
        for reading in source.readings()
        if claim.is_asked_of(reading)
        for test in claim.tests
    ]


def _finding(source: Source, claim: Claim, reading: str, test: str) -> Finding:
    if not source.runs(claim, reading):
        return Finding(_verdict(claim, reading, test, "", (), {}), (), ())
    ours = contrasts(source, claim, reading, test)
    known: dict[str, tuple[float, float]] = {}
    whole = _verdict(claim, reading, test, "", ours, known)
    names = ordered((row["dataset"] for contrast in ours for row in contrast.rows), published.DATASETS)
    parts = {name: _on(ours, name) for name in names} if len(names) > 1 else {}
    family = max(whole.family, sum(len(_sets(_usable(part))) for part in parts.values()))
    others = contrasts(source, claim, reading, test, stand_ins=True)
    names = ordered((row["dataset"] for contrast in others for row in contrast.rows), ())
    return Finding(
        whole,
        tuple(_verdict(claim, reading, test, name, part, known, family=family) for name, part in parts.items()),
        tuple(_verdict(claim, reading, test, name, _on(others, name), known, stand_in=True) for name in names),
    )


def _usable(given: Sequence[Contrast]) -> list[Contrast]:
    return [contrast for contrast in given if contrast.status == "ok"]


def _on(given: Sequence[Contrast], dataset: str) -> list[Contrast]:
    """The contrasts on one data set; of a mean over several, the part of it."""
    found = []
    for contrast in given:
        kept = [place for place, row in enumerate(contrast.rows) if row["dataset"] == dataset]
        if kept:
            rows, strata = ([values[place] for place in kept] for values in (contrast.rows, contrast.strata))
            where = contrast.place if contrast.dataset else dataset_label(dataset)
            found.append(replace(contrast, rows=tuple(rows), strata=tuple(strata), dataset=dataset, place=where))
    return found


def _verdict(
    claim: Claim,
    reading: str,
    test: str,
    dataset: str,
    given: Sequence[Contrast],
    known: dict[str, tuple[float, float]],
    *,
    stand_in: bool = False,
    family: int = 0,
) -> Verdict:
    usable = _usable(given)
    sets = _sets(usable)
    family = max(family, len(sets))
    name = "/".join((claim.id, reading, test))
    found = [_measured(chosen, name, family, known) for chosen in sets]
    single = {id(chosen[0]): one for chosen, one in zip(sets, found, strict=True) if len(chosen) == 1}
    judged = tuple(_judged(contrast, single.get(id(contrast))) for contrast in given)
    against = [(chosen, one) for chosen, one in zip(sets, found, strict=True) if _outside(one.strict_hull, chosen[0])]
    against.sort(key=lambda pair: (len(_cells(pair[0])), -_distance(pair[1].strict_hull, pair[0][0])))
    decisive, shown = against[0] if against else ((), None)
    status = _status(judged, bool(against))
    over = {(one[0].ask, one[0].label): (one, made) for one, made in zip(sets, found, strict=True)}
    lines = tuple(_line(given, key, over.get(key)) for key in dict.fromkeys((one.ask, one.label) for one in given))
    return Verdict(
        claim,
        reading,
        test,
        dataset,
        stand_in,
        status,
        _reason(status, judged, decisive, shown),
        lines,
        _headline(lines, over, (decisive, shown)),
        judged,
        family,
        _cells({CONTRADICTED: decisive, REPRODUCED: usable}.get(status, ())),
        tuple(f"{one.contrast.label}, {one.contrast.place}" for one in judged if one.side in ("open", "outside")),
        len({run for contrast in given for part in contrast.strata for run in part.runs}),
        tuple(sorted({run for contrast in given for part in contrast.strata for run in part.missing})),
        _absent(given),
    )


def _measured(chosen: Sequence[Contrast], name: str, family: int, known: dict[str, tuple[float, float]]) -> Intervals:
    """The stream depends on what is measured alone, so that equal sets get equal numbers wherever they stand."""
    label = "+".join(f"{one.ask}:{one.label}:{one.place}:{len(one.rows)}" for one in chosen)
    strata = [Cellwise(part.values, part.resolution) for contrast in chosen for part in contrast.strata]
    if label not in known:
        known[label] = bootstrap_interval(strata, numpy_stream(0, f"verdict/{name}/{label}"))
    return intervals(strata, known[label], family)


def _sets(usable: Sequence[Contrast]) -> list[tuple[Contrast, ...]]:
    """What may contradict a claim: each contrast, and the mean of those with one label, on a data set and everywhere.

    If each of several numbers lay within the bounds, so would their mean. Which sets there are is fixed by the claim,
    and by which runs are there, never by what they measured.
    """
    made = dict.fromkeys((number,) for number in range(len(usable)))
    for keys in ([(one.ask, one.label, one.dataset) for one in usable], [(one.ask, one.label) for one in usable]):
        for key in dict.fromkeys(keys):
            made[tuple(number for number, other in enumerate(keys) if other == key)] = None
    return [tuple(usable[number] for number in numbers) for numbers in made]


def _judged(contrast: Contrast, found: Intervals | None) -> Judged:
    if found is None:
        return Judged(contrast, None, "absent")
    low, high = found.hull
    within = (contrast.low is None or low > contrast.low) and (contrast.high is None or high < contrast.high)
    # A number that is only known to be no larger cannot show that something is large enough.
    if within and not contrast.bounds_only:
        return Judged(contrast, found, "inside")
    return Judged(contrast, found, "outside" if _outside(found.hull, contrast) else "open")


def _outside(interval: tuple[float, float], contrast: Contrast) -> bool:
    """Does the interval lie wholly on the other side?"""
    below = contrast.low is not None and interval[1] < contrast.low
    above = contrast.high is not None and interval[0] > contrast.high
    return below or (above and not contrast.bounds_only)


def _distance(interval: tuple[float, float], contrast: Contrast) -> float:
    """How far the interval lies beyond the bound that it fails."""
    gaps = [contrast.low - interval[1]] if contrast.low is not None else []
    return max(gaps + ([interval[0] - contrast.high] if contrast.high is not None else []))


def _status(judged: Sequence[Judged], contradicted: bool) -> str:
    if contradicted:
        return CONTRADICTED
    if all(part.status in ABSENT for one in judged for part in one.contrast.strata):
        return NOT_RUN
    return REPRODUCED if all(one.side == "inside" for one in judged) else UNDECIDED


Measured = tuple[Sequence[Contrast], Intervals | None]


def _line(given: Sequence[Contrast], key: tuple[int, str], measured: Measured | None) -> Line:
    chosen, found = measured or ([one for one in given if (one.ask, one.label) == key], None)
    return Line(key[1], _where(chosen), found)


def _headline(lines: Sequence[Line], over: Mapping[tuple[int, str], Measured], decisive: Measured) -> Line | None:
    """The set that contradicts, or else the comparison that comes nearest to it."""
    if decisive[1] is not None:
        return Line(decisive[0][0].label, _where(decisive[0]), decisive[1])
    nearest = max(over.values(), key=lambda pair: _distance(pair[1].strict_hull, pair[0][0]), default=None)
    return (
        lines[0] if nearest is None and lines else nearest and Line(nearest[0][0].label, _where(nearest[0]), nearest[1])
    )


def _where(chosen: Sequence[Contrast]) -> str:
    if len(chosen) == 1:
        return chosen[0].place
    dataset = {contrast.dataset for contrast in chosen}
    return f"mean over {len(chosen)} rows" + (f" of {dataset_label(dataset.pop())}" if len(dataset) == 1 else "")


def _cells(chosen: Iterable[Contrast]) -> tuple[str, ...]:
    """The cells behind contrasts: the folders of their runs, without study and seed."""
    runs = {run for contrast in chosen for part in contrast.strata for run in part.runs}
    return tuple(sorted({"/".join(run.split("/")[2:-1]) for run in runs}))


def _absent(given: Sequence[Contrast]) -> tuple[str, ...]:
    """What the study does not run, or did not measure: a row as a whole, or single comparisons in it."""
    seen: dict[str, set[str]] = {}
    lacking: dict[tuple[str, str], list[str]] = {}
    for one in given:
        for row, part in zip(one.rows, one.strata, strict=True):
            where = place(row)
            seen.setdefault(where, set()).add(one.label)
            if part.status in ("not in study", "not measured"):
                lacking.setdefault((where, part.status), []).append(one.label)
    return tuple(
        f"{where}{'' if set(labels) == seen[where] else ': ' + '; '.join(dict.fromkeys(labels))}: {status}"
        for (where, status), labels in lacking.items()
    )


SIDES = {"inside": "on the claimed side", "outside": "on the other side before correction", "open": "open"}


def _reason(status: str, judged: Sequence[Judged], decisive: Sequence[Contrast], shown: Intervals | None) -> str:
    """The verdict in a sentence."""
    if shown is not None:
        low, high = shown.strict_hull
        found = f"{shown.estimate:+.2f} [{low:+.2f}, {high:+.2f}]".replace("-", "−")
        return f"{decisive[0].label}, {_where(decisive)}: {found}"
    states = [SIDES[one.side] if one.contrast.status == "ok" else one.contrast.status for one in judged]
    if status == NOT_RUN or not judged:
        return ", ".join(dict.fromkeys(states)) or "the study does not run AP-FL there in this reading"
    return f"of {len(states)}: " + ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
