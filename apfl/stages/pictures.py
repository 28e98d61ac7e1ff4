"""Pictures of synthetic images beside real ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from apfl.artifacts import atomic_path
from apfl.data.dataset import load_dataset
from apfl.federation import Problem
from apfl.memorization import Memory
from apfl.streams import torch_stream

COLUMNS = 8
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
    synthetic = _displayable(images.permute(0, 2, 3, 1).cpu() * problem.images.std.cpu() + problem.images.mean.cpu())
    figure = Figure(figsize=(9.2, 0.62 * len(shown) + 0.9), layout="none", dpi=110)
    axes = figure.subplots(len(shown), COLUMNS + 5, squeeze=False, gridspec_kw={"wspace": 0.06, "hspace": 0.08})
    figure.subplots_adjust(left=0.17, right=0.99, bottom=0.01, top=1 - 0.75 / (0.62 * len(shown) + 0.9))
    for row, label in enumerate(shown):
        real = (problem.images.labels == label).nonzero().flatten()[:4]
        pictures = [problem.images.pixels[index].cpu().numpy() for index in real]
        for axis in axes[row]:
            axis.set_axis_off()
        for axis, picture in zip(axes[row], pictures, strict=False):
            _show(axis, picture)
        for axis, picture in zip(axes[row][5:], synthetic[row * COLUMNS : (row + 1) * COLUMNS], strict=True):
            _show(axis, picture)
        mark = " (unseen)" if label in unseen else ""
        axes[row][0].text(-0.15, 0.5, f"{names[label]}{mark}", transform=axes[row][0].transAxes, ha="right",
                          va="center", fontsize=8, color="#b3400f" if mark else "black", parse_math=False)  # fmt: skip
    figure.text(0.27, 1 - 0.42 / (0.62 * len(shown) + 0.9), "real", ha="center", fontsize=10)
    figure.text(0.70, 1 - 0.42 / (0.62 * len(shown) + 0.9), "synthetic", ha="center", fontsize=10)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


def no_samples(path: Path, why: str) -> None:
    """A picture that says why there are no synthetic images."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.2, 0.8), dpi=110)
    figure.text(0.5, 0.5, why, ha="center", va="center", fontsize=9)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


def _displayable(images: torch.Tensor) -> np.ndarray:
    return images.clamp(0, 255).round().to(torch.uint8).numpy()


def _show(axis, picture: np.ndarray) -> None:
    grey = picture.shape[-1] == 1
    axis.imshow(
        picture[..., 0] if grey else picture, cmap="gray" if grey else None, vmin=0, vmax=255, interpolation="nearest"
    )
