"""What can be said about methods and code without running them: no file is imported, all are read as syntax trees.

So a workflow with hundreds of jobs is planned in a second, and a method that needs a package that is not installed can
still be listed. `card` reads a method's title, stage and hyper-parameters from ``baselines/{module}.py``; `code_digest`
(`apfl.registry.code`) says whether the code that a stage runs has changed in what decides results.
"""

from __future__ import annotations

import ast
import inspect
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from apfl.errors import UserError
from apfl.project import home
from apfl.registry.trees import ROOT, assigned, module_path, parse, text_of, value_of

EXTERNAL = "external/"
NAME = re.compile(r"[a-z0-9][a-z0-9_]*")
"""What a method's file may be called, without .py."""
REQUIRED = ("title", "stage", "model")
STAGES = ("federate", "personalize")
MODELS = ("global", "local", "localized", "friend", "personalized")
NEEDS = ("semantics", "proxy", "generator", "validation")
TYPES = {"int": int, "float": float, "str": str, "bool": bool}


@dataclass(frozen=True)
class Field:
    """A hyper-parameter: the name of its type (int, float, str, bool), its default, and the line that explains it."""

    type: str
    default: Any
    doc: str = ""


@dataclass(frozen=True)
class Card:
    """What ``baselines/{module}.py`` says about itself."""

    module: str
    title: str
    stage: str
    model: str
    base: str
    needs: tuple[str, ...]
    fields: dict[str, Field] = field(default_factory=dict)
    summary: str = ""
    docstring: str = ""
    additive: bool | Mapping[str, Any] = False
    shares_global: bool = True
    search: Mapping[str, Any] = field(default_factory=dict)

    def is_additive(self, parameters: Mapping[str, Any]) -> bool:
        """Can the method run asynchronously with these hyper-parameters, and the defaults for the others?"""
        wanted = self.additive
        values = {name: entry.default for name, entry in self.fields.items()} | dict(parameters)
        return wanted if isinstance(wanted, bool) else all(values[name] == wanted[name] for name in wanted)


def methods(root: Path = ROOT) -> dict[str, Card]:
    """The card of every file in ``baselines/``, by module name."""
    return {name: card(name, root) for name in _modules(root)}


@cache
def card(module: str, root: Path = ROOT) -> Card:
    """The card of one method; a `UserError` if there is no such file or it does not say what it must.

    A module called ``external/name`` is a foreign method, run by a rule of its own under workflow/rules/external/.
    """
    if module.startswith(EXTERNAL):
        return _external_card(module, root)
    path = module_path(f"baselines.{module}", root)
    if not NAME.fullmatch(module) or not path.is_file():
        known = ", ".join(_modules(root))
        raise UserError(f"method {module!r}: there is no baselines/{module}.py; add it, or choose from {known}")
    try:
        return _card(path, module, root)
    except RecursionError:
        raise UserError(f"{_place(path, root)}: its classes derive from each other in a circle; break it") from None


def _place(path: Path, root: Path) -> str:
    """How messages call a method's file."""
    return f"baselines/{path.name}" if path.parent == root / "baselines" else str(path)


def _card(path: Path, module: str, root: Path) -> Card:
    tree, where = parse(path), _place(path, root)
    values = [value_of(node) for node in tree.body if assigned(node) == "METHOD"]
    named = [value.id for value in values if isinstance(value, ast.Name)]
    if not named:
        raise UserError(f"{where}: does not name a method; end it with METHOD = the name of its class")
    facts, fields = _class_facts(path, named[-1], root)
    if missing := [name for name in REQUIRED if name not in facts]:
        raise UserError(f"{where}: {named[-1]} has no {missing[0]}; add `{missing[0]}: ClassVar[str] = ...`")
    docstring = inspect.cleandoc(ast.get_docstring(tree) or "")
    if fault := _card_fault(facts, fields, docstring):
        raise UserError(f"{where}: {fault}")
    optional = {name: facts[name] for name in ("additive", "shares_global", "search") if name in facts}
    base = facts.get("base", "") if facts["stage"] == "personalize" else ""
    needs = tuple(facts.get("needs", ()))
    title, stage, model = (facts[name] for name in REQUIRED)
    return Card(module, title, stage, model, base, needs, fields, _summary(docstring), docstring, **optional)


def _summary(docstring: str) -> str:
    """The first paragraph in one line."""
    return " ".join(docstring.split("\n\n")[0].split())


