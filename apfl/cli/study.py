"""``apfl methods``, ``plan``, ``check`` and ``status``: what there is, what a study would run, whether it can, and how
far it is."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

StudyFile = Annotated[Path, typer.Argument(help="A study, such as config/demo.yaml.")]


METHODS_PAGE = """# Methods

What `apfl methods --markdown` prints: the cards of the files in `baselines/`, with hyper-parameters and defaults.
"""


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (methods, plan, check, status):
        app.command()(command)


def methods(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print as Markdown, for the documentation.")] = False,
) -> None:
    """List every method with its reference, its hyper-parameters and their defaults."""
    from apfl.registry import methods as cards

    found = cards().values()
    if markdown:
        print(METHODS_PAGE)
    print("\n".join(_as_markdown(card) if markdown else _as_text(card) for card in found))


def plan(
    study: StudyFile,
    json: Annotated[bool, typer.Option("--json", help="Print every run with its specification and inputs.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="Print what would be made, path by path.")] = False,
    no_estimate: Annotated[bool, typer.Option("--no-estimate", help="Leave out how long it would take.")] = False,
    results: Annotated[Path, typer.Option(help="Finished runs there correct the estimate.")] = Path("results"),
) -> None:
    """Show what a study would run, without running it, and how long that would take on this machine.

    For the estimate each method's code is asked for its work, which is charged at prices measured on random images.
    """
    from dataclasses import asdict
    from json import dumps

    from apfl.status import planned as read_study
    from apfl.study import artefacts, asked, runs

    loaded = read_study(study)
    planned, files = runs(loaded), artefacts(loaded)
    if json:
        print(dumps([asdict(run) for run in planned], indent=2))
        return
    for entry in files if list_ else ():
        print(f"{entry.kind:<11} results/{entry.path}")
    for run in planned if list_ else ():
        print(f"{run.stage:<11} results/{run.path}")
    print(_summary(study, loaded), flush=True)
    trained = Counter(run.stage for run in planned)
    wanted = asked(loaded)
    shared = (f"{stage} {wanted[stage]} asked for, {number} made" for stage, number in trained.items())
    print(f"runs shared: {', '.join(shared)}", flush=True)
    if not (no_estimate or list_):
        from apfl.estimate import estimate
        from apfl.statuspage import forecast

        print("\n".join(forecast(estimate(loaded, results))))


def check(study: StudyFile) -> None:
    """Check that a study could run: known keys, names and values, and the inputs that its methods need; and print how
    many images it trains and tests on.

    Its methods, generators and networks are made once, so this takes a few seconds.
    """
    from apfl.stages.dry import try_out
    from apfl.study import load_study

    loaded = load_study(study)
    try_out(loaded)
    print(_summary(study, loaded))
    for name in loaded.datasets({}):
        print(f"{name}: {_parts(loaded, name)}")


def status(
    study: StudyFile,
    results: Annotated[Path, typer.Option(help="Where the runs are.")] = Path("results"),
    json: Annotated[bool, typer.Option("--json", help="Print every job and the estimate for scripts.")] = False,
) -> None:
    """Show what is done, running, failed and waiting, how much is left, and the last error of each failed job.

    Reads files alone, so it works beside a running workflow and without one. results/NAME/study.json is a study too,
    with all that the command line of the workflow changed.
    """
    from apfl.status import jobs, left, planned
    from apfl.statuspage import as_json, show

    loaded = planned(study)
    found = jobs(loaded, results)
    if json:
        print(as_json(loaded.name, results, found, left(found)))
    else:
        show(loaded.name, results, found, left(found))


def _summary(path: Path, study: Any) -> str:
    from apfl.study import job_counts

    counts = job_counts(study)
    parts = ", ".join(f"{number} {kind}" for kind, number in counts.items())
    return f"{path}: study {study.name!r}, {len(study.seeds)} seed(s), {counts.total()} jobs ({parts})"


def _parts(study: Any, name: str) -> str:
    from apfl.data.sizes import parts_of

    parts = parts_of(study.data[name], name, study.validation)
    if parts is None:
        return "how many images it has is not known before it is read; a tenth of them is for tests"
    train, validation, test = parts
    aside = f", validates on {validation:,}" if validation else ""
    return f"trains on about {train:,} images{aside} and tests on {test:,}, of all clients together"


def _reference(docstring: str) -> str:
    """Authors, title and year of the BibTeX entry in a card; an empty text if it has none."""
    import re

    def entry(name: str) -> str:
        found = re.search(rf"\b{name}\s*=\s*\{{(.*?)\}}\s*[,}}]", docstring, re.DOTALL)
        return " ".join(found[1].split()) if found else ""

    authors = [author.split(",")[0] for author in entry("author").split(" and ")]
    names = authors[0] + (" et al." if len(authors) > 2 else f" and {authors[1]}" if len(authors) == 2 else "")
    return f"{names}: {entry('title')}, {entry('year')}" if entry("title") else ""


def _as_text(card: Any) -> str:
    from textwrap import fill, indent

    starts = f", on {card.base}" if card.base else ""
    needs = f", needs {' and '.join(card.needs)}" if card.needs else ""
    lines = [f"{card.module:<12} {card.title} ({card.stage}{starts}{needs})", indent(fill(card.summary, 104), "    ")]
    if reference := _reference(card.docstring):
        lines.append(indent(fill(reference, 104), "    "))
    width = max((len(f"{name} = {field.default!r}") for name, field in card.fields.items()), default=0)
    lines += [
        f"    {f'{name} = {field.default!r}':<{width}}  {field.doc}".rstrip() for name, field in card.fields.items()
    ]
    return "\n".join(lines) + "\n"


def _asynchronous(card: Any) -> str:
    """Whether the method runs on an asynchronous schedule, or with which hyper-parameters."""
    if isinstance(card.additive, bool):
        return "yes" if card.additive else "no"
    return "with " + ", ".join(f"`{name}` {value}" for name, value in card.additive.items())


def _as_markdown(card: Any) -> str:
    lines = [f"## {card.title} (`{card.module}`)", "", card.summary, ""]
    if reference := _reference(card.docstring):
        lines += [f"*{reference}.*", ""]
    facts = [f"stage: {card.stage}", f"shown model: {card.model}"]
    facts += [f"starts from: `{card.base}`"] if card.base else []
    facts += [f"needs: {', '.join(card.needs)}"] if card.needs else []
    facts += [f"asynchronous: {_asynchronous(card)}"] if card.stage == "federate" else []
    lines += ["; ".join(facts) + ".", ""]
    if card.fields:
        lines += ["| hyper-parameter | default | |", "| --- | --- | --- |"]
        lines += [f"| `{name}` | `{field.default!r}` | {field.doc} |" for name, field in card.fields.items()]
        lines.append("")
    return "\n".join(lines)
