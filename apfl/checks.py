"""Reading a study's file, and one line for what is wrong with its form, before anything in it has a meaning."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apfl.errors import UserError


def read(source: str | os.PathLike | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The path (empty for a dictionary) and the values of a study in YAML, in JSON (``.json``) or in a dictionary.

    Keys are texts and values plain and finite; a `UserError` names the field where they are not.
    """
    if isinstance(source, Mapping):
        _check_plain(source, "")
        return "", json.loads(json.dumps(source))
    path = Path(source)
    if not path.is_file():
        raise UserError(f"study {path}: no such file; name one of config/*.yaml")
    values = _parsed(path)
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds no keys; a study has at least name, seeds, data and methods")
    _check_plain(values, "", f"{path}: ")
    return str(path), values


def _parsed(path: Path) -> Any:
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from None
    try:
        # JSON writes 1e-05, which YAML takes for a text.
        return json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (yaml.YAMLError, json.JSONDecodeError) as error:
        kind = "JSON" if path.suffix == ".json" else "YAML"
        raise UserError(f"{path}: not {kind} ({' '.join(str(error).split())[:150]}); correct the file") from None


def _check_plain(value: Any, field: str, where: str = "") -> None:
    """That ``value`` is made of what JSON has: texts as keys, no dates, no infinity, nothing that is not a number."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise UserError(f"{where}{field or 'study'}: key {key!r} is no text; put it in quotes")
            _check_plain(item, f"{field}.{key}" if field else key, where)
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            _check_plain(item, f"{field}.{number}", where)
    elif isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where}{field} {value}: is not finite; give a finite number")
    elif not isinstance(value, str | int | float | None):
        raise UserError(f"{where}{field} {value}: is neither text nor number; put it in quotes")


def explain(error: Any) -> str:
    """One line from a schema error: the field, its value, what is wrong, what it should be."""
    field = ".".join(str(part) for part in error.absolute_path) or "study"
    parent = error.schema
    if error.validator == "additionalProperties" and error.validator_value is False:
        unknown = sorted(set(error.instance) - set(parent["properties"]))[0]
        return f"{field}: unknown key {unknown!r}; known: {', '.join(parent['properties'])}"
    if error.validator == "required":
        absent = next(name for name in error.validator_value if name not in error.instance)
        return f"{field}: {absent} is missing; add it ({parent['properties'][absent].get('description', absent)})"
    if error.validator == "enum":
        return f"{field} {error.instance!r}: unknown; choose one of {', '.join(map(str, error.validator_value))}"
    if "propertyNames" in error.absolute_schema_path:
        names = "lower-case letters, digits and -" if field == "methods" else "lower-case letters, digits and _"
        return f"{field}: {error.instance!r} is no valid name; use {names}"
    problem = f"{error.instance!r} is not valid" if error.validator in ("pattern", "not") else error.message
    return f"{field}: {_shortened(problem)}; give {parent.get('description', 'another value')}"


def _shortened(text: str) -> str:
    return text if len(text) <= 120 else f"...{text[-100:]}"
