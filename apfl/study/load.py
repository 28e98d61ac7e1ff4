"""From a study's YAML to a `Study`: read, completed with the schema's defaults, and checked."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from apfl.errors import UserError
from apfl.project import home
from apfl.registry.cards import Card
from apfl.storage.files import expanded
from apfl.study.checks import check_study
from apfl.study.outside import RESERVED, outside, rules_folder
from apfl.study.parse import explain, read
from apfl.study.schedules import completed
from apfl.study.study import MethodEntry, Study

SCHEMA = home() / "workflow" / "schemas" / "config.schema.yaml"


def load_study(
    source: str | os.PathLike[str] | Mapping[str, Any], folders: Sequence[str | os.PathLike[str]] = (".",)
) -> Study:
    """The study in a YAML file, or in a dictionary of the same form; a `UserError` if it could not run as it stands.

    Files that the study names lie beside it, or under data_root; ``folders`` say where "beside" is for a dictionary.
    """
    where, values = read(source)
    _validate(values, where)
    values = _with_defaults(schema(), values)
    for root in ("data_root", "semantics_root", "store_root"):
        variable = f"APFL_{root.upper()}"
        values[root] = expanded(values[root] or os.environ.get(variable, ""), root)
    beside = [Path(where).parent] if where else list(folders)
    values["schedules"] = completed(values["schedules"], [*beside, *filter(None, [values["data_root"]])])
    methods = _methods(values, beside)
    if values["rules"]:
        values["rules"] = rules_folder(values["rules"], beside)
    # What one method of a study may look at beside its training images, no other method of it trains on.
    by_validation = "selection" in values["apfl"] or "tuning" in values
    chooses = by_validation or any("validation" in entry.card.needs for entry in methods.values())
    values.setdefault("validation", chooses)
    if by_validation and values["one_job_per"] == "auto":
        values["one_job_per"] = "seed"  # the seeds that are chosen by belong to no cell of a table
    read_as = {"seeds": tuple(sorted(values["seeds"])), "methods": methods}
    study = Study(**{"paper": False} | values | read_as)
    if "paper" not in values:
        study = replace(study, paper=study.reproduces)
    check_study(study)
    return study


@cache
def schema() -> dict[str, Any]:
    """The JSON schema of a study."""
    import yaml

    return dict(yaml.safe_load(SCHEMA.read_text(encoding="utf-8")))


def typed(values: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a study, of which those that were ``given`` on Snakemake's command line may be texts: within lists
    and sections it hands over nothing else. Where the schema takes no text, they are read as YAML reads them.

    >>> typed({"seeds": ["1", "0"], "training": {"rounds": "4"}, "name": "a"}, {"seeds": ["1", "0"]})
    {'seeds': [1, 0], 'training': {'rounds': '4'}, 'name': 'a'}
    """
    return dict(_typed(schema(), dict(values), given))


def _typed(part: Mapping[str, Any], value: Any, given: Any) -> Any:
    import yaml

    part = _resolved(part)
    if isinstance(value, Mapping) and isinstance(given, Mapping):
        own, other = part.get("properties", {}), part.get("additionalProperties") or {}
        read = {key: _typed(own.get(key, other), value[key], given[key]) for key in given if key in value}
        return {**value, **read}
    if isinstance(value, list) and value == given:
        return [_typed(part.get("items", {}), item, item) for item in value]
    kinds = part.get("type", "string")
    if isinstance(value, str) and value == given and (kinds != "string" and "enum" not in part):
        with suppress(yaml.YAMLError):
            return read if isinstance(read := yaml.safe_load(value), int | float) else value
    return value


def _validate(values: Mapping[str, Any], where: str) -> None:
    import jsonschema

    # To JSON's schemas 4.0 is a whole number too, but not to what counts with it.
    types = jsonschema.Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
    )
    validator = jsonschema.validators.extend(jsonschema.Draft202012Validator, type_checker=types)(schema())
    error = min(validator.iter_errors(values), key=lambda error: list(map(str, error.absolute_path)), default=None)
    if error is not None:
        raise UserError(f"{where}: {explain(error)}" if where else explain(error))


def _resolved(part: Mapping[str, Any]) -> Mapping[str, Any]:
    """A part of the schema with what it refers to."""
    return schema()["$defs"][part["$ref"].rsplit("/", 1)[-1]] | part if "$ref" in part else part


def _with_defaults(part: Mapping[str, Any], value: Any) -> Any:
    """``value`` completed with the defaults of the schema, at every level."""
    if not isinstance(value, dict):
        return value
    part = _resolved(part)
    known = {name: _resolved(one) for name, one in part.get("properties", {}).items()}
    other = part.get("additionalProperties") or {}
    defaults = {name: copy.deepcopy(one["default"]) for name, one in known.items() if "default" in one}
    complete = value | (defaults | value)  # in the order of the study, then of the schema
    return {name: _with_defaults(known.get(name, other), item) for name, item in complete.items()}


def _methods(values: Mapping[str, Any], folders: Sequence[str | os.PathLike[str]]) -> dict[str, MethodEntry]:
    own = {id_: outside(id_, entry, folders, values["rules"]) for id_, entry in values["methods"].items()}
    cards = {id_: found.card for id_, found in own.items()}
    entries = {}
    for id_, entry in values["methods"].items():
        here = cards[id_]
        base = entry.get("base", here.base.replace("_", "-"))
        if "base" in entry and here.stage != "personalize":
            raise UserError(f"methods.{id_}.base {base!r}: {here.title} does not start from another method; remove it")
        if base and base not in cards:
            raise UserError(f"methods.{id_}: starts from {base!r}, which is not among the methods; add `{base}: {{}}`")
        if base and cards[base].stage != "federate":
            raise UserError(f"methods.{id_}.base {base!r}: is not a federated method; choose one that is")
        if base and not cards[base].shares_global:
            raise UserError(
                f"methods.{id_}.base {base!r}: {cards[base].title} keeps no global model for {here.title} to start "
                "from; choose another base, such as fedavg"
            )
        entries[id_] = MethodEntry(
            **vars(own[id_]),
            id=id_,
            title=entry.get("title") or _title(id_, here, base, cards),
            base=base,
            semantics=entry.get("semantics", ""),
            parameters=_flat({name: value for name, value in entry.items() if name not in RESERVED}),
            datasets={name: _flat(values) for name, values in entry.get("datasets", {}).items()},
        )
    return entries


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """The hyper-parameters of a method's entry, with those of local training as ``training.NAME``."""
    training = {f"training.{name}": value for name, value in values.get("training", {}).items()}
    return {name: value for name, value in values.items() if name != "training"} | training


def _title(id_: str, here: Card, base: str, cards: Mapping[str, Card]) -> str:
    """AP-FL, AP-FL (SCAFFOLD) on another base, or FedProx [fedprox-mu1] where the id is not the file's name."""
    if base and base != here.base.replace("_", "-"):
        return f"{here.title} ({cards[base].title})"
    return here.title if id_.replace("-", "_") == here.module or here.stage == "external" else f"{here.title} [{id_}]"
