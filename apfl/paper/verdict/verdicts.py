"""Verdicts: each claim, in each reading and on each test, is reproduced, contradicted, open, without anything to judge,
or not run.

A claim is the conjunction of its contrasts, its primary numbers. It is *reproduced* if each of them lies on the claimed
side, *contradicted* if one of them, or the mean of a set of them named beforehand, lies on the other side at a level
that holds for all sets together; `apfl.paper.verdict.family` is that rule. Where what a claim is about is not shown to
be above chance and above what needs no communication, there is *nothing to judge*. Beside it stands what each row says
by itself. A verdict before all runs are finished is *interim*. docs/claims.md has the details.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from apfl.paper.labels import dataset_label, ordered
from apfl.paper.numbers.frames import grouped
from apfl.paper.numbers.intervals import ERROR, holm
from apfl.paper.numbers.metrics import Metrics
from apfl.paper.verdict.best import why_unread
from apfl.paper.verdict.claims import Claim, claims
from apfl.paper.verdict.contrasts import Contrast, Question, Source, contrasts
from apfl.paper.verdict.family import (
    CONTRADICTED,
    NOT_RUN,
    NOTHING,
    OPEN,
    REPRODUCED,
    Outcome,
    Weighed,
    corrected,
    judge,
    judge_claim,
    judge_rows,
    on_dataset,
)
from apfl.paper.verdict.power import Power, power
from apfl.paper.verdict.reasons import incomplete, is_partition, reason, side
from apfl.paper.verdict.words import place
from apfl.study.study import Study

ABSENT = ("not in study", "not measured")


@dataclass(frozen=True)
class RowVerdict:
    """The stricter line: what a single row says of the claim, corrected for all rows together; ``interim`` as of a
    verdict."""

    place: str
    dataset: str
    status: str
    interim: bool


@dataclass(frozen=True)
class Verdict:
    """The verdict on a claim in a reading, on a test, on all of its data sets or (``dataset``) on one; on ``part`` of
    the paper's rows, if not on all.

    ``lines`` are the comparisons, each over all of its rows; ``headline`` is the set that contradicts the claim, or
    else the line that is nearest to doing so. ``decided_by`` are the cells of the smallest set that decides it,
    ``open`` the contrasts that leave it open, ``rows`` the rows one by one, ``runs`` the number of finished runs it
    was judged by, ``missing`` planned runs and partitions that are not there, ``absent`` what the study does not run at
    all. ``corrected`` is the status after correction for all claims of the same source, or of a line by data set for
    all such lines, on the first test alone (``unsettled``: one of these is interim or still to be run, so that this is
    interim too), and ``power`` what the study could find out. A verdict on ``stand_in`` data never enters one on the
    paper's.
    """

    claim: Claim
    reading: str
    test: str
    dataset: str
    part: str
    stand_in: bool
    status: str
    reason: str
    headline: Weighed | None
    outcome: Outcome
    rows: tuple[RowVerdict, ...]
    decided_by: tuple[str, ...]
    open: tuple[str, ...]
    runs: int
    missing: tuple[str, ...]
    absent: tuple[str, ...]
    corrected: str = ""
    unsettled: bool = False
    power: Power | None = None

    @property
    def lines(self) -> tuple[Weighed, ...]:
        return self.outcome.comparisons

    @property
    def primary(self) -> bool:
        """Is it on the test that the claim is first asked on?"""
        return self.test == self.claim.tests[0]

    @property
    def interim(self) -> bool:
        """Is a run still missing that the claim needs? Then this is not the study's verdict."""
        return bool(self.missing) and self.status != NOT_RUN

    @property
    def planned(self) -> bool:
        """Does the study have all of one of its comparisons?"""
        return self.outcome.family > 0

    @property
    def can_be_reproduced(self) -> bool:
        """Does the study have all of its comparisons?"""
        asked = [part for one in self.outcome.judged for part in one.contrasts if not part.gate]
        return bool(asked) and all(part.planned and not part.partial for part in asked)

    @property
    def in_study(self) -> bool:
        """Has it been run, or will it be?"""
        return self.status != NOT_RUN or bool(self.missing)


@dataclass(frozen=True)
class Finding:
    """A claim in a reading on a test: the verdict, and beside it those on single data sets and on stand-ins."""

    verdict: Verdict
    datasets: tuple[Verdict, ...]
    stand_ins: tuple[Verdict, ...]


