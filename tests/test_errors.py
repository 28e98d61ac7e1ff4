"""One line for each mistake in the fields of a configuration."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from apfl.errors import UserError, check_fields

RULES = {"at_least": {"steps": 1}, "positive": ("rate",), "one_of": {"weights": ("uniform", "samples")}}
GOOD = {"steps": 1, "rate": 0.1, "weights": "samples"}


def test_fields_in_their_ranges_pass() -> None:
    check_fields(SimpleNamespace(**GOOD), "mine", **RULES)


@pytest.mark.parametrize(
    ("field", "value", "line"),
    [
        ("steps", 0, "mine.steps 0: must be at least 1"),
        ("steps", math.nan, "mine.steps nan: must be at least 1"),
        ("rate", 0.0, "mine.rate 0.0: must be positive"),
        ("rate", math.nan, "mine.rate nan: must be positive"),
        ("weights", "sizes", "mine.weights 'sizes': unknown; choose one of uniform, samples"),
    ],
)
def test_a_field_out_of_its_range_is_named_with_its_value(field: str, value: object, line: str) -> None:
    with pytest.raises(UserError) as error:
        check_fields(SimpleNamespace(**GOOD | {field: value}), "mine", **RULES)
    assert str(error.value) == line
