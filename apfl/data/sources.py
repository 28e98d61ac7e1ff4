"""Where images come from: one function a source, called with the data set's name and the folder that holds it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from apfl.data.clients import FILE, clients_in, read_clients
from apfl.data.dataset import NOBODY, Dataset
from apfl.data.decode import subset
from apfl.data.downloads import check_extracted
from apfl.data.layout import Classes, image_classes
from apfl.data.raw import Raw, decode, from_array, leave_out, required, sha256
from apfl.errors import UserError, require
from apfl.optional import optional
from apfl.storage.files import first_line, sha256_file

if TYPE_CHECKING:
    from PIL import Image

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LETTERS = tuple("abcdefghijklmnopqrstuvwxyz")


def digits(name: str, folder: Path | None = None) -> Raw:
    """The 1,797 handwritten 8x8 digits that scikit-learn carries; values 0 to 16 become 0 to 255."""
    from sklearn.datasets import load_digits

    if name != "digits":
        raise UserError(f"data set {name!r}: the source digits holds the data set digits alone; use its name")
    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    labels = bunch.target.astype(np.int64)
    source = {"kind": "digits", "sha256": sha256([pixels.tobytes(), labels.tobytes()])}
    return Raw(labels, DIGITS, from_array(pixels), source)


def photos(name: str, folder: Path | None = None) -> Raw:
    """Patches of 32x32 pixels from the two sample photographs that scikit-learn carries, each half a patch apart.

    Natural images of no data set's classes: the unlabelled proxy for distillation where nothing else is at hand. The
    label is the photograph.
    """
    from sklearn.datasets import load_sample_images

    if name != "photos":
        raise UserError(f"data set {name!r}: the source photos holds the data set photos alone; use its name")
    patches, labels = [], []
    for label, photograph in enumerate(load_sample_images().images):
        height, width = photograph.shape[:2]
        corners = [(y, x) for y in range(0, height - 31, 16) for x in range(0, width - 31, 16)]
        patches += [photograph[y : y + 32, x : x + 32] for y, x in corners]
        labels += [label] * len(corners)
    pixels, classes = np.stack(patches), np.array(labels, np.int64)
    source = {"kind": "photos", "sha256": sha256([pixels.tobytes(), classes.tobytes()])}
    return Raw(classes, ("temple", "flower"), from_array(pixels), source)


def torchvision(name: str, folder: Path | None) -> Raw:
    """CIFAR-10, CIFAR-100, EMNIST letters or Fashion-MNIST, downloaded to ``folder`` unless they are there.

    What is read has the checksums that torchvision knows. CIFAR's files are pickles: no others of that kind are read.
    """
    datasets = optional("torchvision.datasets", f"data set {name}")

    known = {
        "cifar10": (datasets.CIFAR10, {}),
        "cifar100": (datasets.CIFAR100, {}),
        "emnist": (datasets.EMNIST, {"split": "letters"}),
        "fashion_mnist": (datasets.FashionMNIST, {}),
    }
    if name not in known:
        raise UserError(f"data set {name!r}: unknown to the source torchvision; use one of {', '.join(known)}")
    kind, options = known[name]
    folder = required(name, folder)
    check_extracted(name, kind, folder)
    try:
        parts = [kind(str(folder), train=train, download=True, **options) for train in (True, False)]
    except Exception as error:  # a download or a damaged file raises one of many kinds
        remedy = "check the network, or use --source parquet with a folder that holds it"
        raise UserError(f"data set {name}: torchvision cannot get it ({first_line(error)}); {remedy}") from None
    return pooled(name, parts)


def pooled(name: str, parts: Sequence[Any]) -> Raw:
    """One source from torchvision data sets that hold ``data`` and ``targets``.

    EMNIST letters come transposed and labelled 1 to 26; they are stood upright and labelled 0 to 25.
    """
    pixels = np.concatenate([np.asarray(part.data, np.uint8) for part in parts])
    labels = np.concatenate([np.asarray(part.targets, np.int64) for part in parts])
    names = tuple(parts[0].classes)
    if name == "emnist":
        pixels, labels, names = np.ascontiguousarray(pixels.transpose(0, 2, 1)), labels - 1, LETTERS
    source = {"kind": "torchvision", "sha256": sha256([pixels.tobytes(), labels.tobytes()])}
    return Raw(labels, names, from_array(pixels), source)


def parquet(name: str, folder: Path | None) -> Raw:
    """Parquet files in the layout of Hugging Face; see `apfl.data.parquet`."""
    from apfl.data.parquet import parquet

    return parquet(name, folder)


def nist_letters(name: str, folder: Path | None) -> Raw:
    """Letters of NIST Special Database 19, converted as EMNIST's were; see `apfl.data.nist`."""
    from apfl.data.nist import nist_letters

    return nist_letters(name, folder)


