"""The verdicts as one JSON document, and that document as CSV and Markdown."""

from __future__ import annotations

import csv as csv_module
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from apfl.artifacts import write_json, write_text
from apfl.paper.bootstrap import LEVEL, RESAMPLES
from apfl.paper.labels import TEST_LABELS, dataset_label
from apfl.paper.verdicts import NOT_RUN, STATUSES, Finding, Judged, Line, Verdict
from apfl.study import Study

Document = Mapping[str, Any]
FULL = "config/paper.yaml"
"""The study that runs all that the paper's claims are about."""


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
    made = {"study": study.name, "description": study.description, "level": LEVEL, "resamples": RESAMPLES}
    made |= {"seeds": list(study.seeds), "scale": _scale(study), "claims": list(claims.values())}
    return made | {"summary": _summary(made)}


def _scale(study: Study) -> str:
    """How large the study is; a verdict is about the claim at this scale."""
    data = [f"{dataset_label(name)} {entry.get('max_samples') or 'all'}" for name, entry in study.data.items()]
    training = study.training
    return (
        f"images: {', '.join(data)}; {training['rounds']} rounds of {training['local_epochs']} local epochs "
        "(the paper: all images, 20 local epochs, rounds not printed)"
    )


def _verdict(verdict: Verdict, study: Study, path: str | Path) -> dict[str, Any]:
    made = {
        "reading": verdict.reading,
        "test": verdict.test,
        "primary": verdict.primary,
        "dataset": verdict.dataset,
        "status": verdict.status,
        "reason": verdict.reason,
        "headline": verdict.headline and _line(verdict.headline),
        "lines": [_line(line) for line in verdict.lines],
        "family": verdict.family,
        "runs": verdict.runs,
        "decided_by": list(verdict.decided_by),
        "open": list(verdict.open),
        "missing": list(verdict.missing),
        "absent": list(verdict.absent),
        "commands": _commands(verdict, study, path),
    }
    if verdict.stand_in or not verdict.dataset:  # those of a data set are among those of the claim
        made["comparisons"] = [_comparison(one) for one in verdict.judged]
    return made


def _line(line: Line) -> dict[str, Any]:
    return {"label": line.label, "place": line.place, **_numbers(line.intervals)}


def _comparison(judged: Judged) -> dict[str, Any]:
    one = judged.contrast
    facts = {"label": one.label, "place": one.place, "dataset": one.dataset, "status": one.status, "side": judged.side}
    return facts | {"above": one.low, "below": one.high, **_numbers(judged.intervals)}


def _numbers(found: Any) -> dict[str, Any]:
    """Points, with four digits: what lies behind them is noise of the resampling."""
    if found is None:
        return dict.fromkeys(("estimate", "bootstrap", "student", "strict"))
    pairs = {name: [round(end, 4) for end in getattr(found, name)] for name in ("bootstrap", "student", "strict")}
    return {"estimate": round(found.estimate, 4), **pairs}


def _commands(verdict: Verdict, study: Study, path: str | Path) -> list[str]:
    """What to do about what is missing: the smallest target that makes the runs, or what to change in the study."""
    output = verdict.claim.output
    target = f"{'figures' if output.startswith('figure') else 'tables'}/{output}.csv"
    made = [f"snakemake --configfile {path} results/{study.name}/{target}"] if verdict.missing else []
    if any(text.endswith("not measured") for text in verdict.absent):
        made.append("set apfl.parameters.sweep_beta: true in the study, and run it again")
    if not verdict.judged and output in study.tables | study.figures and verdict.reading in study.apfl["readings"]:
        made.append(f"put {verdict.reading} first in apfl.readings: {output} is run in the first reading alone")
    lacking = any(text.endswith("not in study") for text in verdict.absent) and not verdict.stand_in
    if lacking or (not verdict.judged and verdict.reading == "literal"):
        made.append(f"snakemake --configfile {FULL} results/paper/{target}")
    return made


