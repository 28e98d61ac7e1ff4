"""The commands that documents, comments and messages tell people to give."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from apfl.registry.trees import ROOT

DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "results/*.md", "results/*/*.md", "config/*.yaml", "profiles/*/*.yaml")
    for path in ROOT.glob(pattern)
)
SOURCES = sorted(path for folder in ("apfl", "baselines") for path in (ROOT / folder).rglob("*.py"))
PROGRAMS = "apfl|snakemake|make|pip|python -m|podman|squeue|sbatch|scontrol|sacct"
IN_TEXT = re.compile(rf"`((?:{PROGRAMS}) [^`]+)`")
"""A command within a sentence; `snakemake` alone is a name."""
ON_A_LINE = re.compile(rf"^(?:#   |    )(?:\.venv/bin/)?((?:{PROGRAMS})(?= |$).*?)(?:\s+# .*)?$", re.MULTILINE)
"""A command on a line of its own, indented in Markdown or in a comment, not a key of YAML such as `apfl:`; what stands
behind # explains it."""


def in_documents() -> Iterator[tuple[str, str]]:
    """(place, command), as they stand in documents, studies and profiles."""
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        for found in (*IN_TEXT.findall(text), *ON_A_LINE.findall(text)):
            yield path.relative_to(ROOT).as_posix(), " ".join(found.replace("\n#", "\n").split())


def in_messages() -> Iterator[tuple[str, str]]:
    """(place, command), as they stand in the texts of the code, without those that are made up as it runs."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                for found in IN_TEXT.findall(node.value):
                    yield path.relative_to(ROOT).as_posix(), " ".join(found.split())


def files_of(page: Path) -> dict[str, str]:
    """The files that a page shows whole, by the name on the line before."""
    return dict(re.findall(r"^`([\w./-]+)`:\n\n```\w+\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL))


def printed(text: str) -> list[str]:
    """The commands to make something that a message, a page or a table of verdicts prints."""
    return sorted(set(re.findall(r"[`>](snakemake --configfile=[^`<]+)[`<]", text)))
