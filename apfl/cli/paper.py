"""``apfl tables``, ``figures``, ``report``, ``check-tables`` and ``tune``: what is made of a study's finished runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apfl.cli.study import Results
from apfl.errors import UserError
from apfl.storage.files import write_json, write_text

if TYPE_CHECKING:
    from apfl.paper.numbers.metrics import Metrics
    from apfl.study.cells import Cell
    from apfl.study.runs import Run

StudyFile = Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The study's configuration file.")]
Out = Annotated[Path | None, typer.Option(help="Where to write; by default, under results/{study}.")]
Partial = Annotated[bool, typer.Option("--partial", help="Leave out unfinished runs, and say so.")]
Only = Annotated[list[str] | None, typer.Option(help="Make only this one; can be given several times.")]
Dataset = Annotated[str, typer.Option(help="The data set; by default, all on which the study tunes.")]
Method = Annotated[str, typer.Option(help="The id of the method; by default, all that the study tunes.")]


def tables(
    study: StudyFile, results: Results = Path("results"), out: Out = None, partial: Partial = False, only: Only = None
) -> None:
    """Make the study's tables as CSV, Markdown, LaTeX and HTML, with the published numbers in a study of the paper."""
    from apfl.paper.numbers.metrics import Metrics
    from apfl.paper.tables.build import table
    from apfl.paper.tables.formats import write
    from apfl.study.cells import cells, runs
    from apfl.study.load import load_study

    loaded = load_study(study)
    folder, planned = out or results / loaded.name / "tables", runs(loaded)

    def make(name: str) -> list[Path]:
        # Table 1 reads a partition, which has no metrics.
        metrics = Metrics({}, {})
        if name != "table1":
            metrics = _metrics(study, results, cells(loaded, name), planned, partial)
        return write(table(loaded, name, results, metrics, partial), folder)

    _print_each(loaded.tables, only, make)


def figures(
    study: StudyFile, results: Results = Path("results"), out: Out = None, partial: Partial = False, only: Only = None
) -> None:
    """Draw the study's figures on the pooled and the own test as SVG, PDF and PNG, with the plotted points as CSV."""
    from apfl.paper.figures.files import write
    from apfl.study.cells import cells, runs
    from apfl.study.load import load_study

    loaded = load_study(study)
    folder, planned = out or results / loaded.name / "figures", runs(loaded)

    def make(name: str) -> list[Path]:
        ours = cells(loaded, name)
        return write(name, ours, _metrics(study, results, ours, planned, partial), folder, loaded.paper)

    _print_each(loaded.figures, only, make)


def report(study: StudyFile, results: Results = Path("results"), out: Out = None) -> None:
    """Write one self-contained HTML page with the tables, the figures and the origin of every number.

    You can make the page at any time: it lists what has not been run, with the command that makes it.
    """
    from apfl.paper.report.report import build
    from apfl.study.load import load_study

    loaded = load_study(study)
    path = out or results / loaded.name / "report.html"
    write_text(path, build(loaded, results, study))
    print(path)


def check_tables(study: StudyFile, results: Results = Path("results"), out: Out = None) -> None:
    """List the cells of the written tables that should hold a number but do not; exit with status 1 if there is one."""
    from apfl.paper.numbers.metrics import Metrics
    from apfl.paper.tables.build import table
    from apfl.paper.tables.formats import csv
    from apfl.paper.tables.holes import holes
    from apfl.study.load import load_study

    loaded = load_study(study)
    folder = out or results / loaded.name / "tables"
    empty = {name: csv(table(loaded, name, results, Metrics({}, {}), partial=True)) for name in sorted(loaded.tables)}
    found = [line for name, rows in empty.items() for line in holes(folder / f"{name}.csv", rows)]
    for line in found:
        print(line)
    if found:
        raise typer.Exit(1)
    print(f"{folder}: every cell that the study runs holds a number")


def tune(study: StudyFile, results: Results = Path("results"), dataset: Dataset = "", method: Method = "") -> None:
    """Choose a trial of each method by its accuracy on validation images, and write all trials with the chosen one."""
    from apfl.paper.numbers.tuning import choice, trials, with_digests
    from apfl.study.cells import runs
    from apfl.study.load import load_study
    from apfl.study.tuning import choice_path

    loaded = load_study(study)
    tuned, planned = trials(loaded), runs(loaded)
    wanted = [key for key in tuned if dataset in ("", key[0]) and method in ("", key[1])]
    if not wanted:
        asked = " ".join(filter(None, (method, dataset and f"on {dataset}")))
        raise UserError(f"{study}: does not tune {asked or 'anything'}; see its section `tuning`")
    for key in wanted:
        path = results / choice_path(loaded, *key)
        metrics = _metrics(study, results, tuned[key], planned)
        write_json(path, with_digests(choice(tuned[key], metrics), results))
        print(path)


def _print_each(known: Iterable[str], only: Sequence[str] | None, make: Callable[[str], list[Path]]) -> None:
    """Make those of the known tables or figures that are wanted, and print their files."""
    known = sorted(known)
    for name in only or ():
        if name not in known:
            raise UserError(f"--only {name}: not part of this study; it has {', '.join(known) or 'none'}")
    for path in (path for name in known if not only or name in only for path in make(name)):
        print(path)


def _metrics(
    study: Path, results: Path, cells: Sequence[Cell], planned: Sequence[Run], partial: bool | None = None
) -> Metrics:  # fmt: skip
    from apfl.jobs.paths import command
    from apfl.paper.numbers.metrics import collect

    wanted = (run for cell in cells for run in (*cell.runs, *cell.origins))
    return collect(results, wanted, partial, command(study), planned)