def _summary(made: Document) -> dict[str, dict[str, int]]:
    """By reading, how many claims have which verdict on their primary test."""
    found: dict[str, dict[str, int]] = {}
    for verdict in (one for claim in made["claims"] for one in claim["verdicts"] if one["primary"]):
        counts = found.setdefault(verdict["reading"], dict.fromkeys(STATUSES, 0))
        counts[verdict["status"]] += 1
    return found


COLUMNS = (
    "claim", "source", "reading", "test", "primary", "level", "dataset", "comparison", "place", "status", "estimate",
    "bootstrap_low", "bootstrap_high", "student_low", "student_high", "strict_low", "strict_high", "family", "runs",
    "runs_missing", "decided_by", "reason",
)  # fmt: skip
"""``level``: claim, data set (of the claim), stand-in, or comparison (of the line above it). Numbers are in points;
those of a verdict are its headline's."""


def csv(made: Document) -> str:
    stream = io.StringIO()
    writer = csv_module.DictWriter(stream, COLUMNS, lineterminator="\n", restval="")
    writer.writeheader()
    for claim in made["claims"]:
        for verdict in claim["verdicts"]:
            rows = [("claim", verdict), *(("data set", one) for one in verdict["datasets"])]
            for level, one in [*rows, *(("stand-in", one) for one in verdict["stand_ins"])]:
                writer.writerows(_csv_rows(claim, level, one))
    return stream.getvalue()


def _csv_rows(claim: Document, level: str, verdict: Document) -> Iterator[dict[str, Any]]:
    same = {"claim": claim["id"], "source": claim["source"], **{key: verdict[key] for key in ("reading", "test")}}
    same["primary"] = str(verdict["primary"]).lower()
    head = verdict["headline"] or {}
    yield (
        same
        | _csv_numbers(head)
        | {
            "level": level,
            "dataset": verdict["dataset"],
            "comparison": head.get("label", ""),
            "place": head.get("place", ""),
            "status": verdict["status"],
            "family": verdict["family"],
            "runs": verdict["runs"],
            "runs_missing": len(verdict["missing"]),
            "decided_by": " ".join(verdict["decided_by"]),
            "reason": verdict["reason"],
        }
    )
    for one in verdict.get("comparisons", ()):
        facts = {"level": "comparison", "dataset": one["dataset"], "comparison": one["label"], "place": one["place"]}
        status = one["side"] if one["status"] == "ok" else one["status"]
        yield same | _csv_numbers(one) | facts | {"status": status}


def _csv_numbers(one: Document) -> dict[str, str]:
    if one.get("estimate") is None:
        return {}
    made = {"estimate": f"{one['estimate']:.4f}"}
    for name in ("bootstrap", "student", "strict"):
        made |= {f"{name}_low": f"{one[name][0]:.4f}", f"{name}_high": f"{one[name][1]:.4f}"}
    return made


def summary_lines(made: Document) -> list[str]:
    """One line for each reading: ``literal: 2 reproduced, 5 contradicted, ...``."""
    return [
        f"{reading}: " + ", ".join(f"{number} {status}" for status, number in counts.items())
        for reading, counts in made["summary"].items()
    ]


def interval(ends: Sequence[float] | None) -> str:
    """
    >>> interval([-1.254, 3.0])
    '[−1.25, +3.00]'
    """
    return f"[{number(ends[0])}, {number(ends[1])}]" if ends else ""


def number(value: float | None) -> str:
    return "" if value is None else f"{value:+.2f}".replace("-", "−")


def shown(claim: Document) -> list[tuple[str, Document]]:
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


def left_out(claim: Document) -> list[str]:
    """The readings in which the study does not run AP-FL for the claim."""
    gone = (one["reading"] for one in claim["verdicts"] if one["status"] == NOT_RUN and not one["comparisons"])
    return list(dict.fromkeys(gone))


