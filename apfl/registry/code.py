"""What of the code decides results, and a digest of it that is the same on every version of Python.

Code is read as syntax trees and never run. Of a module that a run uses everything counts but what is listed here, in
one place: `NO_RESULTS` names the modules, and the parts of modules, that decide no number, and the functions below say
what else of a file does not count: layout, comments, docstrings, annotations of functions and variables, the titles and
search spaces of methods, and what is said to people (`WORDS`). What is not listed counts, so that a new module does.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from apfl.errors import UserError
from apfl.registry.trees import ROOT, assigned, module_path, parse, text_of

NO_RESULTS = frozenset({
    # Errors, and what is said about code without running it.
    "apfl.errors", "apfl.registry",
    # Files and locks: what is read is what was written, to the bit, or it is refused.
    "apfl.storage", "apfl.stages.record", "apfl.stages.stopwatch",
    # Whether a run is to be carried out, and what is written down of it.
    "apfl.stages.job",
    # Facts of known data sets: what runs use of them, they are called with.
    "apfl.data.catalogue",
    # The process: what it does with memory, and what it took.
    "apfl.engine.process",
    # Drawings of what a run has made.
    "apfl.stages.samples",
    # Whether what is asked for can be understood.
    "apfl.stages.specification.Specification",
    # Lines that tell how far a run is.
    "apfl.stages.federate._print_round", "apfl.stages.memorize._printer",
    # Names for annotations.
    "collections.abc", "typing",
})  # fmt: skip
"""What decides no number: packages and modules, whose own imports are not followed, and names at the top of modules."""
WORDS: Mapping[str, int] = {
    "require": 1, "Diverged": 0, "ImportError": 0, "KeyError": 0, "NotImplementedError": 0,
    "RuntimeError": 0, "TypeError": 0, "UserError": 0, "ValueError": 0,
}  # fmt: skip
"""Calls that say something to people, and how many of their arguments count nevertheless."""
MANNERS = {"end", "flush", "message", "sep"}
"""Keywords of such calls, and of `print`; with others, such as ``file``, all arguments count."""
LOGGED = {"critical", "debug", "error", "exception", "info", "log", "warn", "warning"}


@cache
def code_digest(*modules: str, root: Path = ROOT) -> str:
    """A digest of what decides results in the given modules and in all that they import, transitively, within ``apfl``
    and ``baselines``: twelve hexadecimal digits."""
    names = sorted(imported_modules(*modules, root=root))
    lines = [f"{name} {_fingerprint(name, root)[0]}" for name in names]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def modules_of(stage: str, module: str | None = None) -> tuple[str, ...]:
    """The modules whose code decides the result of a run of this stage, with all that they import.

    Of a federated run `apfl.federation.side_by_side` too, which gives each run of a job its own results.
    """
    together = ("apfl.federation.side_by_side",) if stage == "federate" else ()
    return (f"apfl.stages.{stage}", *together, *((f"baselines.{module}",) if module else ()))


def _decides_nothing(name: str) -> bool:
    return any(name == listed or name.startswith(f"{listed}.") for listed in NO_RESULTS)


@cache
def files_digest(*names: str, root: Path = ROOT) -> str:
    """A digest of files, and of every file below folders, such as templates, which no module imports: names and
    bytes."""
    given = [path for name in names for path in (root / name, *(root / name).rglob("*"))]
    paths = sorted(path for path in given if path.is_file())
    lines = [f"{path.relative_to(root)} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in paths]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def imported_modules(*modules: str, root: Path = ROOT) -> set[str]:
    """The modules that `code_digest` covers."""
    seen: set[str] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name not in seen and not _decides_nothing(name):
            seen.add(name)
            waiting.extend(_fingerprint(name, root)[1])
    return seen


def mentions(attribute: str, module: str, root: Path = ROOT) -> bool:
    """Whether a method's module, or another one of a method that it imports, reads an attribute of this name."""
    package = module.partition(".")[0]
    trees = (parse(module_path(name, root)) for name in imported_modules(module, root=root) if name.startswith(package))
    return any(isinstance(node, ast.Attribute) and node.attr == attribute for tree in trees for node in ast.walk(tree))


@cache
def _fingerprint(module: str, root: Path) -> tuple[str, tuple[str, ...]]:
    """The digest of what counts in one module, and the project's modules that it imports anywhere in that."""
    path = module_path(module, root)
    if not path.is_file():
        raise UserError(f"{path}: no such module")
    counted = [part for part in parse(path).body if f"{module}.{_name(part)}" not in NO_RESULTS]
    tree = ast.Module(body=counted, type_ignores=[])
    code: list[str] = []
    _write(tree, code)
    return hashlib.sha256("\n".join(code).encode()).hexdigest(), tuple(sorted(set(_project_imports(tree, root))))


def _name(statement: ast.stmt) -> str | None:
    return getattr(statement, "name", None) or assigned(statement)


def _project_imports(tree: ast.Module, root: Path) -> Iterable[str]:
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [name for alias in node.names for name in _origin(node.module, alias.name, root)]
        else:
            continue
        for name in names:
            if name.split(".")[0] in ("apfl", "baselines") and module_path(name, root).is_file():
                yield name


