"""The verdicts as one JSON document, and that document as Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from apfl.data.catalogue import images_of
from apfl.jobs.paths import command
from apfl.paper.labels import TEST_LABELS, dataset_label
from apfl.paper.numbers.choice import BEST
from apfl.paper.numbers.intervals import LEVEL, Mean
from apfl.paper.tables.formats import markdown_row
from apfl.paper.verdict.csv import Document, Part, csv
from apfl.paper.verdict.family import CONTRADICTED, NOT_RUN, OPEN, REPRODUCED, STATUSES, Weighed
from apfl.paper.verdict.reasons import is_partition, side
from apfl.paper.verdict.verdicts import Finding, Verdict
from apfl.storage.files import write_json, write_text
from apfl.study.study import Study

FULL = "config/paper.yaml"
"""The study that runs all that the paper's claims are about."""
PLAIN = (
    "reading", "test", "primary", "dataset", "part", "status", "interim", "in_study", "corrected", "reason", "runs",
)  # fmt: skip
"""What the document says of a verdict in its own words."""


def document(study: Study, path: str | Path, findings: Sequence[Finding]) -> dict[str, Any]:
    """Everything that there is to say, as plain values; ``path`` is the study's file, for commands."""
    claims: dict[str, dict[str, Any]] = {}
    for finding in findings:
        claim = finding.verdict.claim
        facts = {key: getattr(claim, key) for key in ("id", "sentence", "source", "where", "why", "output")}
        entry = claims.setdefault(claim.id, {**facts, "verdicts": []})
        entry["verdicts"].append(
            _verdict(finding.verdict, study, path)
            | {"datasets": [_verdict(one, study, path) for one in finding.datasets]}
            | {"stand_ins": [_verdict(one, study, path) for one in finding.stand_ins]}
        )
    made = {"study": study.name, "description": study.description, "level": LEVEL}
    made |= {"seeds": list(study.seeds), "scale": _scale(study), "claims": list(claims.values())}
    return made | {"summary": _summary(made)}


def _scale(study: Study) -> str:
    """How large the study is; a verdict is about the claim at this scale."""
    data: dict[str, list[str]] = {}
    for name, entry in study.data.items():
        data.setdefault(images_of(entry), []).append(dataset_label(name))
    images = "; ".join(f"{images} of {', '.join(names)}" for images, names in data.items())
    training = study.training
    return (
        f"{images}; {training['rounds']} rounds of {training['local_epochs']} local epochs "
        "(the paper: all images, 20 local epochs, rounds not printed)"
    )


def _verdict(verdict: Verdict, study: Study, path: str | Path) -> dict[str, Any]:
    counts = Counter(row.status for row in verdict.rows)
    power, family = verdict.power, verdict.outcome.family
    made = {
        **{name: getattr(verdict, name) for name in PLAIN},
        "said": _said(verdict),
        "corrected_said": so_far(verdict.corrected, verdict.unsettled),
        "headline": verdict.headline and _line(verdict.headline, family),
        "lines": [_line(line, family) for line in verdict.lines],
        "family": family,
        "p_reproduced": float(f"{float(verdict.outcome.reproduced):.3g}"),
        "p_contradicted": float(f"{float(verdict.outcome.contradicted):.3g}"),
        "rows": {status: counts[status] for status in STATUSES},
        "rows_interim": sum(row.interim for row in verdict.rows),
        "places": [vars(row) for row in verdict.rows],
        "power": power and {name: _rounded(value) for name, value in vars(power).items()},
        "runs_missing": sum(not is_partition(path) for path in verdict.missing),
        **{name: list(getattr(verdict, name)) for name in ("decided_by", "open", "missing", "absent")},
        "commands": _commands(verdict, study, path),
    }
    if verdict.stand_in or not verdict.dataset:  # those of a data set are among those of the claim
        made["comparisons"] = [_comparison(one, family) for one in verdict.outcome.judged]
    return made


def _said(verdict: Verdict) -> str:
    """The verdict in words that cannot be taken for more than it is."""
    said = so_far(verdict.status, verdict.interim)
    if verdict.status == OPEN and verdict.power is not None and not verdict.power.could_confirm:
        return f"{said}{',' if verdict.interim else ':'} this study could not have confirmed it"
    return said


def so_far(status: str, interim: bool) -> str:
    return f"interim: {status} so far" if interim and status not in ("", NOT_RUN) else status


