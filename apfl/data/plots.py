"""Pictures of the data artefacts: who holds what, and what the images look like."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import compress
from typing import TYPE_CHECKING, Any

import numpy as np

from apfl.data.dataset import SIZE, Dataset
from apfl.data.partition import Partition, count
from apfl.storage.files import atomic_path
from apfl.streams import numpy_stream

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

BLUE, PALE_BLUE, RED, PALE_RED, TINT, LINE, INK = (
    "#2f6c9e", "#a9c6dd", "#c8354b", "#eba9b2", "#fcedef", "#e4e7eb", "#2b2d33"
)  # fmt: skip
SINGLE, ROWS = 200, 1200
"""Up to how many clients each has a bubble in the picture of a partition; and the rows of dots for more of them."""


def partition_picture(path: str | os.PathLike[str], dataset: Dataset, partition: Partition) -> None:
    """Write a PNG with a bubble for each client and class, its area the number of images; of more than `SINGLE` clients
    the share of each class among a client's images, as a shade.

    Clients that drop out, and the classes that nobody else holds, are red. A bar at the right of each client shows how
    many images it has, its test images in a lighter shade.
    """
    held = count(dataset.labels, partition.client, partition.clients, dataset.classes)
    many = partition.clients > SINGLE
    cell = float(np.clip(840 / dataset.classes, 8.4, 26.0))
    row = max(cell, 15.0)
    width, height = cell * dataset.classes, 440.0 if many else row * partition.clients
    longest = max(len(name) for name in dataset.class_names)
    left, right, bottom, gap, bar = 52.0, 40.0, 14.0 + 4.2 * longest, 14.0, 90.0
    drops = 12.0 if partition.dropout.any() else 0.0  # room for one line more
    top = 38.0 + drops
    figure = _figure(left + width + gap + bar + right, bottom + height + top)
    axes, beside = _axes(figure, left, bottom, width, height), _axes(figure, left + width + gap, bottom, bar, height)
    if many:
        _draw_shades(axes, beside, held, partition)
    else:
        _draw_bubbles(axes, held, partition, cell)
        _draw_totals(beside, held, partition)
    _label_classes(axes, dataset.class_names, partition.unseen, cell)

    specification = partition.specification
    draws = f", draw {specification['draws']}" if specification["draws"] > 1 else ""
    unused = f", {int((partition.client < 0).sum()):,} unused" if (partition.client < 0).any() else ""
    lines = [
        (22.0 + drops, f"{dataset.name}  {specification['setting']}", {"fontsize": 9.5, "fontweight": "bold"}),
        (
            9.0 + drops,
            f"{held.sum():,} images{unused}, seed {specification['seed']}{draws}; "
            + ("the darker, the larger a class's share" if many else f"largest bubble {held.max():,}"),
            {},
        ),
    ]
    if drops:
        lines.append((9.0, "red: clients that drop out, and classes that no other client holds", {"color": RED}))
    for above, text, style in lines:
        _write(figure, left, bottom + height + above, text, **style)
    _save(figure, path)


def sample_picture(path: str | os.PathLike[str], dataset: Dataset, per_class: int = 16, columns: int = 10) -> None:
    """Write a PNG with ``per_class`` images of each class, chosen at random but always the same ones."""
    columns = min(columns, dataset.classes)
    bands = -(-dataset.classes // columns)
    side, gap, heading = 20.0, 7.0, 11.0
    across = max(1, round(per_class**0.5))
    down = -(-per_class // across)
    block_width, block_height = across * side, down * side + heading
    width, height = columns * (block_width + gap) + gap, bands * (block_height + gap) + 26
    figure = _figure(width, height)
    _write(figure, gap, height - 16, f"{dataset.name}  {len(dataset):,} images", fontsize=9.5, fontweight="bold")
    for label, name in enumerate(dataset.class_names):
        positions = np.flatnonzero(dataset.labels == label)
        chosen = numpy_stream(0, "sample picture", client=label).permutation(positions)[:per_class]
        left = gap + (label % columns) * (block_width + gap)
        bottom = height - 26 - block_height - (label // columns) * (block_height + gap)
        axes = _axes(figure, left, bottom, block_width, block_height - heading)
        axes.imshow(
            _mosaic(dataset.images[chosen], across, down), cmap="gray", vmin=0, vmax=255, interpolation="nearest"
        )
        axes.set_axis_off()
        _write(figure, left, bottom + block_height - heading + 3, name, fontsize=6)
    _save(figure, path)


def _draw_bubbles(axes: Axes, held: np.ndarray, partition: Partition, cell: float) -> None:
    clients, classes = held.shape
    axes.set(xlim=(-0.5, classes - 0.5), ylim=(clients - 0.5, -0.5))
    for client in np.flatnonzero(partition.dropout):
        axes.axhspan(client - 0.5, client + 0.5, color=TINT, linewidth=0, zorder=0)
    for label in np.flatnonzero(partition.unseen):
        axes.axvspan(label - 0.5, label + 0.5, color=TINT, linewidth=0, zorder=0)
    axes.hlines(np.arange(clients), -0.5, classes - 0.5, color=LINE, linewidth=0.6, zorder=1)
    axes.vlines(np.arange(classes), -0.5, clients - 0.5, color=LINE, linewidth=0.6, zorder=1)
    client, label = np.nonzero(held)
    # A marker's size is the square of its diameter in points; a single image must stay visible.
    sizes = np.maximum(1.5, (0.94 * cell) ** 2 * held[client, label] / held.max())
    colours = np.where(partition.unseen[label], RED, BLUE)
    axes.scatter(label, client, s=sizes, c=colours, linewidths=0, zorder=2)
    axes.set_yticks(np.arange(clients), [f"client {client}" for client in range(clients)], fontsize=7.5, color=INK)
    _mark(axes.get_yticklabels(), partition.dropout)


def _draw_shades(axes: Axes, beside: Axes, held: np.ndarray, partition: Partition) -> None:
    """Clients in the order of their largest class and its share, those that drop out last; beside, how many images each
    has."""
    from matplotlib.colors import to_rgb

    totals, train = held.sum(axis=1), partition.counts.sum(axis=1)
    share = held / np.maximum(1, totals)[:, None]
    order = np.lexsort((-share.max(axis=1), share.argmax(axis=1), partition.dropout))
    clients, classes = held.shape
    colours = np.where((partition.dropout[order, None] | partition.unseen)[..., None], to_rgb(RED), to_rgb(BLUE))
    shades = 1 - share[order, :, None] * (1 - colours)
    rows = np.unique(np.linspace(0, clients, ROWS + 1).astype(int))  # of more clients than dots neighbours are averaged
    shades = np.add.reduceat(shades, rows[:-1]) / np.diff(rows)[:, None, None]
    axes.imshow(shades, aspect="auto", interpolation="nearest", extent=(-0.5, classes - 0.5, clients, 0))
    axes.vlines(np.arange(classes + 1) - 0.5, 0, clients, color=LINE, linewidth=0.6)
    if dropped := int(partition.dropout.sum()):  # among so many, one or two of them would not be seen
        axes.axhspan(clients - dropped, clients, fill=False, edgecolor=RED, linewidth=1.0, clip_on=False)
    ticks = np.linspace(0, clients, 6).astype(int)[1:]
    axes.set_yticks(ticks, [f"{tick:,}" for tick in ticks], fontsize=7.5, color=INK)
    axes.set_ylabel("clients, by their largest class", fontsize=7.5, color=INK)
    edges = np.arange(clients + 1)
    for counts, blue, red in ((totals, PALE_BLUE, PALE_RED), (train, BLUE, RED)):
        for of, colour in ((~partition.dropout, blue), (partition.dropout, red)):
            if of.any():
                beside.stairs(np.where(of, counts, 0)[order], edges, orientation="horizontal", fill=True, color=colour)
    beside.set(xlim=(0, totals.max()), ylim=(clients, 0))
    beside.set_axis_off()
    beside.annotate(
        f"train, test; most {totals.max():,}", (0, 1), (0, 4), xycoords="axes fraction", textcoords="offset points",
        fontsize=6.5, color=INK,
    )  # fmt: skip


def _label_classes(axes: Axes, names: tuple[str, ...], unseen: np.ndarray, cell: float) -> None:
    short = max(len(name) for name in names) <= 2
    steep = {"rotation": 0} if short else {"rotation": 90} if cell < 15 else {"rotation": 40, "ha": "right"}
    mode: dict[str, Any] = {"parse_math": False} | ({} if short or cell < 15 else {"rotation_mode": "anchor"})
    axes.set_xticks(np.arange(len(names)), names, fontsize=min(7.5, 0.74 * cell), color=INK, **steep, **mode)
    _mark(axes.get_xticklabels(), unseen)
    axes.tick_params(length=0, pad=3)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _mark(labels: Sequence[Text], marked: np.ndarray) -> None:
    for label in compress(labels, marked):
        label.set(color=RED, fontweight="bold")


def _draw_totals(axes: Axes, held: np.ndarray, partition: Partition) -> None:
    totals, train = held.sum(axis=1), partition.counts.sum(axis=1)
    clients = np.arange(len(totals))
    axes.barh(clients, totals, height=0.62, color=np.where(partition.dropout, PALE_RED, PALE_BLUE))
    axes.barh(clients, train, height=0.62, color=np.where(partition.dropout, RED, BLUE))
    for client, total in enumerate(totals):
        axes.annotate(
            f"{total:,}", (total, client), (3, 0), textcoords="offset points", va="center", fontsize=6.5, color=INK
        )
    axes.set(xlim=(0, totals.max()), ylim=(len(totals) - 0.5, -0.5))
    axes.set_axis_off()
    axes.annotate(
        "train, test", (0, 1), (0, 4), xycoords="axes fraction", textcoords="offset points", fontsize=6.5, color=INK
    )


def _mosaic(images: np.ndarray, across: int, down: int) -> np.ndarray:
    """uint8 [down * 34, across * 34, C], white around the images and where there are too few of them."""
    cell = SIZE + 2
    sheet = np.full((across * down, images.shape[1], cell, cell), 255, np.uint8)
    sheet[: len(images), :, 1:-1, 1:-1] = images
    return sheet.reshape(down, across, -1, cell, cell).transpose(0, 3, 1, 4, 2).reshape(down * cell, across * cell, -1)


def _figure(width: float, height: float) -> Figure:
    """An empty figure of this size in points."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width / 72, height / 72), facecolor="white")


def _axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes at a place in the figure, in points."""
    across, up = figure.get_size_inches() * 72
    return figure.add_axes((left / across, bottom / up, width / across, height / up))


def _write(figure: Figure, left: float, bottom: float, text: str, **style: Any) -> None:
    across, up = figure.get_size_inches() * 72
    figure.text(left / across, bottom / up, text, **{"fontsize": 7, "color": INK, "parse_math": False, **style})


def _save(figure: Figure, path: str | os.PathLike[str]) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=200)
