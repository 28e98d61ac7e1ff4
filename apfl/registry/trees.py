"""Source files as syntax trees, read and never run."""

from __future__ import annotations

import ast
import os
from functools import cache
from pathlib import Path

from apfl.errors import UserError
from apfl.project import CODE

ROOT = CODE


@cache
def parse(path: Path) -> ast.Module:
    """The syntax tree of a file, which is shared and so never changed; a `UserError` if there is none."""
    where = f"{path.parent.name}/{path.name}"
    try:
        return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    except SyntaxError as error:
        raise UserError(f"{where}: line {error.lineno}: {error.msg}; correct the file") from None
    except OSError as error:
        raise UserError(f"{where}: cannot be read ({error.strerror}); correct the import, or add the file") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"{where}: not Python in UTF-8 ({error}); correct the file") from None


def module_path(module: str, root: Path) -> Path:
    """The file of a module or of a package; a folder of the same name may hold data alone. One of ``baselines`` may lie
    in a folder of `look_in`."""
    path = root.joinpath(*module.split("."))
    package = path / "__init__.py"
    found = package if package.is_file() else path.with_suffix(".py")
    if module.startswith(BASELINES) and not found.is_file():
        elsewhere = (Path(folder, f"{module.removeprefix(BASELINES)}.py") for folder in method_folders())
        return next((path for path in elsewhere if path.is_file()), found)
    return found


METHODS = "APFL_METHODS"
"""The environment variable with the folders, beside ``baselines``, in which methods are looked for. Jobs inherit it."""
BASELINES = "baselines."


def method_folders() -> list[str]:
    """The folders of `look_in`."""
    return [folder for folder in os.environ.get(METHODS, "").split(os.pathsep) if folder]


def look_in(folder: Path) -> None:
    """Look for methods in this folder too, in this process and in those that it starts."""
    import baselines

    if (place := str(folder.resolve())) not in method_folders():
        os.environ[METHODS] = os.pathsep.join([*method_folders(), place])
        baselines.__path__.append(place)


def assigned(statement: ast.AST) -> str | None:
    """The one name that a statement assigns to."""
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        return statement.target.id
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1 and isinstance(statement.targets[0], ast.Name):
        return statement.targets[0].id
    return None


def value_of(statement: ast.AST) -> ast.AST | None:
    """What a statement assigns, or does no more than name."""
    return getattr(statement, "value", None)


def text_of(statement: ast.AST) -> str | None:
    """A docstring, or a text anywhere else that nothing is done with."""
    value = statement.value if isinstance(statement, ast.Expr) else None
    return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else None
