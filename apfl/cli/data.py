"""``apfl data``, ``apfl partition``, ``apfl semantics``: the artefacts that every run starts from."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apfl.errors import UserError
from apfl.storage.files import expanded, require_output

if TYPE_CHECKING:
    from apfl.data.decode import Progress

Seed = Annotated[int, typer.Option(help="Seed of the random streams.", min=0)]
Out = Annotated[Path, typer.Option(help="The file to write (.npz); a picture (.png) is written beside it.")]


def data(
    name: Annotated[str, typer.Argument(help="Name of the data set, such as cifar10, emnist or ocr_letters.")],
    source: Annotated[str, typer.Option(help="One of digits, photos, torchvision, parquet, folder and nist_letters.")],
    out: Out,
    path: Annotated[Path | None, typer.Option(help="The folder of the data set.")] = None,
    root: Annotated[
        Path | None, typer.Option(help="Without --path, a folder in which each data set has a folder of its own name.")
    ] = None,
    max_samples: Annotated[
        int | None, typer.Option(help="Keep this many images, in the same class proportions.")
    ] = None,
    classes: Annotated[int | None, typer.Option(help="Number of classes that the data set must have.", min=2)] = None,
    seed: Seed = 0,
) -> None:
    """Write a data set of 32x32 images, with its official training, validation and test sets pooled."""
    from apfl.data.catalogue import folder_of
    from apfl.data.dataset import check_name, save_dataset
    from apfl.data.decode import make_dataset
    from apfl.data.plots import sample_picture
    from apfl.data.sources import SOURCES

    check_name(name)
    require_output(out, ".npz")
    if source not in SOURCES:
        raise UserError(f"source {source!r}: unknown; use one of {', '.join(SOURCES)}")
    folder = path if path is not None else root / folder_of(name) if root is not None else None
    folder = folder if folder is None else Path(expanded(folder, "--root" if path is None else "--path"))
    raw = SOURCES[source](name, folder)
    if classes not in (None, len(raw.class_names)):
        raise UserError(f"data set {name}: has {len(raw.class_names)} classes, not {classes}; correct the number")
    dataset = make_dataset(name, raw, max_samples, seed, _progress(name))
    sample_picture(out.with_suffix(".png"), dataset)
    save_dataset(out, dataset)


def partition(
    data: Annotated[Path, typer.Option(help="The data set (.npz).")],
    setting: Annotated[str, typer.Option(help="The setting in full, such as dirichlet-alpha0.1-clients5.")],
    out: Out,
    seed: Seed = 0,
    validation: Annotated[bool, typer.Option(help="Set aside 10 % of each client's images for validation.")] = False,
    saved: Annotated[
        Path | None, typer.Option(help="A saved partition (.npz) from which the setting natural takes its clients.")
    ] = None,
) -> None:
    """Distribute the images of a data set over clients."""
    from apfl.data.dataset import load_dataset
    from apfl.data.partition import load_partition, make_partition, save_partition
    from apfl.data.plots import partition_picture
    from apfl.data.setting import parse_setting

    require_output(out, ".npz")
    wanted = parse_setting(setting)
    dataset = load_dataset(data)
    if saved is not None and wanted.kind != "natural":
        raise UserError(f"--saved {saved}: is for the setting natural, not for {setting}; remove one of them")
    made = make_partition(dataset, wanted, seed, validation, None if saved is None else load_partition(saved))
    partition_picture(out.with_suffix(".png"), dataset, made)
    save_partition(out, made)


def clients(
    partition: Annotated[Path, typer.Argument(help="A partition (.npz) that `apfl partition` or a study made.")],
    data: Annotated[Path, typer.Option(help="The data set (.npz) that was partitioned.")],
    out: Annotated[Path, typer.Option(help="The file to write (.csv), with columns image, client and split.")],
    path: Annotated[
        Path | None,
        typer.Option(help="The image folder that the data set was made from, so that images are listed by file name."),
    ] = None,
) -> None:
    """Write a partition as a file clients.csv, which you can put beside the images."""
    from apfl.data.clients import write_clients
    from apfl.data.dataset import load_dataset
    from apfl.data.partition import check_match, load_partition
    from apfl.data.sources import image_names

    require_output(out, ".csv")
    dataset, shared = load_dataset(data), load_partition(partition)
    check_match(dataset, shared)
    write_clients(out, shared, image_names(dataset, None if path is None else Path(expanded(path, "--path"))))


def semantics(
    source: Annotated[str, typer.Option(help="One of packaged, table, w2v, bert, clip, onehot, random and shuffled.")],
    data: Annotated[Path, typer.Option(help="The data set (.npz) whose class names to embed.")],
    out: Annotated[Path, typer.Option(help="The file to write (.npz).")],
    name: Annotated[
        str | None, typer.Argument(help="Name of the embeddings, such as w2v or clip; by default, the file's name.")
    ] = None,
    path: Annotated[
        Path | None, typer.Option(help="A model or table; without it, w2v, bert and clip download their models.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Name of a model to use instead of the source's own.")] = None,
    template: Annotated[
        list[str] | None, typer.Option(help="Prompt with {} for the class name; repeat the option to average several.")
    ] = None,
    of: Annotated[Path | None, typer.Option(help="The table (.npz) to shuffle.")] = None,
    dimension: Annotated[int | None, typer.Option(help="Dimension of random embeddings.", min=1, max=1 << 20)] = None,
    seed: Seed = 0,
) -> None:
    """Write semantic embeddings of the class names of a data set."""
    from apfl.data.dataset import load_dataset
    from apfl.semantics.sources import embed
    from apfl.semantics.table import Semantics, save_semantics

    require_output(out, ".npz")
    dataset = load_dataset(data)
    given: dict[str, Any] = {"path": path, "model": model, "template": template, "of": of, "dimension": dimension}
    options = {key: value for key, value in given.items() if value}
    options |= {key: Path(expanded(options[key], f"--{key}")) for key in ("path", "of") if key in options}
    made = embed(source, dataset.class_names, {"dataset": dataset.name, "seed": seed}, options)
    save_semantics(out, Semantics(made.embedding, made.names, made.texts, {**made.source, "name": name or out.stem}))


def _progress(name: str) -> Progress:
    """A progress bar on a terminal, nothing elsewhere."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TimeRemainingColumn

    def show(items: Iterable[Any], total: int) -> Iterable[Any]:
        columns = (SpinnerColumn(), *Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
            yield from bar.track(items, total=total, description=f"decode {name}")

    return show
