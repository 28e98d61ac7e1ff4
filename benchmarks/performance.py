"""docs/performance.md and its plots, from what `make bench` measured.

    python -m benchmarks.performance build/performance.json   # the run's JSON -> docs/measurements/performance.json
                                                              # -> docs/performance.md, docs/images/performance-*.svg
    python -m benchmarks.performance build/gpu/figures.json --add   # its topics alone, measured on another machine

The page is a function of the committed JSON file alone, and of what `benchmarks.profile` has measured apart, as a test
holds.
"""

from __future__ import annotations

import json
import math
import operator
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.measuring import bound, place
from benchmarks.profile import section

ROOT = Path(__file__).resolve().parents[1]
MEASURED = ROOT / "docs" / "measurements" / "performance.json"
PAGE = ROOT / "docs" / "performance.md"
IMAGES = ROOT / "docs" / "images"
COMPARE = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
SIGNS = {">=": "≥", "<=": "≤", ">": ">", "<": "<"}

INTRODUCTION = """\
# Performance

This page shows how much time and memory the suite takes, and how it compares with bare torch and with other suites. One
command measures this on one machine:

    make bench

The command binds itself to two cores; keep them free while it runs. It writes [its
figures](measurements/performance.json) to a file and makes this page from them. `make bench BENCH="--bench-cores 4"`
takes four cores, and `make bench BENCH=--quick` is a trial. Machines are shared and their clock speeds drift. Things
that are compared are therefore measured in turn within the same run, and the ratio is the median over such pairs.
*Asked* is the project's own target, for the ratio where there is one and for the measured value otherwise."""


def trimmed(raw: dict[str, Any]) -> dict[str, Any]:
    """What the page needs of pytest-benchmark's JSON: machine, date, and the topics with their figures and curves."""
    topics: dict[str, dict[str, Any]] = {}
    for said in [one["extra_info"] for one in raw["benchmarks"]] + raw["left_out"]:
        if "topic" not in said:
            continue
        head = {name: said[name] for name in ("topic", "title", "about")}
        topic = topics.setdefault(said["topic"], head | {"figures": [], "series": [], "left_out": []})
        topic["figures"] += [_rounded(entry) for entry in said.get("figures", [])]
        topic["series"] += [_rounded(entry) for entry in said.get("series", [])]
        if "reason" in said:
            topic["left_out"].append({"what": said["what"], "reason": said["reason"]})
    commit = raw.get("commit_info", {})
    return {
        "date": raw["datetime"][:10],
        "commit": {"id": commit.get("id"), "changed": commit.get("dirty")},
        "machine": raw["machine_info"]["bench"],
        "topics": sorted(topics.values(), key=lambda topic: place(topic["topic"])),
    }


def _rounded(entry: dict[str, Any]) -> dict[str, Any]:
    """Five digits of each number: more are noise."""

    def short(value: Any) -> Any:
        if isinstance(value, list):
            return [short(part) for part in value]
        return float(f"{value:.5g}") if isinstance(value, float) else value

    return {name: short(value) for name, value in entry.items()}