def _card_fault(facts: Mapping[str, Any], fields: Mapping[str, Field], docstring: str) -> str | None:
    """What is wrong with the class variables of a method, and what to do."""
    if facts["stage"] not in STAGES:
        return f"stage {facts['stage']!r} is neither 'federate' nor 'personalize'; correct it"
    if facts["model"] not in MODELS:
        return f"model {facts['model']!r}: unknown; choose one of {', '.join(MODELS)}"
    if not isinstance(facts["title"], str) or not facts["title"].strip():
        return f"title {facts['title']!r}: is not text; give the heading of the method's column"
    needs = facts.get("needs", ())
    if not isinstance(needs, tuple | list) or (unknown := [name for name in needs if name not in NEEDS]):
        given = needs if not isinstance(needs, tuple | list) else unknown[0]
        return f"needs {given!r}: give a tuple of names among {', '.join(NEEDS)}"
    additive = facts.get("additive", False)
    if not isinstance(additive, bool) and not (isinstance(additive, dict) and additive.keys() <= fields.keys()):
        return f"additive {additive!r}: give True, False, or the hyper-parameters with which it is so"
    if not isinstance(facts.get("search", {}), dict):
        return f"search {facts['search']!r}: give for each hyper-parameter a list of values or a range"
    if not docstring:
        return "has no docstring; begin it with what the method does, its reference, and what was decided"
    return None


def _external_card(module: str, root: Path) -> Card:
    """The card of a foreign method: the first paragraph of its script, and TITLE and MODEL among its constants."""
    name = module.removeprefix(EXTERNAL)
    folder = home(root) / "workflow" / "rules" / "external"
    path = folder / f"{name}.py"
    if not NAME.fullmatch(name) or not path.is_file():
        known = ", ".join(f"{EXTERNAL}{path.stem}" for path in sorted(folder.glob("*.py"))) or "none, as there are none"
        raise UserError(f"method {module!r}: there is no workflow/rules/{module}.py; add it, or choose from {known}")
    tree = parse(path)
    facts = {assigned(node): value.value for node in tree.body if isinstance(value := value_of(node), ast.Constant)}
    if missing := [key for key in ("TITLE", "MODEL") if key not in facts]:
        raise UserError(f"workflow/rules/{module}.py: has no {missing[0]}; add `{missing[0]} = ...` at its top")
    if facts["MODEL"] not in MODELS or not isinstance(facts["TITLE"], str):
        raise UserError(
            f"workflow/rules/{module}.py: TITLE {facts['TITLE']!r}, MODEL {facts['MODEL']!r}: give a text, and one of "
            f"{', '.join(MODELS)}"
        )
    docstring = inspect.cleandoc(ast.get_docstring(tree) or "")
    return Card(module, facts["TITLE"], "external", facts["MODEL"], "", (), {}, _summary(docstring), docstring)


@cache
def parameters_of(module: str, name: str, root: Path = ROOT) -> dict[str, Field]:
    """The hyper-parameters of the dataclass ``name`` in ``module``, such as ``apfl.memorization.generator``."""
    return _class_facts(module_path(module, root), name, root)[1]


