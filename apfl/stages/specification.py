"""What a run is asked for, checked before anything is read."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from apfl.engine.device import Engine
from apfl.engine.settings import TrainingConfig
from apfl.errors import UserError
from apfl.federation.method import load_method
from apfl.registry.cards import card
from apfl.registry.cards import check_values as check_parameters
from apfl.storage.files import canonical_json

WHOLE, TEXT, OBJECT, ROUNDS = "a whole number from 0", "a text", "an object", "a list of whole numbers from 0"


SPECIFICATION: Mapping[str, str] = {
    "dataset": TEXT, "setting": TEXT, "seed": WHOLE, "network": OBJECT, "training": OBJECT, "method": TEXT,
    "module": TEXT, "parameters": OBJECT, "schedule": OBJECT, "semantics": TEXT, "reading": TEXT, "rounds": ROUNDS,
    "base": TEXT, "generator": TEXT,
}  # fmt: skip
"""The keys of a run's specification, and what their values are."""


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


IS: Mapping[str, Callable[[Any], bool]] = {
    WHOLE: _is_whole,
    TEXT: lambda value: isinstance(value, str),
    OBJECT: lambda value: isinstance(value, Mapping),
    ROUNDS: lambda value: isinstance(value, list | tuple) and len(value) > 0 and all(map(_is_whole, value)),
}


TYPES: Mapping[str, Callable[[Any], bool]] = {
    "int": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "float": lambda value: isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf,
    "bool": lambda value: isinstance(value, bool),
    "str": IS[TEXT],
    "tuple[int, ...]": lambda value: isinstance(value, tuple) and all(map(_is_whole, value)),
}
"""What a field of a configuration takes, by its annotation."""


def configure(kind: type, values: Mapping[str, Any], section: str) -> Any:
    """A configuration dataclass from a section of the specification; unknown or missing keys, and values of another
    type, are a `UserError`."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if not isinstance(values, Mapping):
        raise UserError(f"{section} {values!r:.80}: is no object; {section} has {', '.join(fields)}")
    if unknown := sorted(set(values) - set(fields)):
        raise UserError(f"{section}.{unknown[0]}: unknown; {section} has {', '.join(fields)}")
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    for name, value in values.items():
        wanted, *others = str(fields[name].type).split(" | ")
        if not (TYPES.get(wanted, lambda value: True)(value) or (value is None and "None" in others)):
            raise UserError(f"{section}.{name} {value!r:.80}: is not of type {fields[name].type}; correct it")
    try:
        return kind(**values)
    except TypeError as error:
        raise UserError(f"{section}: {error}; it has {', '.join(fields)}") from None


def check_specification(specification: Mapping[str, Any], *more: str) -> None:
    """A `UserError` if the specification lacks one of the keys that every stage reads, or one of ``more``, or has
    keys or values that mean nothing."""
    check_values(specification)
    for key in ("dataset", "setting", "seed", "training", *more):
        if key not in specification:
            raise UserError(f"spec.{key}: missing; `apfl plan --json` prints the specifications of a study")


def check_values(specification: Mapping[str, Any]) -> None:
    """A `UserError` for a key that no specification has, or a value of another kind than it has there."""
    for key, value in specification.items():
        if key not in SPECIFICATION:
            raise UserError(f"spec.{key}: unknown; a specification has {', '.join(SPECIFICATION)}")
        if not IS[SPECIFICATION[key]](value):
            raise UserError(
                f"spec.{key} {value!r:.80}: is not {SPECIFICATION[key]}; `apfl plan --json` prints examples"
            )
    if not isinstance(specification.get("network", {}).get("name", ""), str):
        raise UserError(f"spec.network.name {specification['network']['name']!r:.80}: is no text; name a network")
    try:
        canonical_json(specification)
    except ValueError:
        raise UserError("spec: holds a number that is not finite; give a finite one") from None


def method_of(specification: Mapping[str, Any]) -> Any:
    """The method that a specification names, with its hyper-parameters."""
    module, parameters = specification["module"], specification.get("parameters", {})
    parameters = check_parameters(card(module).fields, parameters, "spec.parameters")
    return load_method(module, parameters)


def engine_of(specification: Mapping[str, Any], device: str = "auto", precision: str | None = None) -> Engine:
    """What a run is computed with."""
    training = configure(TrainingConfig, specification["training"], "training")
    return Engine.choose(precision or training.precision, device)
