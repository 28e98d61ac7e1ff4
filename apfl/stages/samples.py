"""Pictures of synthetic images beside real ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from apfl.data.dataset import load_dataset
from apfl.federation.problem import Problem
from apfl.memorization.generator import Memory
from apfl.storage.files import atomic_path
from apfl.streams import torch_stream

REAL, COLUMNS = 4, 8
CELL, GAP = 0.58, 2
"""Inches of an image with its margin, and pixels of the margin."""
SHOWN_CLASSES = 30


def sample_grid(path: Path, problem: Problem, memory: Memory, data: Path) -> None:
    """One row a class: four real images of the non-dropout clients' kind, then eight synthetic ones; unseen classes
    are marked.

    Of many classes the first are shown, and all unseen ones before them.
    """
    from matplotlib.figure import Figure

    names = load_dataset(data).class_names
    unseen = problem.unseen.nonzero().flatten().tolist()
    shown = (unseen + [label for label in range(problem.classes) if label not in unseen])[:SHOWN_CLASSES]
    labels = torch.tensor(shown, device=problem.engine.device).repeat_interleave(COLUMNS)
    images = memory.sample(labels, torch_stream(problem.seed, "pictures", device=problem.engine.device), problem.engine)
    images = images.permute(0, 2, 3, 1).cpu() * problem.images.std.cpu() + problem.images.mean.cpu()
    synthetic = images.clamp(0, 255).round().to(torch.uint8).numpy()
    columns = REAL + 1 + COLUMNS
    side = synthetic.shape[1] + GAP
    # One picture in one set of axes: axes of their own for each image take ten times as long.
    mosaic = np.full((side * len(shown), side * columns, 3), 255, dtype=np.uint8)
    for row, label in enumerate(shown):
        real = problem.images.pixels[(problem.images.labels == label).nonzero().flatten()[:REAL]].cpu().numpy()
        made = synthetic[row * COLUMNS : (row + 1) * COLUMNS]
        for column, picture in (*enumerate(real), *enumerate(made, start=REAL + 1)):
            top, left = row * side + GAP // 2, column * side + GAP // 2
            mosaic[top : top + side - GAP, left : left + side - GAP] = picture  # grey spreads over the colours
    height = CELL * len(shown) + 0.75
    figure = Figure(figsize=(CELL * columns / 0.82, height), layout="none", dpi=110)  # type: ignore[arg-type]
    axes = figure.add_axes((0.17, 0.1 / height, 0.82, CELL * len(shown) / height))
    axes.set_axis_off()
    axes.imshow(mosaic, interpolation="nearest", aspect="auto")
    for row, label in enumerate(shown):
        mark = " (unseen)" if label in unseen else ""
        axes.text(-0.01, 1 - (row + 0.5) / len(shown), f"{names[label]}{mark}", transform=axes.transAxes, ha="right",
                  va="center", fontsize=8, color="#b3400f" if mark else "black", parse_math=False)  # fmt: skip
    for text, column in (("real", REAL / 2), ("synthetic", REAL + 1 + COLUMNS / 2)):
        axes.text(column / columns, 1 + 0.2 / (CELL * len(shown)), text, transform=axes.transAxes, ha="center",
                  fontsize=10)  # fmt: skip
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


def no_samples(path: Path, why: str) -> None:
    """A picture that says why there are no synthetic images."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.2, 0.8), dpi=110)
    figure.text(0.5, 0.5, why, ha="center", va="center", fontsize=9)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
