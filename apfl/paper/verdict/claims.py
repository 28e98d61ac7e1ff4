"""The claims of the paper as data: ``claims.yaml``, checked against a closed schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from apfl.errors import UserError
from apfl.study.outputs import CLAIMED

FILE = Path(__file__).with_name("claims.yaml")
ANY, ALL = "any", "all"
Row = Mapping[str, str]
"""A row of an output: its data set and the values of its other axes."""

REPRODUCED, JUDGED, EITHER = "reproduced", "judged", "either"
GATES = {
    REPRODUCED: "needed to be reproduced",
    JUDGED: "needed to be reproduced or contradicted",
    EITHER: "needed to be reproduced, and on one side to be contradicted",
}
"""What a claim may need of a column on each data set, beside what it says. A gate concerns the comparisons in which its
column takes part."""

_TEXT = {"type": "string", "minLength": 1}
_TEXTS = {"type": "array", "items": _TEXT, "minItems": 1, "uniqueItems": True}
_VALUES = {"type": "object", "additionalProperties": _TEXT, "minProperties": 1}


def _closed(properties: Mapping[str, Any], required: Sequence[str], **more: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "required": required, **more, "properties": properties}


_ASK = _closed(
    {
        "first": {"anyOf": [_TEXT, _TEXTS]},
        **dict.fromkeys(("axis", "slope"), _TEXT),
        **dict.fromkeys(("against", "at", "others", "values"), _TEXTS),
        "above": {"type": "number"},
        "below": {"type": "number"},
        "take": {"enum": ["each", "best", "mean"]},
        "measure": {"enum": ["accuracy", "fall", "rise", "climb", "speed"]},
        "mean_over": {"anyOf": [{"const": ALL}, _TEXTS]},
        "gate": {"enum": list(GATES)},
    },
    ["first"],
    **{"not": {"required": ["gate", "mean_over"]}},
    anyOf=[{"required": ["above"]}, {"required": ["below"]}],
    dependentRequired={"axis": ["at"], "at": ["axis"], "others": ["at"], "slope": ["values"]},
    **{"if": {"properties": {"take": {"const": "best"}}, "required": ["take"]}, "then": {"required": ["others"]}},
)
_ROWS = {"type": "array", "minItems": 1, "items": {"type": "object", "additionalProperties": _TEXTS}}
_CLAIM = _closed(
    {
        **dict.fromkeys(("title", "sentence", "where", "why"), _TEXT),
        "id": {"type": "string", "pattern": "^[a-z0-9]+(-[a-z0-9]+)*$"},
        "source": {"enum": ["paper", "summary"]},
        "output": {"enum": list(CLAIMED)},
        "tests": {**_TEXTS, "items": {"enum": ["pooled", "own", "monopoly"]}},
        "readings": {"anyOf": [{"const": "all"}, _TEXTS]},
        "rows": {"anyOf": [{"const": ANY}, _ROWS]},
        "except": {"type": "array", "items": _VALUES},
        "only": _VALUES,
        "every": {"type": "boolean"},
        "whole": {"type": "boolean"},
        "asks": {"type": "array", "items": _ASK, "minItems": 1},
    },
    ["id", "sentence", "source", "where", "output", "tests", "readings", "rows", "asks", "why"],
)
SCHEMA = _closed({"claims": {"type": "array", "items": _CLAIM, "minItems": 1}}, ["claims"])


@dataclass(frozen=True)
class Ask:
    """A comparison that a claim needs; the fields are those of claims.yaml, bounds in points (None: no bound)."""

    first: str
    against: tuple[str, ...] = ()
    take: str = "each"
    measure: str = "accuracy"
    axis: str = ""
    at: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    slope: str = ""
    values: tuple[str, ...] = ()
    mean_over: tuple[str, ...] | str = ()
    gate: str = ""
    above: float | None = None
    below: float | None = None


@dataclass(frozen=True)
class Claim:
    """A claim: ``source`` is paper or summary; ``rows`` are the paper's, with ``only`` among their values, or empty
    where the source names none; ``every``: does the sentence speak of each row or data set?; ``whole``: does it
    speak of all of them together alone?; ``readings`` is empty for all; ``title`` is what pictures show."""

    id: str
    sentence: str
    source: str
    where: str
    why: str
    output: str
    tests: tuple[str, ...]
    readings: tuple[str, ...]
    rows: tuple[Row, ...]
    only: Row
    asks: tuple[Ask, ...]
    every: bool = False
    whole: bool = False
    title: str = ""

    def is_asked_of(self, reading: str) -> bool:
        return not self.readings or reading in self.readings


@cache
def claims() -> tuple[Claim, ...]:
    """The claims of claims.yaml, in its order."""
    import yaml

    return parse(yaml.safe_load(FILE.read_text(encoding="utf-8")), str(FILE))


def parse(values: Any, where: str = "claims") -> tuple[Claim, ...]:
    """Claims from the contents of such a file; a `UserError` names the field that is wrong."""
    import jsonschema

    error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(SCHEMA).iter_errors(values))
    if error is not None:
        place = ".".join(map(str, error.absolute_path)) or "the file"
        raise UserError(f"{where}: {place}: {error.message}; correct it")
    found = tuple(_claim(entry) for entry in values["claims"])
    names = [claim.id for claim in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{where}: two claims are called {twice[0]!r}; give one of them another id")
    return found


def _claim(entry: Mapping[str, Any]) -> Claim:
    left_out, only = entry.get("except", []), entry.get("only", {})
    axes: list[dict[str, list[str]]] = [] if entry["rows"] == ANY else entry["rows"]
    rows = [dict(zip(part, values, strict=True)) for part in axes for values in product(*part.values())]
    asks: list[dict[str, Any]] = [
        {key: tuple(value) if isinstance(value, list) else value for key, value in ask.items()} | {"first": first}
        for ask in entry["asks"]
        for first in ([ask["first"]] if isinstance(ask["first"], str) else ask["first"])
    ]
    return Claim(
        **{key: entry[key].strip() for key in ("id", "sentence", "source", "where", "why", "output")},
        tests=tuple(entry["tests"]),
        readings=() if entry["readings"] == "all" else tuple(entry["readings"]),
        rows=tuple({**row, **only} for row in rows if row not in left_out),
        only=only,
        every=entry.get("every", False),
        whole=entry.get("whole", False),
        title=entry.get("title", entry["id"].replace("-", " ")),
        asks=tuple(Ask(**ask) for ask in asks),
    )