def added(measured: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """The measurements with the topics of another run in the place of theirs, each with where it was measured."""
    topics = {topic["topic"]: topic for topic in measured["topics"]}
    topics |= {topic["topic"]: topic | {"where": where(more)} for topic in more["topics"]}
    return measured | {"topics": sorted(topics.values(), key=lambda topic: place(topic["topic"]))}


def kept(measured: dict[str, Any], old: dict[str, Any]) -> dict[str, Any]:
    """The measurements, with what was `added` before of topics that could not be measured here."""
    elsewhere = {topic["topic"]: topic for topic in old["topics"] if "where" in topic}
    topics = [topic if topic["figures"] else elsewhere.get(topic["topic"], topic) for topic in measured["topics"]]
    return measured | {"topics": topics}


def where(measured: dict[str, Any]) -> str:
    """The machine and the versions of a run, in a sentence."""
    machine, commit = measured["machine"], measured["commit"]
    memory = f"{machine['memory_bytes'] / 2**30:.0f} GiB of memory, " if machine["memory_bytes"] else ""
    commit_id = f", commit {commit['id'][:12]}{' with changes' if commit['changed'] else ''}" if commit["id"] else ""
    return (
        f"Measured on {measured['date']}: {machine['processor']}, {machine['cores_used']} of {machine['cores']} cores, "
        f"{memory}{'bf16 in hardware' if machine['bf16'] else 'no bf16 in hardware'}, GPU: {machine['gpu'] or 'none'}; "
        f"{machine['system']}, Python {machine['python']}, torch {machine['torch']}{commit_id}."
    )


def met(entry: dict[str, Any]) -> bool | None:
    """Does the ratio, or the value where there is no ratio, keep to what is asked? None if nothing is asked."""
    if entry["asked"] is None:
        return None
    sign, limit = bound(entry["asked"])
    return COMPARE[sign](entry["value"] if entry["ratio"] is None else entry["ratio"], limit)


def number(value: float) -> str:
    """Three digits, or all of those before the point: 3,038; 41.2; 0.0123."""
    if not math.isfinite(value) or not value:
        return f"{value:g}"
    digits = 2 - math.floor(math.log10(abs(value)))
    return f"{value:,.{min(max(0, digits), 6)}f}"


def table(figures: list[dict[str, Any]]) -> list[str]:
    lines = ["| figure | measured | ratio | against | asked | met |", "| --- | ---: | ---: | --- | ---: | --- |"]
    for entry in figures:
        kept = met(entry)
        cells = [
            entry["figure"],
            f"{number(entry['value'])} {entry['unit']}".strip(),
            "" if entry["ratio"] is None else number(entry["ratio"]),
            entry["against"] or "",
            "" if entry["asked"] is None else _asked(entry["asked"]),
            {None: "", True: "yes", False: "**no**"}[kept],
        ]
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return lines


def _asked(asked: str) -> str:
    sign, limit = bound(asked)
    return f"{SIGNS[sign]} {limit:g}"


def page(measured: dict[str, Any], apart: Mapping[str, str] = {}) -> str:
    """The page, from the trimmed measurements; ``apart`` is Markdown that follows a topic."""
    lines = [INTRODUCTION, ""]
    if measured["machine"]["quick"]:
        lines += ["**A trial run (`--quick`): few and small repetitions. Do not quote these numbers.**", ""]
    lines += [textwrap.fill(where(measured), 120), ""]
    for topic in measured["topics"]:
        lines += [f"## {topic['title']}", ""]
        lines += [topic["about"], ""] if topic["about"] else []
        lines += [textwrap.fill(topic["where"], 120), ""] if "where" in topic else []
        lines += [*table(topic["figures"]), ""] if topic["figures"] else []
        if topic["series"]:
            lines += [f"![{topic['title']}](images/{picture_name(topic)})", ""]
        lines += [f"- Left out: {one['what']}: {one['reason']}" for one in topic["left_out"]]
        lines += [""] if topic["left_out"] else []
        lines += [apart[topic["topic"]]] if topic["topic"] in apart else []
    return "\n".join(lines).rstrip() + "\n"


def picture_name(topic: dict[str, Any]) -> str:
    return f"performance-{topic['topic']}.svg"


def write_page() -> None:
    """Make the page of the committed measurements."""
    PAGE.write_text(page(json.loads(MEASURED.read_text()), {"generator": section()}))


def main(raw: Path, add: bool = False) -> None:
    """Trim ``raw`` into the committed JSON file, or add its topics to that, and make page and plots of it."""
    from benchmarks.performance_plots import draw

    new = trimmed(json.loads(raw.read_text()))
    old = json.loads(MEASURED.read_text())
    measured = added(old, new) if add else kept(new, old)
    MEASURED.write_text(json.dumps(measured, indent=1, ensure_ascii=False) + "\n")
    write_page()
    for picture in IMAGES.glob("performance-*.svg"):
        picture.unlink()
    for topic in measured["topics"]:
        if topic["series"]:
            (IMAGES / picture_name(topic)).write_bytes(draw(topic))
    asked = [entry for topic in new["topics"] for entry in topic["figures"] if entry["asked"] is not None]
    missed = [entry["figure"] for entry in asked if not met(entry)]
    for topic in new["topics"]:
        print(topic["title"], *table(topic["figures"])[2:], sep="\n  ")
    print(f"{PAGE.relative_to(ROOT)}: {len(asked) - len(missed)} of {len(asked)} figures are as asked")
    for figure in missed:
        print(f"  not {figure}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), "--add" in sys.argv[2:])