def _origin(module: str, name: str, root: Path) -> list[str]:
    """Where an imported name comes from: of a package that passes it on from one of its modules, that module alone."""
    path = module_path(module, root)
    if path.name == "__init__.py" and path.is_file() and not module_path(f"{module}.{name}", root).is_file():
        for node in parse(path).body:
            if isinstance(node, ast.ImportFrom) and node.module and any(name == alias.name for alias in node.names):
                return _origin(node.module, name, root)
    return [module, f"{module}.{name}"]


BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
    """Every statement at any depth that counts; the expressions, ten times as many, are not looked into."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if _is_for_types(node):
            continue
        yield node
        for name in BLOCKS:
            # The body of a lambda or of a conditional expression is not a list.
            waiting += block if isinstance(block := getattr(node, name, ()), list) else ()


def _write(node: Any, code: list[str], owner: type | None = None) -> None:
    """Append the tree in an order that is read in one way only; ``owner`` is the kind of node that it belongs to.

    Fields go by name, and those that are empty are left out: versions of Python add fields, which are empty in code
    that older ones can read.
    """
    kind = type(node)
    if kind is list:
        code.append("[")
        for item in node:
            _write(item, code, owner)
        code.append("]")
    elif isinstance(node, ast.AST):
        plain: ast.AST = SIMPLER[kind](node, owner) if kind in SIMPLER else node
        code.append(f"{type(plain).__name__}(")
        for name in _fields(type(plain)):  # type: ignore[arg-type]
            value = getattr(plain, name, None)
            if type(value) is list:
                value = [item for item in value if not (type(item) in ASIDE and ASIDE[type(item)](item, kind))]
            if value is not None and value != []:
                code.append(name)
                _write(value, code, kind)
        code.append(")")
    else:
        code.append(ascii(node))  # what `repr` escapes depends on Python's version of Unicode


@cache
def _fields(kind: type[ast.AST]) -> list[str]:
    """The names of the fields that count: a name's place says whether it is read or written, and types decide nothing
    but in the fields of a class (`ast.AnnAssign`)."""
    left_out = {"ctx", "kind", "type_comment", "returns"} | ({"annotation"} if kind is ast.arg else set())
    return sorted(set(kind._fields) - left_out)


def _without_type(node: ast.AnnAssign, owner: type | None) -> ast.AST:
    """``x: int = 1`` as ``x = 1``, but not in a class: there it makes a field, of that type."""
    return node if owner is ast.ClassDef or node.value is None else ast.Assign(targets=[node.target], value=node.value)


def _without_words(node: ast.Call, owner: type | None) -> ast.AST:
    name = node.func.id if isinstance(node.func, ast.Name) else None
    if name is None or name not in WORDS or not {keyword.arg for keyword in node.keywords} <= MANNERS:
        return node
    return ast.Call(func=node.func, args=node.args[: WORDS[name]], keywords=[])


def _joined(node: ast.JoinedStr, owner: type | None) -> ast.AST:
    """An f-string with the texts that are next to each other as one: how they are cut depends on Python's version."""
    values: list[ast.expr] = []
    for value in node.values:
        if values and isinstance(value, ast.Constant) and isinstance(last := values[-1], ast.Constant):
            values.pop()
            value = ast.Constant(value=f"{last.value!s}{value.value!s}")
        values.append(value)
    kept = [value for value in values if not (isinstance(value, ast.Constant) and value.value == "")]
    return ast.JoinedStr(values=kept)


def _is_said(node: ast.Expr, owner: type | None) -> bool:
    """Is it a text, or does it print or log something?"""
    if text_of(node) is not None:
        return True
    if not isinstance(call := node.value, ast.Call) or not {keyword.arg for keyword in call.keywords} <= MANNERS:
        return False
    if isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name):
        return call.func.value.id in ("logging", "logger", "warnings") and call.func.attr in LOGGED
    return isinstance(call.func, ast.Name) and call.func.id == "print"


def _is_for_types(node: ast.AST, owner: type | None = None) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _is_bare(node: ast.AnnAssign, owner: type | None) -> bool:
    """Is it the title or the search space of a method, or does it name no more than a type?"""
    if owner is not ast.ClassDef:
        return node.value is None
    kinds = {"title": ast.Constant, "search": ast.Dict}
    is_fact = assigned(node) in kinds and "ClassVar" in ast.unparse(node.annotation)
    return is_fact and isinstance(node.value, kinds[assigned(node) or ""])


ASIDE: Mapping[type, Callable[[Any, type | None], bool]] = {
    ast.Expr: _is_said,
    ast.If: _is_for_types,
    ast.AnnAssign: _is_bare,
    ast.ImportFrom: lambda node, owner: node.module in NO_RESULTS,
}
"""Statements that do not count, by kind."""
SIMPLER: Mapping[type, Callable[[Any, type | None], ast.AST]] = {
    ast.AnnAssign: _without_type,
    ast.Call: _without_words,
    ast.JoinedStr: _joined,
}
"""What is written in place of a node, by its kind."""
