"""``apfl tune``: which trial of a method is chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apfl.cli.paper import StudyFile
from apfl.cli.study import Results

Dataset = Annotated[str, typer.Option(help="The data set; left out, all that the study tunes on.")]
Method = Annotated[str, typer.Option(help="The id of the method; left out, all that the study tunes.")]


def tune(study: StudyFile, results: Results = Path("results"), dataset: Dataset = "", method: Method = "") -> None:
    """Choose among the trials of each method by validation images, and write all trials with the chosen one."""
    from apfl.errors import UserError
    from apfl.jobs.paths import command
    from apfl.paper.numbers.metrics import collect
    from apfl.paper.numbers.tuning import choice, trials, with_digests
    from apfl.storage.files import write_json
    from apfl.study.load import load_study
    from apfl.study.tuning import choice_path

    loaded = load_study(study)
    tuned = trials(loaded)
    wanted = [key for key in tuned if dataset in ("", key[0]) and method in ("", key[1])]
    if not wanted:
        asked = " ".join(filter(None, (method, dataset and f"on {dataset}")))
        raise UserError(f"{study}: does not tune {asked or 'anything'}; see its section `tuning`")
    for key in wanted:
        metrics = collect(results, (run for cell in tuned[key] for run in cell.runs), command=command(study))
        path = results / choice_path(loaded, *key)
        write_json(path, with_digests(choice(tuned[key], metrics), results))
        print(path)
