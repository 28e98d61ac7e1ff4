"""A specification is the JSON that states it, and nothing else is one."""

from __future__ import annotations

import json

import pytest

from apfl.errors import UserError
from apfl.stages.specification import Specification

LEAST = {"dataset": "noise", "setting": "iid-clients3", "seed": 0, "training": {"rounds": 1}}
ALL = LEAST | {
    "network": {}, "method": "g", "module": "apfl", "parameters": {}, "schedule": {"trace": [[0, 0, 1]]},
    "semantics": "", "reading": "literal", "rounds": [2, 4], "base": "fedavg", "generator": "g",
    "tuned": "study/tuning/noise/apfl.json",
}  # fmt: skip


@pytest.mark.parametrize("given", [LEAST, ALL])
def test_a_specification_is_rendered_as_it_was_given(given: dict) -> None:
    assert json.loads(json.dumps(Specification.parse(given).json())) == given


def test_every_key_is_among_those_tested() -> None:
    assert Specification.parse(ALL).json().keys() == vars(Specification.parse(LEAST)).keys()


@pytest.mark.parametrize("name", LEAST)
def test_what_every_stage_needs_has_to_be_there(name: str) -> None:
    with pytest.raises(UserError, match=rf"spec\.{name}: missing"):
        Specification.parse({key: value for key, value in LEAST.items() if key != name})


CHOSEN = {"beta": 0.5, "width": 8, "training.learning_rate": 0.01}


@pytest.mark.parametrize(("method", "beta"), [("apfl", 0.5), (None, 0.5), ("fedavg", 0.1)])
def test_of_what_was_chosen_a_run_takes_what_it_has_and_the_run_that_it_starts_from_takes_training_alone(
    method: str | None, beta: float
) -> None:
    training = {"rounds": 1, "learning_rate": 0.1}
    given = LEAST | {"parameters": {"beta": 0.1, "noise": 1.0}, "tuned": "choice.json", "training": training}
    given |= {"method": method} if method else {}
    wanted = {"parameters": {"beta": beta, "noise": 1.0}, "training": training | {"learning_rate": 0.01}}
    assert Specification.parse(given).tuned_by("apfl", CHOSEN).json() == given | wanted


def test_a_stage_names_what_it_needs_besides() -> None:
    specification = Specification.parse(LEAST | {"method": "g"})
    specification.require("method")
    with pytest.raises(UserError, match=r"spec\.rounds: missing"):
        specification.require("method", "rounds")


@pytest.mark.parametrize(
    ("name", "value"), [("seed", True), ("seed", 1.0), ("rounds", [-1]), ("rounds", []), ("module", 5), ("reading", {})]
)
def test_a_value_of_another_type_is_refused(name: str, value: object) -> None:
    with pytest.raises(UserError, match=rf"spec\.{name} .*: is not a"):
        Specification.parse(LEAST | {name: value})