def check_values(fields: Mapping[str, Field], values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """``values`` if each is a known hyper-parameter of the right type; otherwise a `UserError` that names ``where``."""
    return {name: _checked(fields, name, value, where) for name, value in values.items()}


def _modules(root: Path) -> list[str]:
    return sorted(path.stem for path in (root / "baselines").glob("*.py") if not path.stem.startswith("_"))


def _checked(fields: Mapping[str, Field], name: str, value: Any, where: str) -> Any:
    if name not in fields:
        known = ", ".join(sorted(fields)) or "none"
        raise UserError(f"{where}: unknown hyper-parameter {name!r}; known: {known}")
    wanted = fields[name].type
    kind = TYPES[wanted]
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise UserError(f"{where}: {name} is larger than any float; give a smaller number") from None
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise UserError(f"{where}: {name} {value!r} is not of type {wanted}; {remedy(value, wanted)}")
    return value


def remedy(value: Any, wanted: str) -> str:
    """What to do about a value that is not of the type ``wanted``: how YAML takes what it is meant to be.

    >>> remedy("1e1", "float"), remedy("1e1", "int"), remedy("0,5", "float"), remedy(10.0, "int"), remedy(1, "str")
    ('write 1.0e+1', 'write 10', 'write 0.5', 'write 10', 'put it in quotes')
    """
    if wanted == "str" and isinstance(value, int | float):
        return "put it in quotes"
    if wanted == "bool" and str(value).strip().lower() in ("true", "false", "yes", "no", "on", "off"):
        return f"write {str(str(value).strip().lower() in ('true', 'yes', 'on')).lower()}, without quotes"
    number = None if isinstance(value, bool) or wanted not in ("int", "float") else written(value, wanted == "int")
    return f"write {number}" if number else f"give a {wanted}"


def written(value: Any, whole: bool) -> str | None:
    """A number as YAML takes it, from a text that means one; None if it means none, or no ``whole`` one where that is
    asked for. YAML 1.1 reads an exponent only after a point and with a sign: 1e1 and 1.0e1 are texts."""
    text = re.sub(r"(?<=\d),(?!\d{3}$)(?=\d+$)", ".", str(value).strip())
    percent = re.fullmatch(r"([0-9.]+) ?%", text)
    try:
        number = float(percent[1]) / 100 if percent else float(text)
    except ValueError:
        return None
    if not math.isfinite(number) or (whole and not number.is_integer()):
        return None
    if whole:
        return str(int(number))
    parts = re.fullmatch(r"(-?)(\d+)(?:\.(\d+))?(?:e([+-]?)(\d+))?", text.lower())
    parts = parts or re.fullmatch(r"(-?)(\d+)(?:\.(\d+))?(?:e([+-]?)(\d+))?", repr(number))
    if parts is None or parts[5] is None:
        return repr(number)
    return f"{parts[1]}{parts[2]}.{parts[3] or 0}e{parts[4] or '+'}{parts[5]}"


def _class_facts(path: Path, name: str, root: Path) -> tuple[dict[str, Any], dict[str, Field]]:
    """Class variables and dataclass fields of a class, its bases' first, as Python itself resolves them."""
    tree = parse(path)
    node = next((node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name), None)
    if node is None:
        for module, original in _imported_names(tree, name):
            return _class_facts(module_path(module, root), original, root)
        where = f"{path.parent.name}/{path.name}"
        raise UserError(f"{where}: has no class {name}; define it there, or import it from apfl or baselines")
    facts: dict[str, Any] = {}
    fields: dict[str, Field] = {}
    for base in reversed(node.bases):
        if isinstance(base, ast.Name) and (_defines(tree, base.id) or list(_imported_names(tree, base.id))):
            inherited_facts, inherited_fields = _class_facts(path, base.id, root)
            facts |= inherited_facts
            fields |= inherited_fields
    lines = path.read_text(encoding="utf-8").splitlines()
    explained = _explanations(ast.get_docstring(node) or "")
    for position, statement in enumerate(node.body):
        target = assigned(statement)
        value = getattr(statement, "value", None)
        if target is None:
            continue
        if isinstance(statement, ast.AnnAssign) and "ClassVar" not in ast.unparse(statement.annotation):
            doc = explained.get(target) or _documentation(node.body, position, lines)
            fields[target] = _field(path, target, statement, doc)
        elif value is not None:
            try:
                facts[target] = ast.literal_eval(value)
            except ValueError:
                continue  # a class variable that is not a literal is not part of the card
    defined = {getattr(statement, "name", None) or assigned(statement) for statement in node.body}
    if "server_update" in defined and "additive" not in defined:
        facts["additive"] = False  # what is inherited was said of another update, as `Method` has it
    return facts, fields


def _field(path: Path, name: str, statement: ast.AnnAssign, doc: str) -> Field:
    kind = ast.unparse(statement.annotation)
    where = f"baselines/{path.name}" if path.parent.name == "baselines" else path.name
    if kind not in TYPES:
        raise UserError(f"{where}: hyper-parameter {name} has type {kind}; use int, float, str or bool")
    try:
        default = ast.literal_eval(statement.value)  # type: ignore[arg-type]
    except (ValueError, TypeError):
        raise UserError(f"{where}: hyper-parameter {name} has no literal default; give it one") from None
    return Field(kind, _checked({name: Field(kind, None)}, name, default, f"{where}: default"), doc)


def _explanations(docstring: str) -> dict[str, str]:
    """The ``:param name: text`` entries of a class's docstring."""
    entries = re.findall(r"^:param (\w+): (.*?)(?=^:param |^\s*$|\Z)", docstring, re.MULTILINE | re.DOTALL)
    return {name: " ".join(text.split()) for name, text in entries}


def _documentation(body: list[ast.stmt], position: int, lines: list[str]) -> str:
    """The string below a field, or the comment at the end of its line."""
    if position + 1 < len(body) and (text := text_of(body[position + 1])) is not None:
        return " ".join(text.split())
    line = lines[(body[position].end_lineno or 0) - 1]
    return line[body[position].end_col_offset :].strip().removeprefix("#").removeprefix(":").strip()


def _defines(tree: ast.Module, name: str) -> bool:
    return any(isinstance(node, ast.ClassDef) and node.name == name for node in tree.body)


def _imported_names(tree: ast.Module, name: str) -> Iterator[tuple[str, str]]:
    """(module, original name) where ``name`` was imported from this project."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in ("apfl", "baselines"):
            yield from ((node.module, alias.name) for alias in node.names if (alias.asname or alias.name) == name)
