"""Methods from outside the project: files of methods, programs and rules that lie beside a study.

What a study names is looked for in its own folder, and then in the folder where one is. From there all of it is named
afterwards, so that the study as it was run (results/NAME/study.json) finds it too.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from apfl.errors import UserError
from apfl.registry.cards import NAME, Card, Field, card
from apfl.registry.trees import BASELINES, ROOT, look_in, module_path

Folders = Sequence[str | os.PathLike[str]]
PROGRAM = "program/"
"""How the modules of foreign programs begin, which have none in the project."""
RESERVED = ("module", "external", "base", "semantics", "title", "datasets")
"""Keys of a method's entry that are not hyper-parameters."""


@dataclass(frozen=True)
class Outside:
    """The card of a method, and what of it lies beside the study: see `apfl.study.study.MethodEntry`."""

    card: Card
    named: Mapping[str, Any] = field(default_factory=dict)
    external: Mapping[str, str] = field(default_factory=dict)
    files: tuple[str, ...] = ()


def outside(id_: str, entry: Mapping[str, Any], folders: Folders, rules: str) -> Outside:
    """The method of an entry: of the project, of a file, or a foreign program."""
    where = f"methods.{id_}"
    if "external" in entry:
        return _program(id_, entry, where, folders, rules)
    module = entry.get("module", id_.replace("-", "_"))
    if not module.endswith(".py"):
        return Outside(card(module))
    path = _module(module, f"{where}.module {module!r}", folders)
    return Outside(card(path.stem), {"module": f"./{os.path.relpath(path)}"}, files=(os.path.relpath(path),))


def _module(name: str, where: str, folders: Folders) -> Path:
    """The file of a method. From now on methods are looked for in its folder too."""
    # An archive has it beside the study, wherever it was before.
    path = _found(name, folders) or _found(Path(name).name, folders)
    if path is None:
        raise UserError(f"{where}: there is no such file beside the study; add it, or correct the name")
    if not NAME.fullmatch(path.stem):
        raise UserError(f"{where}: is not a name for a method's file; use lower-case letters, digits and _")
    if os.pathsep in str(path.resolve()):
        raise UserError(f"{where}: lies in a folder with {os.pathsep!r} in its name; move it")
    look_in(path.parent)
    known = module_path(f"{BASELINES}{path.stem}", ROOT)
    if not known.samefile(path):
        raise UserError(f"{where}: {known} is called so too; rename the file")
    return path


def _program(id_: str, entry: Mapping[str, Any], where: str, folders: Folders, rules: str) -> Outside:
    """A foreign program, whose hyper-parameters are whatever the entry gives it."""
    external = dict(entry["external"])
    if ("command" in external) == ("rule" in external):
        raise UserError(f"{where}.external: give either the command of the program, or the name of its rule")
    files: tuple[str, ...] = ()
    if "command" in external:
        external["command"], files = _command(external["command"], f"{where}.external.command", folders)
    elif external["rule"] not in _rule_names(rules, folders):
        raise UserError(
            f"{where}.external.rule {external['rule']!r}: there is no such rule in a file *.smk of the study's folder "
            f"`rules` ({rules or 'which it does not name'}); add it"
        )
    if "env" in external:
        place = _found(external["env"], folders, Path.is_dir)
        if place is None or not (place / "bin").is_dir() or "rule" in external:
            raise UserError(
                f"{where}.external.env {external['env']!r}: is not a folder with bin/, for a command; name one"
            )
        external["env"] = os.path.relpath(place)
    own = {name: value for name, value in entry.items() if name not in RESERVED}
    first = {name: value[0] if isinstance(value, list) else value for name, value in own.items()}
    plain = ((name, value) for name, value in first.items() if isinstance(value, int | float | str))
    fields = {name: Field(type(value).__name__, value) for name, value in plain}
    title = entry.get("title", id_)
    made = Card(f"{PROGRAM}{id_}", title, "external", external["model"], "", (), fields, "A foreign program.")
    return Outside(made, {"external": external}, external, files)


def _command(text: str, where: str, folders: Folders) -> tuple[str, tuple[str, ...]]:
    """The command with its files as they are named from here, and these files."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UserError(f"{where} {text!r}: {error}; correct the quotes") from None
    # An archive has them beside the study, wherever they were before.
    paths = {word: path for word in words if (path := _found(word, folders) or _found(Path(word).name, folders))}
    if not paths:
        raise UserError(f"{where} {text!r}: names no file beside the study; name the program's, such as python mine.py")
    named = {word: os.path.relpath(path) for word, path in paths.items()}
    return shlex.join(named.get(word, word) for word in words), tuple(named.values())


def _found(name: str, folders: Folders, kind: Callable[[Path], bool] = Path.is_file) -> Path | None:
    """What of that name lies beside the study, or else here."""
    return next((path for folder in (*folders, ".") if kind(path := Path(folder, name))), None)


def rules_folder(name: str, folders: Folders) -> str:
    """The folder of the study's rules, as it is named from here."""
    # An archive has it beside the study, wherever it was before.
    path = _found(name, folders, Path.is_dir) or _found(Path(name).name, folders, Path.is_dir)
    if path is None or not list(path.glob("*.smk")):
        raise UserError(
            f"rules {name!r}: is not a folder beside the study with files *.smk; add one, or remove the key"
        )
    return os.path.relpath(path)


def _rule_names(name: str, folders: Folders) -> set[str]:
    if not name:
        return set()
    texts = [path.read_text(encoding="utf-8") for path in sorted(Path(rules_folder(name, folders)).glob("*.smk"))]
    return {found for text in texts for found in re.findall(r"^rule\s+(\w+)\s*:", text, re.MULTILINE)}