def findings(study: Study, metrics: Metrics, asked: Sequence[Claim] | None = None) -> list[Finding]:
    """Every claim in every reading on every test; ``asked`` replaces the claims of claims.yaml."""
    source = Source.of(study, metrics)
    found = [
        _finding(source, Question(claim, reading, test))
        for claim in (claims() if asked is None else asked)
        for reading in source.readings()
        if claim.is_asked_of(reading)
        for test in claim.tests
    ]
    return _corrected(found)


def _corrected(found: Sequence[Finding]) -> list[Finding]:
    """Holm over all claims of a source that the study plans in a reading, on their first tests, for each side; and,
    apart, over all of their lines by data set."""
    planned = [number for number, one in enumerate(found) if one.verdict.primary and one.verdict.planned]
    asked = [(one.verdict.reading, one.verdict.claim.source) for one in found]
    made = list(found)
    for numbers in grouped(planned, asked.__getitem__).values():
        statuses = corrected([found[number].verdict.outcome for number in numbers])
        unsettled = any(found[number].verdict.missing for number in numbers)
        for number, status in zip(numbers, statuses, strict=True):
            verdict = found[number].verdict
            kept = NOT_RUN if verdict.status == NOT_RUN else str(status)
            made[number] = replace(found[number], verdict=replace(verdict, corrected=kept, unsettled=unsettled))
    primary = [number for number, one in enumerate(found) if one.verdict.primary]
    for numbers in grouped(primary, asked.__getitem__).values():
        lines = _lines_corrected([line for number in numbers for line in found[number].datasets])
        for number in numbers:
            ours = tuple(islice(lines, len(found[number].datasets)))
            made[number] = replace(made[number], datasets=ours)
    return made


def _lines_corrected(lines: Sequence[Verdict]) -> Iterator[Verdict]:
    """Each line with its status after correction for all claims and data sets. A line of which a run is missing counts
    as one that shows nothing: what is shown beside it will be so, whatever comes out there."""
    alike = grouped(lines, lambda line: line.claim.id)
    able = {name: sum(line.can_be_reproduced for line in ours) for name, ours in alike.items()}
    shares = {
        REPRODUCED: [line.can_be_reproduced / max(able[line.claim.id], 1) for line in lines],
        CONTRADICTED: [len(line.outcome.tested) / max(line.outcome.family, 1) for line in lines],
    }
    raw = {REPRODUCED: [line.outcome.reproduced for line in lines],
           CONTRADICTED: [line.outcome.contradicted for line in lines]}  # fmt: skip
    done = np.array([not line.missing for line in lines])
    p = {side: holm(np.where(done, np.array(raw[side], float), 1.0), np.array(shares[side])) for side in raw}
    for number, line in enumerate(lines):
        lost = line.status in p and p[line.status][number] > ERROR
        kept = OPEN if lost else line.status
        yield replace(line, corrected=kept, unsettled=bool(line.missing) or (lost and not done.all()))


def _finding(source: Source, asked: Question) -> Finding:
    claim, reading, test = asked.claim, asked.reading, asked.test
    if not source.runs(claim, reading):
        return Finding(_verdict(asked, "", (), judge(())), (), ())

    def verdict(dataset: str, given: Sequence[Contrast], outcome: Outcome, stand_in: bool = False) -> Verdict:
        here = tuple(row for row in rows if dataset in ("", row.dataset))
        made = _verdict(asked, dataset, given, outcome, here, stand_in)
        unread = why_unread(source, asked, given)
        return replace(made, reason=f"{made.reason}; {unread}") if unread else made

    ours = contrasts(source, claim, reading, test)
    rows = _rows(claim, ours)
    outcome, apart = judge_claim(ours, claim.every, claim.whole)
    whole = verdict("", ours, outcome)
    parts = [verdict(name, on_dataset(ours, name), one) for name, one in apart.items()]
    others = contrasts(source, claim, reading, test, stand_ins=True)
    names = ordered((row["dataset"] for contrast in others for row in contrast.rows), ())
    beside = {name: part for name in names if _is_planned(part := on_dataset(others, name))}
    able = power(source, asked, {"": outcome, **apart})
    return Finding(
        replace(_with_parts(whole, parts), power=able[""]),
        tuple(replace(_with_parts(one, ()), power=able[one.dataset]) for one in parts),
        tuple(
            _with_parts(verdict(name, part, judge_claim(part, claim.every)[0], True), ())
            for name, part in beside.items()
        ),
    )


