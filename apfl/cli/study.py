"""``apfl methods``, ``plan``, ``check`` and ``status``: what there is, what a study would run, whether it can, and how
far it is."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import asdict
from json import dumps, loads
from pathlib import Path
from typing import Annotated, Any

import typer

from apfl.registry.pages import METHODS_PAGE, as_markdown, as_text

StudyFile = Annotated[Path, typer.Argument(help="A study, such as config/demo.yaml.")]


def _results(context: typer.Context, value: Path) -> Path:
    """Where the runs are: those of FOLDER/NAME/study.json in FOLDER, unless something else is said."""
    study: Path | None = context.params.get("study")
    source = context.get_parameter_source("results")
    if source is None or source.name != "DEFAULT" or study is None or study.name != "study.json":
        return value
    # Whoever reads the study says what is wrong with it.
    with suppress(OSError, ValueError, AttributeError, RecursionError):
        if loads(study.read_text(encoding="utf-8")).get("name") == study.absolute().parent.name:
            return study.parent.parent
    return value


Results = Annotated[
    Path,
    typer.Option(help="Folder of the runs; for a study FOLDER/NAME/study.json, by default FOLDER.", callback=_results),
]


def methods(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print as Markdown, for the documentation.")] = False,
) -> None:
    """List every method with its reference, its hyper-parameters and their defaults."""
    from apfl.registry.cards import methods as cards

    found = cards().values()
    if markdown:
        print(METHODS_PAGE)
    print("\n".join(as_markdown(card) if markdown else as_text(card) for card in found))


def plan(
    study: StudyFile,
    json: Annotated[bool, typer.Option("--json", help="Print every run with its specification and inputs.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="Print the path of everything that would be made.")] = False,
    no_estimate: Annotated[bool, typer.Option("--no-estimate", help="Leave out the estimate of the time.")] = False,
    results: Annotated[Path, typer.Option(help="Folder whose finished runs correct the estimate.")] = Path("results"),
) -> None:
    """Show what a study would run, without running it, and how long that would take on this machine.

    For the estimate, each method is run on a few random images.
    """
    from apfl.jobs.status import planned as read_study
    from apfl.study.cells import artefacts, asked, runs

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
        from apfl.estimate.estimate import estimate, in_words

        print("\n".join(in_words(estimate(loaded, results))))


def check(study: StudyFile) -> None:
    """Check that a study can run: its keys, names and values, and the inputs that its methods need.

    The number of images for training and for testing is printed too. The study's methods, generators and networks are
    created once, which takes a few seconds.
    """
    from apfl.paper.verdict.best import check_choice
    from apfl.stages.try_out import try_out
    from apfl.study.load import load_study

    loaded = load_study(study)
    notes = check_choice(loaded)
    try_out(loaded)
    print(_summary(study, loaded))
    for name in loaded.datasets({}):
        print(f"{name}: {_parts(loaded, name)}")
    print("\n".join([f"shown: {_shown(loaded)}", *notes]))


def status(
    study: StudyFile,
    results: Results = Path("results"),
    json: Annotated[bool, typer.Option("--json", help="Print every job and the estimate as JSON.")] = False,
) -> None:
    """Show which jobs are done, running, failed and waiting, how much time is left, and each failed job's last error.

    This command only reads files, so it works whether or not a workflow is running. You can also name
    results/NAME/study.json, which is the study with everything that the workflow's command line changed.
    """
    from apfl.jobs.status import jobs, left, planned
    from apfl.jobs.status_view import as_json, show

    loaded = planned(study)
    found = jobs(loaded, results)
    if json:
        print(as_json(loaded.name, results, found, left(found)))
    else:
        show(loaded.name, results, found, left(found))


def _summary(path: Path, study: Any) -> str:
    from apfl.study.cells import job_counts

    counts = job_counts(study)
    parts = ", ".join(f"{number} {kind}" for kind, number in counts.items())
    return f"{path}: study {study.name!r}, {len(study.seeds)} seed(s), {counts.total()} jobs ({parts})"


def _shown(study: Any) -> str:
    """Which tables and figures there will be, and whether with the paper's numbers."""
    if not (study.tables or study.figures):
        return "nothing, as the study has no tables and no figures; ask for one, such as `tables: {table2: {}}`"
    named = [", ".join(names) or f"no {kind}" for kind, names in (("tables", study.tables), ("figures", study.figures))]
    beside = "beside the paper's numbers and claims" if study.paper else "without the paper (`paper: true` adds it)"
    return f"{'; '.join(named)}; {beside}"


def _parts(study: Any, name: str) -> str:
    from apfl.data.catalogue import parts_of

    parts = parts_of(study.data[name], name, study.validation)
    if parts is None:
        return "how many images it has is not known before it is read; a tenth of them is for tests"
    train, validation, test = parts
    aside = f", validates on {validation:,}" if validation else ""
    return f"trains on about {train:,} images{aside} and tests on {test:,}, of all clients together"
