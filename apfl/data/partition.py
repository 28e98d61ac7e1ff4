"""The partition artefact: which client holds each image, and whether it trains, validates or tests on it."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np

from apfl.data.dataset import NOBODY, TEST, TRAIN, VALIDATION, Dataset
from apfl.data.partitioners import Assignment, dirichlet, extended_dirichlet, iid, pathological, powerlaw, quantity
from apfl.data.setting import OPTIONAL, Setting, parse_setting
from apfl.errors import UserError
from apfl.storage.files import canonical_json, json_in, read_npz, write_npz
from apfl.streams import numpy_stream

PARTITIONERS = {
    "dirichlet": dirichlet.assign,
    "pathological": pathological.assign,
    "iid": iid.assign,
    "quantity": quantity.assign,
    "extended_dirichlet": extended_dirichlet.assign,
    "powerlaw": powerlaw.assign,
}
ARRAYS = ("client", "is_train", "is_validation", "counts", "dropout", "unseen")


@dataclass(frozen=True)
class Partition:
    """N images shared among K clients.

    client: int64 [N], the client of each image (-1: unused); is_train, is_validation: bool [N], both false for test
    images and unused ones; counts: int64 [K, C], training images of each class; dropout: bool [K], clients that never
    reach the server; unseen: bool [C], classes of which no other client has a training image; specification: the data
    set, the setting and its fields, the seed, the random stream and how many draws it took.
    """

    client: np.ndarray
    is_train: np.ndarray
    is_validation: np.ndarray
    counts: np.ndarray
    dropout: np.ndarray
    unseen: np.ndarray
    specification: dict[str, Any]

    @property
    def clients(self) -> int:
        """How many clients there are, with those that drop out."""
        return len(self.dropout)

    def train(self, client: int) -> np.ndarray:
        """Positions of the client's training images, int64, ascending."""
        return self._parts[0][client]

    def validation(self, client: int) -> np.ndarray:
        """Positions of the client's validation images, int64, ascending; none if the partition has no such part."""
        return self._parts[1][client]

    def test(self, client: int) -> np.ndarray:
        """Positions of the client's test images, int64, ascending."""
        return self._parts[2][client]

    @cached_property
    def _parts(self) -> tuple[list[np.ndarray], ...]:
        tested = ~self.is_train & ~self.is_validation
        parts = (self.is_train, self.is_validation, tested)
        return tuple(by_client(np.where(part, self.client, -1), self.clients) for part in parts)