def _with_parts(verdict: Verdict, datasets: Sequence[Verdict]) -> Verdict:
    """Its reason with what its data sets and rows say of it, and on how many of the paper's rows it stands."""
    reason = verdict.reason
    failed, unsaid = (
        ", ".join(dataset_label(one.dataset) for one in datasets if one.status == status)
        for status in (CONTRADICTED, NOTHING)
    )
    several = max((len(part.rows) for one in verdict.outcome.judged for part in one.contrasts), default=0) > 1
    if verdict.status == REPRODUCED and verdict.claim.every and several:
        reason = f"as a mean over its rows, {reason}"
    elif verdict.outcome.mean_alone:
        said = ["reproduced as a mean over its rows"]
        for status, names in ((CONTRADICTED, failed), (NOTHING, unsaid)):
            rows = sum(one.status == status for one in verdict.rows)
            where = [f"on {names}"] if names else []
            where += [f"in {rows} of {len(verdict.rows)} rows"] if rows else []
            said += [f"{status} {' and '.join(where)}"] if where else []
        said += ["not in each of them"] if len(said) == 1 else []
        reason = ", ".join(said)
    elif verdict.status == OPEN and unsaid:
        reason = f"nothing to judge on {unsaid}; {reason}"
    return replace(verdict, reason=f"on {verdict.part}: {reason}" if verdict.part else reason)


def _verdict(
    question: Question,
    dataset: str,
    given: Sequence[Contrast],
    outcome: Outcome,
    rows: tuple[RowVerdict, ...] = (),
    stand_in: bool = False,
) -> Verdict:
    status = NOT_RUN if _is_absent(given) else str(outcome.status)
    decisive = _decisive(outcome) if status == CONTRADICTED else None
    runs = len({run for contrast in given for part in contrast.strata for run in part.runs})
    gone = {run for contrast in given for part in contrast.strata for run in part.missing}
    missing = tuple(sorted(gone, key=lambda path: (is_partition(path), path)))
    asked = [one for one in outcome.judged if not one.contrasts[0].gate]
    nearest = max((one for one in outcome.tested if one.mean), key=lambda one: -float(one.outside), default=None)
    head = decisive or nearest
    return Verdict(
        question.claim,
        question.reading,
        question.test,
        dataset,
        "" if stand_in or status == NOT_RUN else _part(question.claim, given),
        stand_in,
        status,
        reason(status, outcome, decisive, incomplete(runs, missing)),
        head or next(iter(outcome.comparisons), None),
        outcome,
        rows,
        _cells({CONTRADICTED: decisive and decisive.contrasts, REPRODUCED: given}.get(status) or ()),
        tuple(one.title for one in asked if side(one) in ("open", "outside")),
        runs,
        missing,
        _absent([one for one in given if not one.gate]),
    )


def _decisive(outcome: Outcome) -> Weighed:
    """The set of the fewest cells that contradicts; of several, the one that is surest."""
    against = [one for one, p in zip(outcome.tested, outcome.against, strict=True) if p <= ERROR]
    return min(against, key=lambda one: (len(_cells(one.contrasts)), float(one.outside)))


def _rows(claim: Claim, given: Sequence[Contrast]) -> tuple[RowVerdict, ...]:
    """The claim in each row by itself."""
    found = []
    for outcome in judge_rows(given, claim.only):
        alike = [one.contrasts[0] for one in outcome.judged]
        status = NOT_RUN if _is_absent(alike) else str(outcome.status)
        missing = any(part.missing for one in alike for part in one.strata)
        found.append(RowVerdict(alike[0].place, alike[0].dataset, status, missing and status != NOT_RUN))
    return tuple(found)


def _part(claim: Claim, given: Sequence[Contrast]) -> str:
    """How many of the rows that the claim names the study has, if it lacks some."""
    pairs = [
        (tuple(row.items()), part)
        for one in given
        if not one.gate
        for row, part in zip(one.rows, one.strata, strict=True)
    ]
    rows, there = {row for row, _ in pairs}, {row for row, part in pairs if part.planned}
    return f"{len(there)} of the paper's {len(rows)} rows" if claim.rows and len(there) < len(rows) else ""


def _is_absent(given: Sequence[Contrast]) -> bool:
    return all(part.status in ABSENT for one in given if not one.gate for part in one.strata)


def _is_planned(given: Sequence[Contrast]) -> bool:
    """Does the study have one of the comparisons?"""
    return any(one.planned for one in given if not one.gate)


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
            if part.status in ABSENT:
                lacking.setdefault((where, part.status), []).append(one.label)
    return tuple(
        f"{where}{'' if set(labels) == seen[where] else ': ' + '; '.join(dict.fromkeys(labels))}: {status}"
        for (where, status), labels in lacking.items()
    )
