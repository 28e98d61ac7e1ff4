"""The verdicts as CSV, from claims.json."""

from __future__ import annotations

import csv as csv_module
import io
from collections.abc import Iterator, Mapping
from typing import Any

from apfl.paper.verdict.family import CONTRADICTED, OPEN, REPRODUCED

Document = Mapping[str, Any]
"""All of claims.json."""
Part = Mapping[str, Any]
"""A claim in it, a verdict, or what belongs to one."""

COLUMNS = (
    "claim", "source", "reading", "test", "primary", "level", "dataset", "comparison", "place", "status", "interim",
    "corrected", "p_reproduced", "p_contradicted", "estimate", "student_low", "student_high", "strict_low",
    "strict_high", "family", "rows_reproduced", "rows_contradicted", "rows_open", "rows_other", "rows_interim",
    "smallest_difference", "printed_gap", "seeds_needed", "chance_reproduced", "power_note", "runs",
    "runs_missing", "decided_by", "reason",
)  # fmt: skip
"""``level``: claim, data set (of the claim), stand-in, or comparison (of the line above it). Numbers are in points;
those of a verdict are its headline's. ``source`` says whose claim it is: the paper's, or a summary's."""


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


def _csv_rows(claim: Part, level: str, verdict: Part) -> Iterator[dict[str, Any]]:
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
            **{key: verdict[key] for key in ("status", "p_reproduced", "p_contradicted")},
            "corrected": verdict["corrected_said"],
            "interim": str(verdict["interim"]).lower(),
            **_csv_rows_and_power(verdict),
            "family": verdict["family"],
            "runs": verdict["runs"],
            "runs_missing": verdict["runs_missing"],
            "decided_by": " ".join(verdict["decided_by"]),
            "reason": verdict["reason"],
        }
    )
    for one in verdict.get("comparisons", ()):
        facts = {"level": "comparison", "dataset": one["dataset"], "comparison": one["label"], "place": one["place"]}
        status = one["side"] if one["status"] == "ok" else one["status"]
        yield same | _csv_numbers(one) | facts | {"status": status}


def _csv_rows_and_power(verdict: Part) -> dict[str, Any]:
    rows, power = verdict["rows"], verdict["power"] or {}
    made = {f"rows_{status}": rows[status] for status in (REPRODUCED, CONTRADICTED, OPEN)}
    made["rows_other"] = sum(rows.values()) - sum(made.values())
    made["rows_interim"] = verdict["rows_interim"]
    names = {"smallest": "smallest_difference", "gap": "printed_gap", "seeds": "seeds_needed"}
    names |= {"chance": "chance_reproduced", "note": "power_note"}
    return made | {name: "" if power.get(key) is None else power[key] for key, name in names.items()}


def _csv_numbers(one: Part) -> dict[str, str]:
    if one.get("estimate") is None:
        return {}
    made = {"estimate": f"{one['estimate']:.4f}"}
    for name in ("student", "strict"):
        made |= {f"{name}_low": f"{one[name][0]:.4f}", f"{name}_high": f"{one[name][1]:.4f}"}
    return made