def make_partition(
    dataset: Dataset, setting: Setting | str, seed: int, validation: bool = False, saved: Partition | None = None
) -> Partition:
    """Share the images of ``dataset`` among clients and set 10 % of each client's images aside for tests; with
    ``validation``, also 10 % of the others, which no client trains on and no table shows.

    Everything is a function of data set, setting and seed, the test part whether or not there is a validation part. A
    setting with ``train_samples`` is drawn like the whole one and then thinned (`thinned`), so that both have the same
    test images. The setting natural takes the clients of the data set, or those of a ``saved`` partition, and what they
    say an image is for. `UserError` if the setting cannot be met with these images.
    """
    setting = parse_setting(setting) if isinstance(setting, str) else setting
    if setting.clients > len(dataset):
        raise UserError(
            f"setting {setting}: more clients ({setting.clients}) than images ({len(dataset)} of {dataset.name});"
            " use fewer clients"
        )
    if "min" in OPTIONAL[setting.kind] and setting.clients * setting.min_samples > len(dataset):
        raise UserError(
            f"setting {setting}: {setting.clients} clients of at least {setting.min_samples} images need more than"
            f" {dataset.name} has ({len(dataset)}); use fewer clients or a smaller minimum (such as -min1)"
        )
    name = f"partition/{dataset.name}/{setting.whole}"
    if setting.kind == "natural":
        assignment = of_saved(dataset, setting, saved) if saved else of_own_clients(dataset, setting)
    else:
        assignment = PARTITIONERS[setting.kind](dataset.labels, dataset.classes, setting, numpy_stream(seed, name))
    is_validation = np.zeros(len(dataset), bool)
    if assignment.split is None:
        is_test = tenth(dataset.labels, assignment.client, setting.clients, numpy_stream(seed, f"{name}/split"))
    else:
        is_test, is_validation = assignment.split == TEST, assignment.split == VALIDATION
    if setting.kind == "natural" and not is_test.any():
        raise UserError(f"setting {setting}: none of the clients' images is for tests; say which are (column split)")
    if validation and not is_validation.any():
        rest = np.where(is_test, -1, assignment.client)
        is_validation = tenth(dataset.labels, rest, setting.clients, numpy_stream(seed, f"{name}/validation"))
    client = assignment.client
    if setting.train_samples is not None:
        rest, stream = np.where(is_test, -1, client), numpy_stream(seed, f"{name}/train")
        kept = thinned(dataset, setting, rest, is_validation, stream)
        client, is_validation = np.where(is_test | kept, client, -1), is_validation & kept
    is_train = (client >= 0) & ~is_test & ~is_validation
    if setting.kind == "natural" and not is_train.any():
        raise UserError(f"setting {setting}: none of the clients' images is for training; correct the column split")
    counts = count(dataset.labels[is_train], client[is_train], setting.clients, dataset.classes)
    specification = {
        "dataset": dataset.name,
        "labels": labels_digest(dataset),
        "setting": str(setting),
        "kind": setting.kind,
        **setting.fields(),
        "seed": seed,
        "stream": name,
        "draws": assignment.draws,
        **assignment.said,
    } | ({"validation": True} if validation or is_validation.any() else {})
    unseen = counts[~assignment.dropout].sum(axis=0) == 0
    return Partition(client, is_train, is_validation, counts, assignment.dropout, unseen, specification)


