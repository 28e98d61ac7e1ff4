"""From a source to a data set: choose images, decode them one by one, make them 32x32."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from apfl.data.dataset import SIZE, Dataset, check_name
from apfl.data.pixels import as_rgb
from apfl.data.raw import Raw
from apfl.errors import UserError
from apfl.streams import numpy_stream

if TYPE_CHECKING:
    from PIL import Image

Progress = Callable[[Iterable[Any], int], Iterable[Any]]
"""Wraps an iterable of known length, to show how far it is."""


def make_dataset(
    name: str, raw: Raw, max_samples: int | None = None, seed: int = 0, progress: Progress = lambda items, total: items
) -> Dataset:
    """Decode a source, or ``max_samples`` images of it, chosen by ``seed`` with the classes in their proportions.

    The images keep their order. They are grey (one channel) if all three channels are equal in every image.
    """
    check_name(name, len(raw.class_names))
    positions = subset(raw.labels, max_samples, seed, name)
    images = np.empty((len(positions), 3, SIZE, SIZE), np.uint8)
    for row, image in enumerate(progress(raw.images(positions), len(positions))):
        images[row] = to_pixels(image).transpose(2, 0, 1)
    if all((image == image[0]).all() for image in images):
        images = np.ascontiguousarray(images[:, :1])
    source = dict(raw.source) if max_samples is None else {**raw.source, "max_samples": max_samples, "seed": seed}
    clients = raw.clients.at(positions) if raw.clients else None
    return Dataset(name, images, raw.labels[positions], raw.class_names, source, clients)


def subset(labels: np.ndarray, size: int | None, seed: int, name: str) -> np.ndarray:
    """Ascending positions of ``size`` images, classes in proportion by largest remainder; of all images without a size,
    or if there are fewer."""
    if size is not None and size < 1:
        raise UserError(f"max_samples: is {size}; use at least 1, or leave it out for all images")
    if size is None or size >= len(labels):
        return np.arange(len(labels))
    stream = numpy_stream(seed, f"subset/{name}")
    sizes = np.bincount(labels)
    quota, remainder = np.divmod(sizes * size, len(labels))
    order = np.lexsort((stream.random(len(sizes)), -remainder))
    quota[order[: size - quota.sum()]] += 1
    chosen = [stream.permutation(np.flatnonzero(labels == label))[:part] for label, part in enumerate(quota)]
    return np.sort(np.concatenate(chosen))


def to_pixels(image: Image.Image) -> np.ndarray:
    """uint8 [32, 32, 3]; an image that is not square is first padded with black on both sides, to keep its shapes."""
    from PIL import Image

    image = as_rgb(image)
    if image.width != image.height:
        side = max(image.size)
        square = Image.new("RGB", (side, side))
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        image = square
    if image.size != (SIZE, SIZE):
        image = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    return np.asarray(image)
