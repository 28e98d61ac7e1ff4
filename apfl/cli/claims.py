"""``apfl claims``: the paper's claims, each with a verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apfl.cli.paper import Out, Partial
from apfl.cli.study import Results
from apfl.errors import UserError

StudyFile = Annotated[Path | None, typer.Argument(metavar="STUDY.yaml", help="The study's configuration file.")]
Page = Annotated[bool, typer.Option("--page", help="Print the documentation of the claims and of how they are judged.")]
ShowPower = Annotated[bool, typer.Option("--power", help="Also print what the study could find out about each claim.")]


def claims(
    study: StudyFile = None,
    results: Results = Path("results"),
    out: Out = None,
    partial: Partial = False,
    page: Page = False,
    power: ShowPower = False,
) -> None:
    """Judge each claim of the paper as reproduced, contradicted, open, nothing to judge or not run.

    The verdicts are written as JSON, CSV and Markdown. Beside them are written a picture of the verdicts, the published
    beside the reproduced numbers, the ranks of the methods, the spread over clients, the choice of the reading, the
    teachers of the friends and the controls. Without the paper, a study gets only the ranks and what follows.

    Missing runs never stop this command, with or without --partial. They are listed with the command that makes them,
    and a verdict that needs them is interim.
    """
    from apfl.paper.verdict.claims_page import page as claims_page

    if page:
        print(claims_page(), end="")
        return
    if study is None:
        raise UserError("claims: no study named; give its file, such as config/demo.yaml")
    from apfl.jobs.paths import command
    from apfl.paper import outputs as beside
    from apfl.paper.verdict.document import document, power_lines, summary_lines, write
    from apfl.paper.verdict.verdicts import findings
    from apfl.study.load import load_study

    loaded = load_study(study)
    metrics = beside.gather(loaded, results, command(study))
    folder = out or results / loaded.name / "verdict"
    if not loaded.paper:
        for path in beside.write(loaded, metrics, (), folder):
            print(path)
        print(f"{study}: a study without the paper, whose claims are not judged; write `paper: true` to judge them")
        return
    judged = findings(loaded, metrics)
    made = document(loaded, study, judged)
    for path in (*write(made, folder), *beside.write(loaded, metrics, judged, folder)):
        print(path)
    for line in (*summary_lines(made), *(power_lines(made) if power else ())):
        print(line)