def image_folder(name: str, folder: Path | None) -> Raw:
    """A folder of images for each class, named after it, possibly inside of folders of splits; see
    `apfl.data.layout.image_classes`."""
    folder = required(name, folder)
    found = image_classes(name, folder)
    leave_out(name, found.left_out)
    paths = [path for path, _ in found.files]
    clients = None
    if beside := clients_file(folder, found):
        clients = read_clients(beside, folder, paths)
        if nobodys := int((clients.client == NOBODY).sum()):
            leave_out(name, [f"{nobodys} of {len(paths)} images from setting natural, which {beside} does not name"])
    # The bytes of the names as the file system has them: not all of them are UTF-8.
    hashes = (os.fsencode(f"{path.relative_to(folder).as_posix()} {sha256_file(path)}\n") for path in paths)
    source = {"kind": "folder", "files": len(paths), "sha256": sha256(hashes)}

    def images_at(positions: np.ndarray) -> Iterator[Image.Image]:
        return (decode(paths[position].read_bytes(), str(paths[position])) for position in positions)

    return Raw(np.array([label for _, label in found.files], np.int64), found.names, images_at, source, clients)


def image_names(dataset: Dataset, folder: Path | None) -> list[str]:
    """What the images of a data set are called: the paths below the ``folder`` of images that it was made from, or else
    their positions. A `UserError` if it was made from other images."""
    source = dataset.source
    if folder is None:
        require(
            source.get("kind") != "folder",
            f"data set {dataset.name}: was made from a folder of images; give it (--path), so that they can be named",
        )
        return [str(position) for position in range(len(dataset))]
    there = image_folder(dataset.name, folder)
    paths = [path.relative_to(folder).as_posix() for path, _ in image_classes(dataset.name, folder).files]
    require(
        there.source["sha256"] == source.get("sha256"),
        f"data set {dataset.name}: was not made from {folder}, or from other images there; give its folder",
    )
    return [
        paths[place] for place in subset(there.labels, source.get("max_samples"), source.get("seed", 0), dataset.name)
    ]


def clients_file(folder: Path, found: Classes) -> Path | None:
    """The clients.csv in the folder of a data set, or in the one below that holds its classes, if there is one."""
    there = [path for path in dict.fromkeys((folder / FILE, found.root / FILE)) if path.is_file()]
    if len(there) > 1:
        raise UserError(f"{there[0]}: there is {there[1]} too; remove one of them")
    return there[0] if there else None


def number_of_clients(name: str, source: str, folder: Path) -> int | None:
    """How many clients a folder names, before any image is read; None if it names none."""
    if source == "folder":
        beside = clients_file(folder, image_classes(name, folder))
        return len(clients_in(beside)) if beside else None
    if source == "parquet":
        from apfl.data.parquet import clients_of

        clients = clients_of(name, folder)
        return len(clients.names) if clients else None
    return None


def number_of_classes(name: str, source: str, folder: Path) -> int | None:
    """How many classes a folder holds, as its names say, before any image is read; None if they do not say."""
    if source == "folder":
        return len(image_classes(name, folder).names)
    if source == "parquet":
        from apfl.data.parquet import class_names

        return len(class_names(name, folder)) or None
    return None


SOURCES: dict[str, Callable[[str, Path | None], Raw]] = {
    "digits": digits,
    "photos": photos,
    "torchvision": torchvision,
    "parquet": parquet,
    "folder": image_folder,
    "nist_letters": nist_letters,
}
"""Every source by name."""
