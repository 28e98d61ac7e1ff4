"""Where the code and the workflow lie, in a checkout and where the package was installed from a wheel.

A Snakefile takes the installed workflow as a module by ``from apfl.project import SNAKEFILE``.
"""

from __future__ import annotations

from pathlib import Path

CODE = Path(__file__).resolve().parents[1]
"""The folder with the packages ``apfl`` and ``baselines``."""


def home(code: Path = CODE) -> Path:
    """The folder with ``workflow/``, ``config/``, ``profiles/`` and ``environment.yml``: that of the code, and in a
    wheel a folder of the package (``pyproject.toml`` puts it there)."""
    inside = code / "apfl" / "share"
    return inside if inside.is_dir() else code


SNAKEFILE = str(home() / "workflow" / "Snakefile")
