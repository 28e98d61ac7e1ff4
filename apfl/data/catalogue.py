"""Of the known data sets: how many images they have, official train and test parts together, how many channels, and
which folder holds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SIZES: Mapping[str, tuple[int, int]] = {
    "digits": (1797, 1),
    "photos": (1950, 3),
    "cifar10": (60_000, 3),
    "cifar100": (60_000, 3),
    "emnist": (145_600, 1),
    "fashion_mnist": (70_000, 1),
    "emnist_letters_a_to_l": (9_600, 1),
    "ocr_letters": (52_152, 1),
    "nist_letters": (4_994, 1),
}
FOLDERS: Mapping[str, str] = {"nist_letters": "nist_letters_small"}
"""The folder of a data set that has another name."""
COLOURS = 3
"""Channels of a data set that is not among them."""


def size_of(entry: Mapping[str, Any], name: str) -> int | None:
    """How many images a study takes of the data set ``name``, whose section of the study is ``entry``; None if nobody
    knows before it is read."""
    known, most = SIZES.get(name, (None, COLOURS))[0], entry.get("max_samples")
    return min(known, most) if known and most else known or most


def parts_of(entry: Mapping[str, Any], name: str, validation: bool) -> tuple[int, int, int] | None:
    """About how many images a study trains on, validates on and tests on, of all clients together; None if nobody knows
    before the data set is read. Each client's part is rounded, so a partition may have a few more or fewer."""
    if (size := size_of(entry, name)) is None:
        return None
    tested = (size + 5) // 10
    rest = entry.get("train_samples") or size - tested
    aside = (rest + 5) // 10 if validation else 0
    return rest - aside, aside, tested


def thinning(entry: Mapping[str, Any]) -> str:
    """What is said of a data set after the number of its images.

    >>> thinning({"max_samples": 3000}), thinning({"train_samples": 6000})
    ('', ' with training parts thinned to 6,000')
    """
    return f" with training parts thinned to {entry['train_samples']:,}" if entry.get("train_samples") else ""


def channels_of(name: str) -> int:
    """1 for grey, 3 for colour, and for data sets that are not known."""
    return SIZES.get(name, (0, COLOURS))[1]


CLASSES: Mapping[str, int] = {
    "digits": 10,
    "cifar10": 10,
    "cifar100": 100,
    "emnist": 26,
    "fashion_mnist": 10,
    "emnist_letters_a_to_l": 12,
    "ocr_letters": 26,
    "nist_letters": 26,
    "photos": 2,
}


DOWNLOADS = ("cifar10", "cifar100", "emnist", "fashion_mnist")


DATASET_LABELS = {
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "emnist": "EMNIST letters",
    "fashion_mnist": "Fashion-MNIST",
    "digits": "Digits",
    "emnist_letters_a_to_l": "Letters A to L (stand-in)",
    "ocr_letters": "OCR letters (stand-in)",
    "nist_letters": "NIST letters (stand-in)",
}
