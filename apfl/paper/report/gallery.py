"""Pictures for a page: who holds what in each partition, and what the generators made."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np

from apfl.errors import UserError
from apfl.paper.labels import dataset_label, semantics_label, setting_label
from apfl.storage.files import read_npz
from apfl.study.runs import Artefact, Run, generators
from apfl.study.study import Study

CELL, CELL_OF_MANY = 18, 7
"""Pixels that a class is wide: in a partition of up to 30 classes, and of more."""
ROW = 18
LEFT, TOP, RIGHT = 62, 18, 52
SAMPLES = "samples.png"
"""What a generator's images are called in the folder of its run."""
SIZES = ((760, 72), (560, 65), (420, 60))
"""Width in pixels and quality of the pictures of synthetic images: the first with which all fit on the page."""
PICTURES_AT_MOST = 1_000_000
"""Bytes of all these pictures on a page together; those beyond are named and not shown."""


@dataclass(frozen=True)
class Bubble:
    """A client's training images of one class; a circle whose area is their number."""

    client: int
    label: int
    count: int
    x: float
    y: float
    radius: float
    unseen: bool


@dataclass(frozen=True)
class Drawing:
    """A partition as circles: ``clients`` are (name, does it drop out, height of its row, its images)."""

    title: str
    description: str
    width: int
    height: int
    ticks: tuple[tuple[float, int], ...]
    clients: tuple[tuple[int, bool, float, int], ...]
    bubbles: tuple[Bubble, ...]


@dataclass(frozen=True)
class Missing:
    """A picture that cannot be shown, and why."""

    title: str
    why: str


def partitions(study: Study, made: Sequence[Artefact], results: Path) -> list[Drawing | Missing]:
    """A drawing of each partition of the study's first seed, among the files that it makes."""
    wanted = [entry for entry in made if entry.kind == "partition" and entry.spec["seed"] == study.seeds[0]]
    drawn: list[Drawing | Missing] = []
    for entry in sorted(wanted, key=lambda entry: entry.path):
        title = f"{dataset_label(entry.spec['dataset'])}, {setting_label(entry.spec['setting'])}"
        if (path := results / entry.path).is_file():
            held = read_npz(path, "partition", ("counts", "dropout", "unseen"))
            drawn.append(draw(title, held["counts"], held["dropout"].astype(bool), held["unseen"].astype(bool)))
        else:
            drawn.append(Missing(title, f"{entry.path} has not been made"))
    return drawn


def draw(title: str, counts: np.ndarray, dropout: np.ndarray, unseen: np.ndarray) -> Drawing:
    """Lay out ``counts``, int [clients, classes], as circles in pixels; ``dropout`` says which clients drop out, and
    ``unseen`` which classes they alone hold."""
    clients, classes = counts.shape
    cell = CELL if classes <= 30 else CELL_OF_MANY
    largest = max(1, int(counts.max(initial=0)))
    bubbles = tuple(
        Bubble(
            client=int(client),
            label=int(label),
            count=int(counts[client, label]),
            x=LEFT + cell * (label + 0.5),
            y=TOP + ROW * (client + 0.5),
            # One image must be seen beside thousands.
            radius=round(max(0.7, 0.48 * cell * sqrt(counts[client, label] / largest)), 1),
            unseen=bool(unseen[label]),
        )
        for client, label in np.argwhere(counts > 0)
    )
    step = 1 if classes <= 30 else 10
    missing = f"; {int(unseen.sum())} classes are held only by clients that drop out" if unseen.any() else ""
    return Drawing(
        title=title,
        description=f"{title}: training images of {classes} classes on {clients} clients, "
        f"{int(counts.sum()):,} in all, at most {largest:,} of a class on a client{missing}.",
        width=LEFT + cell * classes + RIGHT,
        height=TOP + ROW * clients + 4,
        ticks=tuple((LEFT + cell * (label + 0.5), label) for label in range(0, classes, step)),
        clients=tuple(
            (client, bool(dropout[client]), TOP + ROW * (client + 0.5), int(counts[client].sum()))
            for client in range(clients)
        ),
        bubbles=bubbles,
    )


@dataclass(frozen=True)
class GeneratorImages:
    """A generator's images as a data URI, and how large they are shown."""

    title: str
    uri: str
    width: int
    height: int


def samples(
    planned: Sequence[Run], records: Mapping[str, Mapping[str, Any]], results: Path
) -> list[GeneratorImages | Missing]:
    """For each data set and semantics the images of a generator: of the lowest seed, where most classes are missing."""
    found: dict[str, Run | None] = {}
    for (dataset, semantics), alike in sorted(generators(planned).items()):
        done = (run for run in alike if run.path in records and (results / run.path / SAMPLES).is_file())
        found[f"{dataset_label(dataset)}, {semantics_label(semantics)}"] = next(done, None)
    pictures: dict[str, GeneratorImages] = {}
    for width, quality in SIZES:
        pictures = {title: _sample(title, run, results, width, quality) for title, run in found.items() if run}
        if sum(len(picture.uri) for picture in pictures.values()) <= PICTURES_AT_MOST:
            break
    sizes = accumulate(len(pictures[title].uri) if run else 0 for title, run in found.items())
    return [
        Missing(title, "no generator has left a picture yet")
        if run is None
        else pictures[title]
        if size <= PICTURES_AT_MOST
        else Missing(title, f"not shown, as the page would become too large; see {run.path}/{SAMPLES}")
        for (title, run), size in zip(found.items(), sizes, strict=True)
    ]


def _sample(title: str, run: Run, results: Path, width: int, quality: int) -> GeneratorImages:
    from PIL import Image

    try:
        with Image.open(results / run.path / SAMPLES) as picture:
            flat = Image.new("RGB", picture.size, "white")
            flat.paste(picture, mask=picture.getchannel("A") if picture.mode == "RGBA" else None)
    except (OSError, SyntaxError, ValueError):  # what Pillow raises for damaged files
        raise UserError(f"{run.path}/{SAMPLES}: not a picture; remove the run's folder and run it again") from None
    flat.thumbnail((width, 10 * width), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    flat.save(stream, format="JPEG", quality=quality, optimize=True)
    text = base64.b64encode(stream.getvalue()).decode()
    where = f"{title}: generator on {run.spec['base']}, {run.setting}, seed {run.seed}"
    return GeneratorImages(where, f"data:image/jpeg;base64,{text}", *flat.size)
