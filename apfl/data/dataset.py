"""The data set artefact: every image of a data set as 32x32 pixels, official train and test parts pooled."""

from __future__ import annotations

import os
import re
import unicodedata
from dataclasses import dataclass
from typing import Any

import numpy as np

from apfl.data.catalogue import CATALOGUE
from apfl.errors import UserError
from apfl.storage.files import canonical_json, json_in, read_npz, write_npz

SIZE = 32
"""Height and width, in pixels, of every image."""
TRAIN, VALIDATION, TEST = range(3)
"""What an image is for."""
NOBODY = -1


@dataclass(frozen=True)
class OwnClients:
    """The K clients that a data set of N images comes with.

    names: one a client; client: int64 [N], the client of each image (-1: nobody); split: int64 [N], what each image is
    for (`TRAIN`, `VALIDATION` or `TEST`), or empty where that is not said.
    """

    names: tuple[str, ...]
    client: np.ndarray
    split: np.ndarray

    def at(self, positions: np.ndarray) -> OwnClients:
        """The same clients with some of the images."""
        return OwnClients(self.names, self.client[positions], self.split[positions] if len(self.split) else self.split)

    def fault(self, images: int) -> str | None:
        """What is wrong with them for so many images."""
        for name, array, sizes in (("client", self.client, (images,)), ("split", self.split, (images, 0))):
            if array.dtype != np.int64 or array.ndim != 1 or len(array) not in sizes:
                return f"{name} is {array.dtype} {[*array.shape]}, not int64 [{images}]"
        if ((self.client < NOBODY) | (self.client >= len(self.names))).any():
            return f"has an image of a client that is none of its {len(self.names)}"
        if ((self.split < TRAIN) | (self.split > TEST))[self.client[: len(self.split)] != NOBODY].any():
            return "has an image of a client that is not said to be for training, validation or tests"
        return None


@dataclass(frozen=True)
class Dataset:
    """Images, labels and where they came from.

    name: as in file names; images: uint8 [N, C, 32, 32], C is 1 (grey) or 3 (RGB); labels: int64 [N], 0 to classes - 1;
    class_names: one a class, in label order; source: kind, SHA-256 and whatever else identifies the source;
    clients: whose images they are, if that is known.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    source: dict[str, Any]
    clients: OwnClients | None = None

    def __post_init__(self) -> None:
        if fault := self._fault():
            raise UserError(f"data set {self.name}: {fault}; correct its source and make it again")
        check_name(self.name, self.classes)

    def _fault(self) -> str | None:
        shape, kind, labels = self.images.shape, self.images.dtype, self.labels
        if labels.dtype != np.int64 or labels.ndim != 1:
            return f"labels are {labels.dtype} {[*labels.shape]}, not int64 [N]"
        if not len(labels):
            return "holds no image"
        if kind != np.uint8 or shape not in ((len(labels), 1, SIZE, SIZE), (len(labels), 3, SIZE, SIZE)):
            return f"images are {kind} {[*shape]}, not uint8 [{len(labels)}, 1 or 3, {SIZE}, {SIZE}]"
        if not 0 <= labels.min() <= labels.max() < self.classes:
            outside = labels[(labels < 0) | (labels >= self.classes)][0]
            return f"has labels outside 0 to {self.classes - 1}, such as {outside}"
        if bad := [name for name in self.class_names if not isinstance(name, str) or not name.strip()]:
            return f"has the class name {bad[0]!r}, which is not text"
        if bad := [name for name in self.class_names if any(unicodedata.category(c) in ("Cc", "Cs") for c in name)]:
            return f"has the class name {bad[0]!r}, with a character that cannot be shown"
        if twice := [name for name in self.class_names if self.class_names.count(name) > 1]:
            return f"has two classes called {twice[0]!r}"
        return self.clients.fault(len(labels)) if self.clients else None

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)

    @property
    def channels(self) -> int:
        """1 for grey, 3 for colour."""
        return self.images.shape[1]  # type: ignore[no-any-return]

    def __len__(self) -> int:
        return len(self.labels)


def check_name(name: str, classes: int | None = None) -> None:
    """A `UserError` unless ``name`` can be in a file name and, if it is a known data set's, fits so many ``classes``: a
    stand-in with fewer must not carry its name."""
    if not re.fullmatch(r"[a-z0-9_]+", name):
        raise UserError(f"data set {name!r}: a name has lower-case letters, digits and underscores only; rename it")
    known = CATALOGUE.get(name)
    if known and classes not in (None, known.classes):
        raise UserError(
            f"data set {name}: has {known.classes} classes, not {classes}; give a stand-in a name of its own"
        )


def save_dataset(path: str | os.PathLike[str], dataset: Dataset) -> None:
    """Write the artefact: ``images``, ``labels``, ``class_names``, ``name`` and ``source`` (JSON); if it comes with
    clients, ``client_names``, ``client`` and ``split``."""
    clients: dict[str, np.ndarray] = {}
    if own := dataset.clients:
        clients = {"client_names": np.array(own.names, np.str_), "client": own.client, "split": own.split}
    write_npz(
        path,
        images=dataset.images,
        labels=dataset.labels,
        class_names=np.array(dataset.class_names),
        name=np.array(dataset.name),
        source=np.array(canonical_json(dataset.source)),
        **clients,
    )


def load_dataset(path: str | os.PathLike[str]) -> Dataset:
    """Read an artefact that `save_dataset` wrote; anything else is a `UserError`."""
    arrays = read_npz(path, "data set", ("images", "labels", "class_names", "name", "source"))
    source = json_in(arrays["source"], f"data set {path}: its source")
    names = tuple(str(name) for name in np.atleast_1d(arrays["class_names"]))
    clients = None
    if "client_names" in arrays:
        own = tuple(str(name) for name in np.atleast_1d(arrays["client_names"]))
        nothing = np.zeros(0, np.int64)
        clients = OwnClients(own, arrays.get("client", nothing), arrays.get("split", nothing))
    try:
        return Dataset(str(arrays["name"]), arrays["images"], arrays["labels"], names, source, clients)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
