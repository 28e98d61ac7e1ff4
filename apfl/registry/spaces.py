"""Search spaces of hyper-parameters, as a method's file and a study write them.

A list has the values to choose from; an object is a range, ``{"low": 1e-4, "high": 1.0, "scale": "log"}`` (``scale``
is ``linear`` if it is not said), which of a hyper-parameter that is a whole number takes whole numbers. Cards are read
without running code, so a space is written as a literal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from apfl.errors import UserError
from apfl.registry.cards import Field, check_values

DIGITS = 4
"""Significant digits of a number drawn from a range: more say nothing about a setting, and read badly."""


@dataclass(frozen=True)
class Choices:
    """One of several values, each with the same share of the unit interval."""

    values: tuple[Any, ...]

    def at(self, share: float) -> Any:
        """The value at a share in [0, 1)."""
        return self.values[int(share * len(self.values))]


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, evenly on a linear or on a logarithmic scale; perhaps whole ones."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def at(self, share: float) -> float | int:
        """The number at a share in [0, 1).

        >>> Range(1e-4, 1.0, log=True).at(0.5), Range(0, 10).at(0.25), Range(1, 8, log=True, whole=True).at(0.5)
        (0.01, 2.5, 3)
        """
        value = (
            self.low * (self.high / self.low) ** share if self.log else self.low + (self.high - self.low) * share
        )  # fmt: skip
        return round(value) if self.whole else float(f"{value:.{DIGITS}g}")


Space = Mapping[str, Choices | Range]
"""By name, what each hyper-parameter may be."""


def space(written: Mapping[str, Any], fields: Mapping[str, Field], where: str) -> Space:
    """The space that is written; a `UserError` that names ``where`` for unknown names, values that a hyper-parameter
    does not take, and ranges without numbers."""
    return {name: _dimension(name, values, fields, where) for name, values in written.items()}


def _dimension(name: str, values: Any, fields: Mapping[str, Field], where: str) -> Choices | Range:
    if not isinstance(values, Mapping):
        several = isinstance(values, list | tuple) and len(values) > 1
        if not several:
            raise UserError(f"{where}.{name} {values!r:.80}: give a list of two or more values, or a low and a high")
        return Choices(tuple(check_values(fields, {name: value}, where)[name] for value in values))
    if not {"low", "high"} <= values.keys() <= {"low", "high", "scale"}:
        raise UserError(f"{where}.{name}: a range has a low, a high, and perhaps a scale, log or linear")
    ends = [check_values(fields, {name: values[end]}, where)[name] for end in ("low", "high")]
    kind, scale = fields[name].type, values.get("scale", "linear")
    if kind not in ("int", "float") or scale not in ("log", "linear"):
        raise UserError(f"{where}.{name}: a range is one of numbers, on the scale log or linear; list the values")
    low, high = ends
    if not (math.isfinite(low) and low < high < math.inf and (low > 0 or scale == "linear")):
        raise UserError(f"{where}.{name}: {low} to {high} is not a range on the scale {scale}; give low below high")
    return Range(low, high, scale == "log", kind == "int")