def _rounded(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value


def _line(line: Weighed, family: int) -> dict[str, Any]:
    return {"label": line.label, "place": line.place, **_numbers(line.mean, family * line.ways)}


def _comparison(judged: Weighed, family: int) -> dict[str, Any]:
    one = judged.contrasts[0]
    facts: dict[str, Any] = {"label": one.label, "place": one.place, "dataset": one.dataset, "gate": one.gate}
    facts |= {"status": one.status, "side": side(judged), "above": one.low, "below": one.high}
    return facts | _numbers(judged.mean, family * judged.ways)


def _numbers(found: Mean | None, family: int) -> dict[str, Any]:
    """Points, with four digits: the interval at 95 %, and the one that holds for the whole family."""
    if found is None:
        return dict.fromkeys(("estimate", "student", "strict"))
    ends = {"student": found.interval(), "strict": found.interval(max(family, 1))}
    return {"estimate": round(float(found.estimate), 4)} | {
        name: [round(float(end), 4) for end in pair] for name, pair in ends.items()
    }


def _commands(verdict: Verdict, study: Study, path: str | Path) -> list[str]:
    """What to do about what is missing: the smallest target that makes the runs, or what to change in the study."""
    output = verdict.claim.output
    target = f"{'figures' if output.startswith('figure') else 'tables'}/{output}.csv"
    made = [command(path, f"results/{study.name}/{target}")] if verdict.missing else []
    if any(text.endswith("not measured") for text in verdict.absent):
        made.append("set apfl.parameters.sweep_beta: true in the study, and run it again")
    if (
        not verdict.outcome.judged
        and output in {**study.tables, **study.figures}
        and verdict.reading in study.apfl["readings"]
    ):
        made.append(f"put {verdict.reading} first in apfl.readings: {output} is run in the first reading alone")
    lacking = any(text.endswith("not in study") for text in verdict.absent) and not verdict.stand_in
    if lacking or (not verdict.outcome.judged and verdict.reading == "literal"):
        made.append(command(FULL, f"results/paper/{target}"))
    return made


def _summary(made: Document) -> dict[str, dict[str, dict[str, Any]]]:
    """By reading and by source, how many claims have which verdict on their first test: ``final``, ``corrected`` for
    all of these claims together (``corrected_interim``: has one of them runs that are missing?), and, in neither,
    ``interim`` ones. ``not_in_study`` is the number of those that the study neither ran nor plans, ``in_part`` that of
    the others of which it lacks rows. ``lines`` and ``lines_corrected`` count their lines by data set in the same way,
    interim ones in neither."""
    found: dict[str, dict[str, Any]] = {}
    for claim in made["claims"]:
        for one in (one for one in claim["verdicts"] if one["primary"]):
            kinds = ("final", "corrected", "interim", "lines", "lines_corrected")
            blank: dict[str, Any] = {name: dict.fromkeys(STATUSES, 0) for name in kinds}
            blank |= {"corrected_interim": False, "not_in_study": 0, "in_part": 0}
            counts = found.setdefault(one["reading"], {}).setdefault(claim["source"], blank)
            counts["corrected_interim"] |= bool(one["missing"])
            for line in (line for line in one["datasets"] if not line["interim"]):
                counts["lines"][line["status"]] += 1
                counts["lines_corrected"][line["corrected"]] += 1
            if not one["in_study"]:
                counts["not_in_study"] += 1
                continue
            counts["in_part"] += bool(one["part"])
            counts["interim" if one["interim"] else "final"][one["status"]] += 1
            if not one["interim"]:
                counts["corrected"][one["corrected"] or one["status"]] += 1
    return found


SOURCES = {"paper": "Claims of the paper", "summary": "What a summary in circulation says, not the paper"}


def by_source(made: Document) -> list[tuple[str, list[Part]]]:
    """The claims in two parts: the paper's own, and those that are not."""
    parts = [(title, [one for one in made["claims"] if one["source"] == name]) for name, title in SOURCES.items()]
    return [(title, claims) for title, claims in parts if claims]


def summary_lines(made: Document) -> list[str]:
    """One line for each source and reading: ``literal: 2 reproduced, 5 contradicted, ...``."""
    lines = []
    for source in SOURCES:
        for reading, counts in made["summary"].items():
            if source in counts:
                whose = "" if source == "paper" else ", from a summary, not from the paper"
                lines.append(f"{reading}{whose}: {_counted(counts[source])}")
    return lines


def _counted(counts: Mapping[str, Any]) -> str:
    if not sum(sum(counts[name].values()) for name in ("final", "interim")):
        return f"not in this study: {counts['not_in_study']}"
    final, corrected = counts["final"], counts["corrected"]
    said = ", ".join(f"{number} {status}" for status, number in final.items())
    left = ", ".join(f"{corrected[status]} {status}" for status in (REPRODUCED, CONTRADICTED))
    said += f"; corrected for all claims together{', interim' if counts['corrected_interim'] else ''}: {left}"
    lines, kept = counts["lines"], counts["lines_corrected"]
    if any(lines[status] for status in (REPRODUCED, CONTRADICTED)):
        apart = (f"{lines[status]} {status} ({kept[status]} corrected)" for status in (REPRODUCED, CONTRADICTED))
        said += f"; by data set: {', '.join(apart)}"
    interim = ", ".join(f"{number} {status} so far" for status, number in counts["interim"].items() if number)
    said += f"; interim, not counted: {interim}" if interim else ""
    said += f"; on a part of the paper's rows: {counts['in_part']}" if counts["in_part"] else ""
    return said + (f"; not in this study: {counts['not_in_study']}" if counts["not_in_study"] else "")


def interval(ends: Sequence[float] | None) -> str:
    """
    >>> interval([-1.254, 3.0])
    '[−1.25, +3.00]'
    """
    return f"[{number(ends[0])}, {number(ends[1])}]" if ends else ""


def number(value: float | None) -> str:
    return "" if value is None else f"{value:+.2f}".replace("-", "−")


def shown(claim: Part) -> list[tuple[str, Part]]:
    """The lines of a claim: what was judged, with the data sets and stand-ins below. What was not run stands there
    once, for its primary test; readings without AP-FL are left to `left_out`."""
    lines = []
    for verdict in claim["verdicts"]:
        ran = verdict["status"] != NOT_RUN
        if ran or (verdict["primary"] and verdict["comparisons"]):
            lines.append(("", verdict))
        if ran and verdict["primary"]:
            lines += [(dataset_label(one["dataset"]), one) for one in verdict["datasets"]]
        others = (one for one in verdict["stand_ins"] if one["status"] != NOT_RUN)
        lines += [(f"supplement: {dataset_label(one['dataset'])}", one) for one in others]
    return lines


def left_out(claim: Part) -> list[str]:
    """The readings in which the study does not run AP-FL for the claim."""
    gone = (one["reading"] for one in claim["verdicts"] if one["status"] == NOT_RUN and not one["comparisons"])
    return list(dict.fromkeys(gone))


def across_readings(claim: Part) -> str:
    """In which of the readings that were run the claim is reproduced on its first test, and in which contradicted; the
    best reading is one of them, and is not counted twice."""
    shown = [one for one in claim["verdicts"] if one["primary"] and one["status"] != NOT_RUN and one["reading"] != BEST]
    ran = {one["reading"]: one["status"] for one in shown}
    found = []
    for status in (REPRODUCED, CONTRADICTED):
        names = [reading for reading, there in ran.items() if there == status]
        which = f"some: {', '.join(names)}" if len(names) < len(ran) else "every reading"
        found.append(f"{status} in {which if names else 'no reading'}")
    interim = [one["reading"] for one in shown if one["interim"]]
    found += [f"interim in {', '.join(interim) if len(interim) < len(ran) else 'every reading'}"] if interim else []
    return f"Of {len(ran)} readings: {'; '.join(found)}." if ran else ""


def commands(claim: Part) -> list[str]:
    return list(dict.fromkeys(text for one in claim["verdicts"] for text in one["commands"]))


HEADS = (
    "reading", "test", "data", "verdict", "for all claims", "why", "comparison", "points", "95 %", "95 % for all sets",
    "row by row", "power", "runs",
)  # fmt: skip


def entries(where: str, verdict: Part) -> tuple[str, ...]:
    """A verdict as the entries of a table; see `HEADS`."""
    head = verdict["headline"] or {}
    compared = f"{head['label']}, {head['place']}" if head.get("estimate") is not None else ""
    return (
        verdict["reading"],
        TEST_LABELS[verdict["test"]],
        where or "all",
        verdict["said"],
        verdict["corrected_said"],
        verdict["reason"],
        compared,
        number(head.get("estimate")),
        interval(head.get("student")),
        interval(head.get("strict")),
        row_by_row(verdict),
        power_text(verdict["power"]),
        str(verdict["runs"]),
    )


def row_by_row(verdict: Part) -> str:
    """The stricter line: how many rows say what."""
    counts = {status: number for status, number in verdict["rows"].items() if number}
    if not counts:
        return ""
    interim = f"; {verdict['rows_interim']} of them interim" if verdict["rows_interim"] else ""
    return f"of {sum(counts.values())}: " + ", ".join(f"{n} {status}" for status, n in counts.items()) + interim


def power_text(power: Part | None) -> str:
    """
    >>> power_text({"smallest": 1.2, "gap": 3.4, "seeds": 4, "chance": 0.9, "note": "so"})
    'finds 1.2 points; the printed numbers, 3.4 inside their bound, need 4 seeds; chance of being reproduced 90 % (so)'
    """
    if not power:
        return ""
    parts = [f"finds {power['smallest']:.1f} points"] if power["smallest"] is not None else []
    if (gap := power["gap"]) is not None:
        seeds = f"need {power['seeds']} seeds" if power["seeds"] else "need more seeds than anybody runs"
        inside = f"the printed numbers, {gap:.1f} inside their bound, {seeds}"
        parts.append(inside if gap > 0 else f"the printed numbers lie {-gap:.1f} outside their bound")
    if power["chance"] is not None:
        parts.append(f"chance of being reproduced {100 * power['chance']:.0f} %")
    return "; ".join(parts) + (f" ({power['note']})" if power["note"] and parts else power["note"])


def power_lines(made: Document) -> list[str]:
    """What the study could find out about each claim on its first test, a line for each reading in which it is run, and
    for each of its data sets."""
    return [
        f"{', '.join((claim['id'], one['reading'], *where))}: {power_text(part['power'])}"
        + (" (from a summary, not from the paper)" if claim["source"] == "summary" else "")
        for claim in made["claims"]
        for one in claim["verdicts"]
        if one["primary"]
        for part, *where in ((one,), *((part, dataset_label(part["dataset"])) for part in one["datasets"]))
        if part["power"]
    ]


INTRODUCTION = (
    "A claim is reproduced only if the intervals of all of its primary numbers lie on the claimed side. It is "
    "contradicted only if, after correction for everything that was looked at, the interval of one number, or of the "
    "mean of a set of them, lies wholly on the other side. If neither is the case, the claim is open. To be "
    "reproduced, a claim also has to pass its gates on each data set: its models have to be shown to be above chance, "
    "above the best constant answer or above what needs no communication, and, to be called steady, to have risen "
    "along the rounds. There is nothing to judge if, on each of its data sets, every comparison fails one of the "
    "gates. The numbers beside a verdict are those of the comparison that contradicts it or comes nearest to doing "
    "so; the column 'row by row' answers the stricter question of how each row comes out. A verdict is interim, and "
    "not yet that of the study, while runs are missing. Readings are ways to settle what the paper leaves open. "
    "Supplements are on data that the paper does not have, and enter no verdict."
)


def markdown(made: Document) -> str:
    parts = [f"# Verdicts: {made['study']}", INTRODUCTION, f"Scale of this study: {made['scale']}."]
    parts.append("On the primary tests:\n\n" + _listed(summary_lines(made)))
    for title, claims in by_source(made):
        parts.append(f"## {title}")
        for claim in claims:
            parts += _markdown_claim(claim)
    return "\n\n".join(parts) + "\n"


def _markdown_claim(claim: Part) -> Iterator[str]:
    yield f"### {claim['id']}\n\n{claim['sentence']}"
    yield f"Source: {source_of(claim)}"
    if lines := [entries(where, verdict) for where, verdict in shown(claim)]:
        yield "\n".join(markdown_row(line) for line in (HEADS, ["---"] * len(HEADS), *lines))
    notes = [text] if (text := across_readings(claim)) else []
    notes += [f"decided by {text}" for text in decisions(claim)]
    notes += [f"not run in readings: {', '.join(left_out(claim))}"] if left_out(claim) else []
    notes += [f"missing: {text}" for text in missing(claim)]
    notes += [f"to run: `{text}`" for text in commands(claim)]
    if notes:
        yield _listed(notes)


def source_of(claim: Part) -> str:
    return f"{claim['where']}{' (from a summary, not from the paper)' if claim['source'] == 'summary' else ''}."


def decisions(claim: Part) -> Iterator[str]:
    """For each verdict on all data sets that is one, the smallest set of cells that decides it."""
    for one in claim["verdicts"]:
        if one["decided_by"]:
            cells = one["decided_by"]
            which = ", ".join(f"`{cell}`" for cell in cells[:MOST]) + (
                f" and {len(cells) - MOST} more" if cells[MOST:] else ""
            )
            yield f"{len(cells)} cells ({one['reading']}, {TEST_LABELS[one['test']]}): {which}"


MOST = 6


def missing(claim: Part) -> list[str]:
    """What is not there, over all readings and tests: rows that the study does not run, then runs that it plans."""
    absent = dict.fromkeys(text for one in claim["verdicts"] for text in one["absent"])
    runs = dict.fromkeys(run for one in claim["verdicts"] for run in one["missing"])
    found = [*absent, *(f"{'partition' if is_partition(run) else 'run'} {run}" for run in runs)]
    return found[:MOST] + ([f"and {len(found) - MOST} more (claims.json lists all)"] if found[MOST:] else [])


def _listed(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def write(made: Document, folder: str | Path) -> list[Path]:
    """Write ``claims.json``, ``claims.csv`` and ``claims.md``."""
    paths = [Path(folder) / f"claims.{suffix}" for suffix in ("json", "csv", "md")]
    write_json(paths[0], made)
    write_text(paths[1], csv(made))
    write_text(paths[2], markdown(made))
    return paths
