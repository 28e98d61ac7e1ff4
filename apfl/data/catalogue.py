"""The catalogue of data sets: one row for each that is known by its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a data set before it is read.

    title: what people call it; source: where it comes from where a study says nothing else (`apfl.data.sources`);
    images: official train and test parts together; channels: 1 for grey, 3 for colour; folder: the one that holds it,
    if it has another name; stands_in_for: the data set of the paper in whose place it is used; in_paper: does the paper
    print results on it?; short: its title where there is little room.
    """

    name: str
    title: str
    source: str
    classes: int
    images: int
    channels: int
    folder: str = ""
    stands_in_for: str = ""
    in_paper: bool = False
    short: str = ""

    @property
    def label(self) -> str:
        """Its title, with a remark if it stands in for another."""
        return f"{self.title} (stand-in)" if self.stands_in_for else self.title


CATALOGUE: Mapping[str, DatasetInfo] = {
    info.name: info
    for info in (
        DatasetInfo("cifar10", "CIFAR-10", "torchvision", 10, 60_000, 3, in_paper=True),
        DatasetInfo("cifar100", "CIFAR-100", "torchvision", 100, 60_000, 3, in_paper=True),
        DatasetInfo("emnist", "EMNIST letters", "torchvision", 26, 145_600, 1, in_paper=True, short="EMNIST"),
        DatasetInfo(
            "fashion_mnist", "Fashion-MNIST", "torchvision", 10, 70_000, 1, in_paper=True, short="Fashion-\nMNIST"
        ),
        DatasetInfo("digits", "Digits", "digits", 10, 1_797, 1),
        DatasetInfo("emnist_letters_a_to_l", "Letters A to L", "parquet", 12, 9_600, 1, stands_in_for="emnist"),
        DatasetInfo("ocr_letters", "OCR letters", "folder", 26, 52_152, 1, stands_in_for="emnist"),
        DatasetInfo(
            "nist_letters", "NIST letters", "nist_letters", 26, 4_994, 1, "nist_letters_small", stands_in_for="emnist"
        ),
        DatasetInfo("photos", "photos", "photos", 2, 1_950, 3),
    )
}
IN_PAPER = tuple(name for name, info in CATALOGUE.items() if info.in_paper)
"""The data sets of the paper, in its order."""
DOWNLOADS = tuple(name for name, info in CATALOGUE.items() if info.source == "torchvision")
"""What torchvision downloads."""
FOR_ONE = tuple(name for name, info in CATALOGUE.items() if info.source == name)
"""Sources of one data set each, which has their name."""
UNDER_ROOT = ("parquet", "folder", "nist_letters")
"""Sources that read a folder under a study's data_root."""
COLOURS = 3
"""Channels of a data set that is not known."""


def folder_of(name: str) -> str:
    """The folder of a data set, by default."""
    return CATALOGUE[name].folder or name if name in CATALOGUE else name


def size_of(entry: Mapping[str, Any], name: str) -> int | None:
    """How many images a study takes of the data set ``name``, whose section of the study is ``entry``; None if that
    is not known before it is read."""
    known, most = CATALOGUE[name].images if name in CATALOGUE else None, entry.get("max_samples")
    return min(known, most) if known and most else known or most or None


def parts_of(entry: Mapping[str, Any], name: str, validation: bool) -> tuple[int, int, int] | None:
    """About how many images a study trains on, validates on and tests on, of all clients together; None if that is
    unknown before the data set is read. Each client's part is rounded, so a partition may have some more or fewer."""
    if (size := size_of(entry, name)) is None:
        return None
    tested = (size + 5) // 10
    rest = entry.get("train_samples") or size - tested
    aside = (rest + 5) // 10 if validation else 0
    return rest - aside, aside, tested


def images_of(entry: Mapping[str, Any]) -> str:
    """How many images a study has of a data set, in words.

    >>> images_of({}), images_of({"max_samples": 3000})
    ('all images', '3,000 images')
    >>> images_of({"train_samples": 6000})
    '6,000 training images and all test images'
    """
    if train := entry.get("train_samples"):
        most = entry.get("max_samples")
        return f"{train:,} training images and all test images" + (f" of {most:,} images" if most else "")
    return f"{entry['max_samples']:,} images" if entry.get("max_samples") else "all images"


def channels_of(name: str) -> int:
    """1 for grey, 3 for colour, and for data sets that are not known."""
    return CATALOGUE[name].channels if name in CATALOGUE else COLOURS