@cache
def drawn_counts(
    dataset: str, classes: int, size: int | None, setting: str, seed: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """How many images of each class each client would hold, int64 [K, C], and who would drop out, bool [K], if the data
    set had ``size`` images and classes of equal size; None where that does not settle it."""
    parsed = parse_setting(setting).whole
    if size is None or parsed.kind not in PARTITIONERS:
        return None
    labels = np.arange(size) % classes
    try:
        made = PARTITIONERS[parsed.kind](labels, classes, parsed, numpy_stream(seed, f"partition/{dataset}/{parsed}"))
    except UserError:
        return None
    return count(labels, made.client, parsed.clients, classes), made.dropout


def of_own_clients(dataset: Dataset, setting: Setting) -> Assignment:
    """The clients that the data set comes with."""
    own = dataset.clients
    if own is None:
        raise UserError(
            f"setting {setting}: {dataset.name} comes without clients; give clients.csv beside its images, a column"
            " client in its Parquet files, or a saved partition"
        )
    split = np.where(own.client == NOBODY, NOBODY, own.split) if len(own.split) else None
    nobody_drops_out, said = np.zeros(len(own.names), bool), {"names": list(own.names)}
    return _given(dataset, setting, Assignment(own.client, nobody_drops_out, split=split, said=said))


def of_saved(dataset: Dataset, setting: Setting, saved: Partition) -> Assignment:
    """The clients of a saved partition of this data set, with what is for what and who drops out."""
    check_match(dataset, saved)
    split = np.where(saved.is_train, TRAIN, np.where(saved.is_validation, VALIDATION, TEST))
    split = np.where(saved.client == NOBODY, NOBODY, split)
    names = {name: saved.specification[name] for name in ("names",) if name in saved.specification}
    said = {**names, "saved": saved.specification}
    return _given(dataset, setting, Assignment(saved.client, saved.dropout, split=split, said=said))


def _given(dataset: Dataset, setting: Setting, assignment: Assignment) -> Assignment:
    """The assignment, if it has as many clients as the setting says."""
    if len(assignment.dropout) != setting.clients:
        raise UserError(f"setting {setting}: {dataset.name} has {len(assignment.dropout)} clients; correct the number")
    return assignment


def tenth(labels: np.ndarray, client: np.ndarray, clients: int, stream: np.random.Generator) -> np.ndarray:
    """bool [N], true for 10 % of each client's images, drawn at random within each class; client -1 stands for none."""
    chosen = np.zeros(len(labels), bool)
    for positions in by_client(client, clients):
        own = stream.permutation(positions)
        kinds, inverse, sizes = np.unique(labels[own], return_inverse=True, return_counts=True)
        quota = quota_of_a_tenth(sizes, stream)
        for kind in range(len(kinds)):
            chosen[own[inverse == kind][: quota[kind]]] = True
    return chosen


def thinned(
    dataset: Dataset, setting: Setting, client: np.ndarray, is_validation: np.ndarray, stream: np.random.Generator
) -> np.ndarray:
    """bool [N], true for the images to keep of those that are not for tests: ``setting.train_samples`` in all.

    Validation images are thinned as training images are, which they could have been. Otherwise a method that looks at
    them, as FedDF's server does, would know more images than all clients train on. ``client`` is -1 for images not to
    keep.
    """
    rest, size = client >= 0, int(setting.train_samples or 0)
    if size > rest.sum():
        raise UserError(
            f"setting {setting}: {dataset.name} has {rest.sum()} images that are not for tests, fewer than {size}; use"
            " fewer, or leave train_samples out for all of them"
        )
    aside = round(size * is_validation.sum() / rest.sum())
    chosen = np.zeros(len(client), bool)
    for part, total in ((rest & ~is_validation, size - aside), (rest & is_validation, aside)):
        own = np.where(part, client, -1)
        quota = quota_of(count(dataset.labels, own, setting.clients, dataset.classes), total, stream)
        for holder, positions in enumerate(by_client(own, setting.clients)):
            drawn = stream.permutation(positions)
            for label in np.flatnonzero(quota[holder]):
                chosen[drawn[dataset.labels[drawn] == label][: quota[holder, label]]] = True
    return chosen


def quota_of(sizes: np.ndarray, total: int, stream: np.random.Generator) -> np.ndarray:
    """How many images of each client and class to keep, int64 [clients, classes], ``total`` in all.

    sizes: int64 [clients, classes]. Each keeps its share rounded down or up, so that it is right within one image.
    Those that would have none come first, then the largest remainders; the stream breaks ties. A client that still has
    none is given one of those of the client with the most.
    """
    quota, remainder = np.divmod(sizes * total, max(1, sizes.sum()))
    order = np.lexsort((stream.random(sizes.size), -remainder.ravel(), quota.ravel() > 0, remainder.ravel() == 0))
    quota.ravel()[order[: total - quota.sum()]] += 1
    for client in np.flatnonzero((quota.sum(1) == 0) & (sizes.sum(1) > 0)):
        most = quota.sum(1).argmax()
        if quota[most].sum() > 1:
            quota[most, quota[most].argmax()] -= 1
            quota[client, sizes[client].argmax()] += 1
    return quota


def by_client(client: np.ndarray, clients: int) -> list[np.ndarray]:
    """For each client in turn the positions of its images, int64, ascending; those of client -1 are left out.

    One sort for all of them: a search for each would take clients times images.
    """
    ends = np.cumsum(np.bincount(client + 1, minlength=clients + 1))
    return np.split(np.argsort(client, kind="stable"), ends)[1:-1]


def quota_of_a_tenth(sizes: np.ndarray, stream: np.random.Generator) -> np.ndarray:
    """How many images of each class to set aside: a tenth by largest remainder, so that the total is right too.

    sizes: int64 [classes], each at least 1. The total is rounded half up. The stream breaks ties, and a class with one
    image keeps it for training as long as another class can give one.
    """
    total = (sizes.sum() + 5) // 10
    quota = sizes // 10
    order = np.lexsort((stream.random(len(sizes)), -(sizes % 10), sizes == 1))
    quota[order[: total - quota.sum()]] += 1
    return quota


def count(labels: np.ndarray, client: np.ndarray, clients: int, classes: int) -> np.ndarray:
    """Images of each class that each client holds, int64 [clients, classes]; unused images (client -1) are left out."""
    used = client >= 0
    flat = np.bincount(client[used] * classes + labels[used], minlength=clients * classes)
    return flat.reshape(clients, classes).astype(np.int64)


def labels_digest(dataset: Dataset) -> str:
    """The first 12 hexadecimal digits of the SHA-256 of the labels: the same for the same images in the same order."""
    return hashlib.sha256(dataset.labels.tobytes()).hexdigest()[:12]


def check_match(dataset: Dataset, partition: Partition) -> None:
    """A `UserError` unless the partition was made from these images, and says of them what is so."""
    made_from = partition.specification["dataset"], partition.specification["labels"]
    if made_from != (dataset.name, labels_digest(dataset)):
        raise UserError(
            f"partition {partition.specification['setting']}: made from {made_from[0]} ({len(partition.client)} images)"
            f" but not from this data set {dataset.name} ({len(dataset)} images); make the partition again"
        )
    used = partition.client[partition.is_train]
    fits = partition.client.shape == dataset.labels.shape and partition.counts.shape[1] == dataset.classes
    if not fits or not np.array_equal(
        partition.counts, count(dataset.labels[partition.is_train], used, partition.clients, dataset.classes)
    ):
        raise UserError(
            f"partition {partition.specification['setting']}: its counts are not those of its {len(partition.client)}"
            f" images among the {len(dataset)} of {dataset.name}; make the partition again"
        )


def save_partition(path: str | os.PathLike[str], partition: Partition) -> None:
    """Write the artefact: the arrays, and the specification as JSON."""
    arrays = {name: getattr(partition, name) for name in ARRAYS}
    write_npz(path, specification=np.array(canonical_json(partition.specification)), **arrays)


def load_partition(path: str | os.PathLike[str]) -> Partition:
    """Read an artefact that `save_partition` wrote; anything else is a `UserError`."""
    required = (*(name for name in ARRAYS if name != "is_validation"), "specification")
    arrays = read_npz(path, "partition", required)
    arrays.setdefault("is_validation", np.zeros(arrays["client"].shape, bool))  # older partitions have no such part
    specification = json_in(arrays.pop("specification"), f"partition {path}: its specification")
    partition = Partition(**{name: arrays[name] for name in ARRAYS}, specification=specification)
    if fault := _fault(partition):
        raise UserError(f"partition {path}: {fault}; make it again")
    return partition


def _fault(partition: Partition) -> str | None:
    """What is wrong with arrays that came from a file, whatever data set they are of."""
    images, clients, classes = len(np.atleast_1d(partition.client)), partition.dropout.size, partition.unseen.size
    wanted = {"client": (np.int64, (images,)), "is_train": (bool, (images,)), "is_validation": (bool, (images,)),
              "counts": (np.int64, (clients, classes)), "dropout": (bool, (clients,)),
              "unseen": (bool, (classes,))}  # fmt: skip
    for name, (kind, shape) in wanted.items():
        array = getattr(partition, name)
        if array.dtype != kind or array.shape != shape:
            return f"{name} is {array.dtype} {[*array.shape]}, not {np.dtype(kind)} {[*shape]}"
    if len(outside := partition.client[(partition.client < -1) | (partition.client >= clients)]):
        return f"client {outside[0]} is not one of its {clients}"
    if ((partition.is_train | partition.is_validation) & (partition.client < 0)).any():
        return "some of its training or validation images belong to no client"
    if (partition.is_train & partition.is_validation).any():
        return "some of its images are for training and for validation"
    if partition.dropout.all() or not partition.counts[~partition.dropout].sum():
        return "no client that does not drop out has a training image"
    given = partition.specification if isinstance(partition.specification, dict) else {}
    if absent := [key for key in ("dataset", "labels", "setting", "seed") if key not in given]:
        return f"its specification has no {absent[0]!r}"
    return None
