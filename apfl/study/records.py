"""What a finished run was asked for, as its record says, beside what the study asks for now."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from apfl.storage.files import canonical_json
from apfl.study.runs import ROUND_LISTS, Run


def is_asked(run: Run, record: Mapping[str, Any]) -> bool:
    """Is the record that of the very run? What a tuned one takes from its choice is not known beforehand."""
    wanted, recorded = _both(run, record)
    return bool(recorded == wanted)


def difference(run: Run, record: Mapping[str, Any]) -> str:
    """Where the run of a record was asked for something else than the study now does, in words; "" if nowhere.

    A record of an older version may lack what the specification says since, and more rounds may have been asked for
    than it kept: its numbers are the same.
    """
    wanted, recorded = _both(run, record)
    if not isinstance(recorded, Mapping):
        return ""
    for name, old, new in _differing(recorded, wanted):
        return f"{name} was {old!r} and is {new!r} in the study"
    return ""


def _both(run: Run, record: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    wanted, recorded = json.loads(canonical_json(run.spec)), record.get("specification")
    if "tuned" in wanted and isinstance(recorded, dict):
        recorded = {**recorded, "parameters": wanted["parameters"], "training": wanted["training"]}
    return wanted, recorded


def _differing(
    recorded: Mapping[str, Any], wanted: Mapping[str, Any], before: str = ""
) -> Iterator[tuple[str, Any, Any]]:  # fmt: skip
    for name in (name for name in wanted if name in recorded):
        old, new = recorded[name], wanted[name]
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _differing(old, new, f"{before}{name}.")
        elif name in ROUND_LISTS and isinstance(old, list):
            if name != "save_rounds" and old[-1:] != new[-1:]:
                yield f"{before}{name}", old, new
        elif old != new:
            yield f"{before}{name}", old, new
