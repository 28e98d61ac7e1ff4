"""Why a verdict is what it is, in a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from apfl.paper.numbers.frames import grouped
from apfl.paper.numbers.intervals import ERROR
from apfl.paper.verdict.family import NOT_RUN, NOTHING, OPEN, Outcome, Weighed


def side(one: Weighed) -> str:
    """Where a contrast lies before correction: inside, outside, open, or absent if it has no number."""
    if one.mean is None:
        return "absent"
    return "inside" if one.inside <= ERROR else "outside" if one.outside <= ERROR else "open"


SIDES: Mapping[str, str] = {
    "inside": "on the claimed side",
    "outside": "on the other side before correction",
    "open": "open",
}


def is_partition(path: str) -> bool:
    """Of what is missing, the rest are folders of runs."""
    return path.endswith(".npz")


def incomplete(runs: int, missing: Sequence[str]) -> str:
    """What is still to be run.

    >>> incomplete(10, ["study/runs/a/seed0", "study/partitions/a/seed0.npz"])
    'incomplete: 1 of 11 runs and 1 partition missing'
    """
    partitions = sum(map(is_partition, missing))
    gone = len(missing) - partitions
    parts = [f"{gone} of {runs + gone} runs"] if gone else []
    parts += [f"{partitions} partition{'s' * (partitions > 1)}"] if partitions else []
    return f"incomplete: {' and '.join(parts)} missing" if parts else ""


def reason(status: str, outcome: Outcome, decisive: Weighed | None, lacking: str) -> str:
    """The verdict in a sentence; ``lacking`` says what is still to be run."""
    if decisive is not None:
        return _numbers(decisive, outcome.family)
    gates = [one for one in outcome.judged if one.contrasts[0].gate and side(one) != "inside"]
    if status == NOTHING:
        return "; ".join(filter(None, [lacking, _gates(gates, True)]))
    asked = [one for one in outcome.judged if not one.contrasts[0].gate]
    states = [_state(one, outcome.lines) for one in asked]
    if status == NOT_RUN or not asked:
        return ", ".join(dict.fromkeys(states)) or "the study does not run AP-FL there in this reading"
    shown = [state for state in dict.fromkeys(states) if not (lacking and state == "not run")]
    parts = [lacking] if lacking else []
    parts += [f"of {len(states)}: " + ", ".join(f"{states.count(state)} {state}" for state in shown)] if shown else []
    return "; ".join([*parts, *([_gates(gates, False)] if gates and status == OPEN else [])])


def _state(one: Weighed, lines: int) -> str:
    """A comparison in words; it is one of ``lines`` for which what is shown to be on the claimed side is corrected."""
    if one.mean is None:
        return one.contrasts[0].status
    lost = side(one) == "inside" and lines * one.inside > ERROR
    return f"{SIDES[side(one)]} before correction" if lost else SIDES[side(one)]


def _gates(gates: Sequence[Weighed], in_numbers: bool) -> str:
    """Those that are not shown to be passed, a number for each data set or the names of these together; and why where
    they have no number."""
    bounds = grouped(gates, lambda gate: gate.contrasts[0].low or 0.0)
    return "; ".join(f"not shown to be above {bound:g}: {_named(alike, in_numbers)}" for bound, alike in bounds.items())


def _named(gates: Sequence[Weighed], in_numbers: bool) -> str:
    texts = [_numbers(one, 1) for one in gates if in_numbers and one.mean is not None]
    others = [one for one in gates if not in_numbers or one.mean is None]
    for (label, status), alike in grouped(others, lambda gate: (gate.label, gate.contrasts[0].status)).items():
        texts.append(f"{label}, {', '.join(one.place for one in alike)}" + (f" ({status})" if status != "ok" else ""))
    return "; ".join(texts)


def _numbers(one: Weighed, family: int) -> str:
    assert one.mean is not None
    low, high = one.mean.interval(family * one.ways)
    return f"{one.title}: " + f"{one.mean.estimate:+.2f} [{low:+.2f}, {high:+.2f}]".replace("-", "−")
