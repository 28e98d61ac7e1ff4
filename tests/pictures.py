"""What documents show of programs: the notebook, run, and the rules of the workflow, drawn."""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from apfl.registry.trees import ROOT

NOTEBOOK = ROOT / "docs" / "notebook.md"


@cache
def notebook() -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """What the notebook's code defines and, cell by cell, what it prints."""
    namespace: dict[str, Any] = {}
    said = []
    with plt.rc_context({"backend": "agg"}), contextlib.chdir(ROOT):
        for code in re.findall(r"```python\n(.*?)```", NOTEBOOK.read_text(encoding="utf-8"), re.DOTALL):
            with contextlib.redirect_stdout(io.StringIO()) as output:
                exec(compile(code, NOTEBOOK.name, "exec"), namespace)
            said.append(output.getvalue())
    return namespace, tuple(said)


def printed(cell: int) -> str:
    """What a cell of the notebook prints, counted among those that print something."""
    said = [text for text in notebook()[1] if text]
    return f"```text\n{said[cell]}```"


@cache
def rule_arrows() -> tuple[tuple[str, str], ...]:
    """Which rule waits for which, (first, then), as Snakemake says for the demo.

    `all`, which waits for everything, is left out, and so is an arrow where others lead the same way.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", folder,
                   "--configfile", str(ROOT / "config/demo.yaml"), "--config", "one_job_per=seed",
                   "--rulegraph", "dot"]  # fmt: skip
        dot = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    names = dict(re.findall(r'(\d+)\[label = "(\w+)"', dot))
    arrows = {(names[one], names[two]) for one, two in re.findall(r"(\d+) -> (\d+)", dot) if one != two}
    arrows = {(one, two) for one, two in arrows if two != "all"}
    behind: dict[str, set[str]] = {name: {two for one, two in arrows if one == name} for name in names.values()}
    for _ in behind:
        behind = {name: after.union(*(behind[next_] for next_ in after)) for name, after in behind.items()}
    return tuple(sorted(
        (one, two) for one, two in arrows if not any((one, mid) in arrows and two in behind[mid] for mid in behind)
    ))  # fmt: skip


def rulegraph() -> str:
    """The rules of the workflow, and what each waits for."""
    waits: dict[str, list[str]] = {}
    for first, then in rule_arrows():
        waits.setdefault(first, [])
        waits.setdefault(then, []).append(first)
    lines = [
        f"| {rule} | {', '.join(firsts) or '–'} |"
        for rule, firsts in sorted(waits.items(), key=lambda item: _depth(item[0]))
    ]
    return "\n".join(["| rule | waits for |", "| --- | --- |", *lines])


def _depth(rule: str) -> int:
    """How many rules must have run before this one, at least."""
    return max((1 + _depth(first) for first, then in rule_arrows() if then == rule), default=0)


def rules_drawn() -> Figure:
    """The same as a picture: rules that can run at the same time stand in one line, each as late as it may."""
    rules = sorted({rule for arrow in rule_arrows() for rule in arrow})
    after = {rule: [_depth(then) for first, then in rule_arrows() if first == rule] for rule in rules}
    line_of = {rule: min(after[rule]) - 1 if after[rule] else _depth(rule) for rule in rules}
    lines = [[rule for rule in rules if line_of[rule] == line] for line in range(1 + max(line_of.values()))]
    places = {
        rule: ((1 + i) / (1 + len(line)), -depth) for depth, line in enumerate(lines) for i, rule in enumerate(line)
    }
    figure, axes = plt.subplots(figsize=(6.5, 0.9 * len(lines)), layout="constrained")
    for first, then in rule_arrows():
        style = {"arrowstyle": "->", "color": "#777777", "shrinkA": 12, "shrinkB": 12}
        arrow = axes.annotate("", places[then], places[first], arrowprops=style).arrow_patch
        assert arrow is not None
        arrow.set_gid(f"{first}-{then}")
    for rule, (x, y) in places.items():
        axes.text(
            x, y, rule, ha="center", va="center", bbox={"boxstyle": "round,pad=0.5", "fc": "#e8f0f8", "ec": "#2d6c9f"}
        )
    axes.set(xlim=(0, 1), ylim=(0.6 - len(lines), 0.4))
    axes.axis("off")
    return figure


PICTURES: Mapping[str, Callable[[], Figure]] = {
    "rulegraph.svg": rules_drawn,
    "notebook.svg": lambda: notebook()[0]["figure"],
}


def draw() -> None:
    with plt.rc_context({"backend": "agg", "svg.hashsalt": "apfl", "svg.fonttype": "none"}):
        for name, drawn in PICTURES.items():
            drawn().savefig(ROOT / "docs" / "images" / name, metadata={"Date": None})
