"""``apfl data``, ``apfl partition``, ``apfl semantics``: the artefacts that every run starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apfl.errors import UserError

Seed = Annotated[int, typer.Option(help="Seed of the random streams.", min=0)]
Out = Annotated[Path, typer.Option(help="The file to write (.npz).")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (data, partition):
        app.command()(command)


def data(
    name: Annotated[str, typer.Argument(help="Name of the data set.")],
    out: Out,
    source: Annotated[str, typer.Option(help="digits.")],
    max_samples: Annotated[int | None, typer.Option(help="Keep this many images, classes in proportion.")] = None,
    seed: Seed = 0,
) -> None:
    """Write a data set: 32x32 images, train and test pooled."""
    from apfl.data.dataset import save_dataset
    from apfl.data.decode import make_dataset
    from apfl.data.sources import digits

    if source != "digits":
        raise UserError(f"source {source!r}: unknown; use digits")
    save_dataset(out, make_dataset(name, digits(), max_samples, seed))


def partition(
    data: Annotated[Path, typer.Option(help="The data set (.npz).")],
    setting: Annotated[str, typer.Option(help="What it is, spelled out, such as dirichlet-alpha0.1-clients5.")],
    out: Out,
    seed: Seed = 0,
) -> None:
    """Share the images of a data set among clients."""
    from apfl.data.dataset import load_dataset
    from apfl.data.partition import make_partition, save_partition
    from apfl.data.setting import parse_setting

    wanted = parse_setting(setting)
    save_partition(out, make_partition(load_dataset(data), wanted, seed))
