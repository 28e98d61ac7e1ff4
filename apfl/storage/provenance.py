"""Which commit and which versions made something."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "apfl-bench", "numpy", "torch", "torchvision", "pandas", "pyarrow", "scikit-learn", "safetensors", "snakemake",
)  # fmt: skip


def provenance() -> dict[str, Any]:
    """What made an artefact: the commit (and whether the tree was clean), versions, and the machine."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    # An installed package may lie in a folder of somebody else's repository.
    ours = _git("ls-files", "--error-unmatch", __file__) is not None
    return {
        "commit": _git("rev-parse", "HEAD") if ours else None,
        "clean": ours and _git("--no-optional-locks", "status", "--porcelain", "--untracked-files=no") == "",
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions,
    }


@cache
def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
