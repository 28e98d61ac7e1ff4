"""``apfl pack``, ``unpack`` and ``merge``: results as a few small files, and back; results of several machines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apfl.cli.study import Results
from apfl.errors import UserError


def pack(
    study: Annotated[
        Path, typer.Argument(metavar="STUDY.json", help="The study as it was run, results/{study}/study.json.")
    ],
    out: Annotated[Path, typer.Option(help="The folder to write the archive to.")],
    results: Results = Path("results"),
    whole: Annotated[
        bool, typer.Option("--whole", help="Include the models, so that another machine can continue the runs.")
    ] = False,
) -> None:
    """Pack the metrics, records, partitions and pictures of all finished runs and, with --whole, their models."""
    from apfl.jobs import archive
    from apfl.study.load import load_study
    from apfl.study.parse import read

    loaded = load_study(study)
    if study.suffix != ".json":
        raise UserError(f"{study}: is not the study as it was run; give results/{loaded.name}/study.json")
    for path in archive.pack(loaded, archive.portable(read(study)[1]), results, out, whole):
        print(path)


def unpack(
    archive_folder: Annotated[Path, typer.Argument(metavar="ARCHIVE", help="A folder that `apfl pack` wrote.")],
    out: Annotated[Path, typer.Option(help="The results folder to create.")],
) -> None:
    """Unpack an archive into a results folder, from which tables, figures, claims and report can be made.

    The path of the unpacked study is printed.
    """
    from apfl.jobs import archive

    print(archive.unpack(archive_folder, out))


def merge(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="Results folders or archives.")],
    out: Annotated[Path, typer.Option(help="The results folder to create or to add to.")],
) -> None:
    """Merge the finished runs of several machines.

    Identical runs are taken once, and different runs with the same name are refused.
    """
    from apfl.jobs.merge import merge as merge_results

    runs, twice = merge_results(folders, out)
    print(f"{out}: {runs} runs, {twice} of them in more than one folder")