def commands(claim: Document) -> list[str]:
    return list(dict.fromkeys(text for one in claim["verdicts"] for text in one["commands"]))


HEADS = ("reading", "test", "data", "verdict", "why", "comparison", "points", "95 % bootstrap", "95 % Student", "runs")


def entries(where: str, verdict: Document) -> tuple[str, ...]:
    """A verdict as the entries of a table; see `HEADS`."""
    head = verdict["headline"] or {}
    compared = f"{head['label']}, {head['place']}" if head.get("estimate") is not None else ""
    return (
        verdict["reading"],
        TEST_LABELS[verdict["test"]],
        where or "all",
        verdict["status"],
        verdict["reason"],
        compared,
        number(head.get("estimate")),
        interval(head.get("bootstrap")),
        interval(head.get("student")),
        str(verdict["runs"]),
    )


INTRODUCTION = (
    "A claim is reproduced only if the intervals of all of its comparisons lie on the claimed side, contradicted only "
    "if one lies wholly on the other side, after correction for all that were looked at; otherwise it is undecided. "
    "The numbers beside a verdict are those of the comparison that contradicts it or comes nearest to that. Readings "
    "are ways to settle what the paper leaves open. Supplements are on data that the paper does not have, and enter no "
    "verdict."
)


def markdown(made: Document) -> str:
    parts = [f"# Verdicts: {made['study']}", INTRODUCTION, f"Scale of this study: {made['scale']}."]
    parts.append("On the primary tests:\n\n" + _listed(summary_lines(made)))
    for claim in made["claims"]:
        parts.append(f"## {claim['id']}\n\n{claim['sentence']}")
        parts.append(f"Source: {source_of(claim)}")
        if lines := [entries(where, verdict) for where, verdict in shown(claim)]:
            parts.append("\n".join(_row(line) for line in (HEADS, ["---"] * len(HEADS), *lines)))
        notes = [f"decided by {text}" for text in decisions(claim)]
        notes += [f"not run in readings: {', '.join(left_out(claim))}"] if left_out(claim) else []
        notes += [f"missing: {text}" for text in missing(claim)]
        notes += [f"to run: `{text}`" for text in commands(claim)]
        parts += [_listed(notes)] if notes else []
    return "\n\n".join(parts) + "\n"


def source_of(claim: Document) -> str:
    return claim["where"] + (" (from a summary, not from the paper)" if claim["source"] == "summary" else "") + "."


def decisions(claim: Document) -> Iterator[str]:
    """For each verdict on all data sets that is one, the smallest set of cells that decides it."""
    for one in claim["verdicts"]:
        if one["decided_by"]:
            cells = one["decided_by"]
            which = ", ".join(f"`{cell}`" for cell in cells[:MOST]) + (
                f" and {len(cells) - MOST} more" if cells[MOST:] else ""
            )
            yield f"{len(cells)} cells ({one['reading']}, {TEST_LABELS[one['test']]}): {which}"


MOST = 6


def missing(claim: Document) -> list[str]:
    """What is not there, over all readings and tests: rows that the study does not run, then runs that it plans."""
    absent = dict.fromkeys(text for one in claim["verdicts"] for text in one["absent"])
    runs = dict.fromkeys(run for one in claim["verdicts"] for run in one["missing"])
    found = [*absent, *(f"run {run}" for run in runs)]
    return found[:MOST] + ([f"and {len(found) - MOST} more (claims.json lists all)"] if found[MOST:] else [])


def _listed(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _row(values: Iterable[str]) -> str:
    return "| " + " | ".join(value.replace("|", "\\|") for value in values) + " |"


def write(made: Document, folder: str | Path) -> list[Path]:
    """Write ``claims.json``, ``claims.csv`` and ``claims.md``."""
    paths = [Path(folder) / f"claims.{suffix}" for suffix in ("json", "csv", "md")]
    write_json(paths[0], made)
    write_text(paths[1], csv(made))
    write_text(paths[2], markdown(made))
    return paths
