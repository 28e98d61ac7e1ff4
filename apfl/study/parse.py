"""Reading a study's file, and one line for what is wrong with its form, before anything in it has a meaning."""

from __future__ import annotations

import json
import math
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from apfl.errors import UserError
from apfl.registry.cards import remedy

TEMPLATE = "__use_yte__"
"""The key by which Snakemake takes a file for a template."""
MOST_VALUES = 1_000_000
"""More values than any study has: aliases can make a small file mean more than fits into memory."""
DEEPEST = 40
OTHER_BASE = re.compile(r"[-+]?(0[0-7_]+|[0-9_]+:.*)")
"""Numbers that YAML 1.1 reads in base 8 (010) or 60 (1:30)."""
LARGEST = 2**63 - 1


def read(source: str | os.PathLike[str] | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The path (empty for a dictionary) and the values of a study in YAML, in JSON (``.json``) or in a dictionary.

    Keys are texts and values plain and finite, and no key appears twice; a `UserError` names the field or the line
    where that is not so.
    """
    if isinstance(source, Mapping):
        _check_plain(source)
        return "", json.loads(json.dumps(source))
    path = Path(source)
    values = _parsed(path)
    if not isinstance(values, dict):
        raise UserError(f"{path}: has no keys; a study has at least name, seeds, data and methods")
    if TEMPLATE in values:
        raise UserError(f"{path}: {TEMPLATE} makes it a template, which can run code; write its values out")
    _check_plain(values, f"{path}: ")
    return str(path), values


def _parsed(path: Path) -> Any:
    try:
        if not path.is_file():
            raise UserError(f"study {path}: no such file; name one of config/*.yaml")
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"study {path}: cannot be read ({error.strerror}); correct the path or its rights") from None
    kind = "JSON" if path.suffix == ".json" else "YAML"
    try:
        # JSON writes 1e-05, which YAML takes for a text.
        return _parsed_json(text, str(path)) if kind == "JSON" else _parsed_yaml(text, str(path))
    except UserError:
        raise
    except RecursionError:
        raise UserError(f"{path}: nested too deep; correct the file") from None
    except Exception as error:  # the parsers raise many kinds for what they cannot make a value of
        remedy = "correct the file" + (", or remove it and run again" if kind == "JSON" else "")
        raise UserError(f"{path}: not {kind} ({' '.join(str(error).split())[:150]}); {remedy}") from None


def _parsed_json(text: str, where: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if twice := [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]:
            raise UserError(f"{where}: key {twice[0]!r} appears twice; remove one of them")
        return dict(pairs)

    return json.loads(text, object_pairs_hook=unique)


def _parsed_yaml(text: str, where: str) -> Any:
    import yaml

    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _weight(node, where, {}) > MOST_VALUES:
            raise UserError(f"{where}: its aliases (*) stand for more than {MOST_VALUES:,} values; write them out")
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _weight(node: Any, where: str, known: dict[int, int]) -> int:
    """How many values a node stands for with all aliases written out; a `UserError` for a key that appears twice, or
    an alias inside of what it stands for."""
    if id(node) in known:
        if not known[id(node)]:
            line = node.start_mark.line + 1
            raise UserError(f"{where}: line {line}: holds an alias (*) of itself; write out what you mean")
        return known[id(node)]
    known[id(node)] = 0
    total = 1
    if node.id == "scalar" and node.tag.endswith((":int", ":float")) and OTHER_BASE.fullmatch(node.value):
        line = node.start_mark.line + 1
        raise UserError(
            f"{where}: line {line}: YAML takes {node.value} for another number; leave out zeros in front, and colons"
        )
    if node.id == "mapping":
        seen: set[tuple[str, str]] = set()
        for key, value in node.value:
            if key.id == "scalar" and key.tag != "tag:yaml.org,2002:merge":
                if (key.tag, key.value) in seen:
                    line = key.start_mark.line + 1
                    raise UserError(f"{where}: line {line}: key {key.value!r} appears twice; remove one of them")
                seen.add((key.tag, key.value))
            total += _weight(key, where, known) + _weight(value, where, known)
    elif node.id == "sequence":
        total += sum(_weight(item, where, known) for item in node.value)
    known[id(node)] = total
    return total


def _check_plain(values: Mapping[Any, Any], where: str = "") -> None:
    """That a study is made of what JSON has: texts as keys, no dates, no infinity, nothing that is not a number."""
    for number, (field, value) in enumerate(_walk(values, ())):
        name = ".".join(map(str, field)) or "study"
        if number > MOST_VALUES or len(field) > DEEPEST:
            raise UserError(f"{where}{name[:80]}: too many values or nested too deep; correct the study")
        if isinstance(value, Mapping):
            for key in value:
                if not isinstance(key, str):
                    raise UserError(f"{where}{name}: key {key!r} is not text; put it in quotes")
                _check_text(key, f"{where}{name}: key")
        elif isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{where}{name} {value}: is not finite; give a finite number")
        elif isinstance(value, int) and abs(value) > LARGEST:
            raise UserError(f"{where}{name}: a whole number of {len(f'{value:x}') * 4} bits; give a smaller one")
        elif isinstance(value, str):
            _check_text(value, f"{where}{name}", "\n\t" if field == ("description",) else "")
        elif not isinstance(value, int | float | list | tuple | None):
            raise UserError(f"{where}{name} {value}: is neither text nor number; put it in quotes")


def _walk(value: Any, field: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every value with its field, the outer ones first."""
    yield field, value
    pairs: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        pairs = value.items()
    elif isinstance(value, list | tuple):
        pairs = enumerate(value)
    for key, item in pairs:
        yield from _walk(item, (*field, key))


def _check_text(text: str, where: str, allowed: str = "") -> None:
    """A `UserError` for characters that belong to no name: control characters, among them the end of a line, which the
    schema's patterns let pass at the end of a text, and halves of characters."""
    if text.isascii() and text.isprintable():
        return
    for character in text:
        if unicodedata.category(character) in ("Cc", "Cs") and character not in allowed:
            raise UserError(f"{where} {text[:60]!r}: holds the character {character!r}; remove it")


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
        return f"{field}: {_shortened(repr(error.instance))} is not a valid name; use {names}, 60 at most"
    if error.validator == "type" and (meant := _meant(error.instance, error.validator_value)):
        return f"{field}: {_shortened(error.message)}; {meant} ({parent.get('description', 'its type')})"
    problem = f"{error.instance!r} is not valid" if error.validator in ("pattern", "not") else error.message
    return f"{field}: {_shortened(problem)}; give {parent.get('description', 'another value')}"


def _meant(value: Any, wanted: str | list[str]) -> str:
    """What to write in place of a value of another type; empty if that cannot be told."""
    kinds = {"number": "float", "integer": "int", "string": "str", "boolean": "bool"}
    said = remedy(value, kinds[wanted]) if isinstance(wanted, str) and wanted in kinds else "give"
    return "" if said.startswith("give") or isinstance(value, dict | list | None) else said


def _shortened(text: str) -> str:
    return text if len(text) <= 120 else f"...{text[-100:]}"
