"""What a run is asked for, checked before anything is read."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass
from typing import Any, TypeVar

from apfl.engine.settings import TrainingConfig
from apfl.errors import UserError, require
from apfl.federation.method import load_method
from apfl.registry.cards import card, check_values
from apfl.storage.files import canonical_json

T = TypeVar("T")
EXAMPLES = "`apfl plan STUDY --json` prints the specifications of a study"


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_rounds(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(_is_whole(one) and 0 <= one < 2**63 for one in value)


TYPES: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "int": ("a whole number", _is_whole),
    "float": (
        "a finite number",
        lambda value: (_is_whole(value) or isinstance(value, float)) and abs(value) < math.inf,
    ),
    "bool": ("true or false", lambda value: isinstance(value, bool)),
    "str": ("a text", lambda value: isinstance(value, str)),
    "tuple[int, ...]": ("a list of whole numbers from 0", _is_rounds),
    "Mapping[str, Any]": ("an object", lambda value: isinstance(value, Mapping)),
}
"""What a field of a configuration takes, by its annotation, in words and as a condition."""


def configure(kind: type[T], values: Mapping[str, Any], section: str) -> T:
    """A configuration dataclass from a section of JSON; unknown or missing keys, and values of another type, are a
    `UserError`."""
    require(isinstance(values, Mapping), f"{section} {values!r:.80}: is not an object; {EXAMPLES}")
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name, value in values.items():
        if name not in fields:
            raise UserError(f"{section}.{name}: unknown; {section} has {', '.join(fields)}")
        wanted, *others = str(fields[name].type).split(" | ")
        words, is_one = TYPES.get(wanted, ("", lambda value: True))
        if not (is_one(value) or (value is None and others)):
            raise UserError(f"{section}.{name} {value!r:.80}: is not {words}; {EXAMPLES}")
    for name, field in fields.items():
        if name not in values and field.default is field.default_factory is MISSING:
            raise UserError(f"{section}.{name}: missing; {EXAMPLES}")
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


@dataclass(frozen=True)
class Specification:
    """What a run is asked for. What is None is not said; ``training``, ``network``, ``parameters`` and ``schedule`` are
    checked where they are used. ``tuned`` names the choice that hyper-parameters are taken from."""

    dataset: str
    setting: str
    seed: int
    training: Mapping[str, Any]
    network: Mapping[str, Any] | None = None
    method: str | None = None
    module: str | None = None
    parameters: Mapping[str, Any] | None = None
    schedule: Mapping[str, Any] | None = None
    semantics: str | None = None
    reading: str | None = None
    rounds: tuple[int, ...] | None = None
    base: str | None = None
    generator: str | None = None
    tuned: str | None = None

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**63, f"spec.seed {self.seed}: is not a whole number from 0; {EXAMPLES}")
        require(self.rounds != (), f"spec.rounds []: is not a list of whole numbers from 0; {EXAMPLES}")
        try:
            canonical_json(self.json())
        except ValueError:
            raise UserError("spec: holds a number that is not finite; give a finite one") from None

    @classmethod
    def parse(cls, json: Mapping[str, Any]) -> Specification:
        """The specification that JSON states; a `UserError` if it states none."""
        return configure(cls, json, "spec")

    def json(self) -> dict[str, Any]:
        """What is said, as it was given."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def tuned_by(self, method: str, values: Mapping[str, Any]) -> Specification:
        """The specification with what was chosen for a method: local training, and those of the hyper-parameters that
        it has, if it is of that method or of its generator; the federated run that it starts from has others."""
        own: Mapping[str, Any] = {} if self.method not in (None, method) else self.parameters or {}
        chosen = {name: value for name, value in values.items() if name in own}
        training = {name: values.get(f"training.{name}", value) for name, value in self.training.items()}
        return dataclasses.replace(self, parameters={**(self.parameters or {}), **chosen}, training=training)

    def require(self, *names: str) -> None:
        """A `UserError` if something that a stage needs is not said."""
        for name in names:
            require(getattr(self, name) is not None, f"spec.{name}: missing; {EXAMPLES}")


@dataclass(frozen=True)
class InitialSpecification:
    """What the initial model that all methods of a seed share depends on, but for the shape of the images."""

    dataset: str
    seed: int
    network: Mapping[str, Any]

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**63, f"spec.seed {self.seed}: is not a whole number from 0; {EXAMPLES}")


def training_of(specification: Specification) -> TrainingConfig:
    """The training section, checked."""
    return configure(TrainingConfig, specification.training, "training")


def method_of(specification: Specification) -> Any:
    """The method that a specification names, with its hyper-parameters."""
    module, parameters = specification.module or "", specification.parameters or {}
    return load_method(module, check_values(card(module).fields, parameters, "spec.parameters"))
