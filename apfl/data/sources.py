"""Where images come from: one function a source, each giving labels at once and images on request."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True)
class Raw:
    """A source before decoding.

    labels: int64 [N]; class_names: in label order; images: called with ascending positions, yields the image at each of them, of
    any size and mode; source: what identifies the source, with its SHA-256.
    """

    labels: np.ndarray
    class_names: tuple[str, ...]
    images: Callable[[np.ndarray], Iterator[Image.Image]]
    source: dict[str, Any]


def digits() -> Raw:
    """The 1,797 handwritten 8x8 digits that scikit-learn carries; values 0 to 16 become 0 to 255."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    labels = bunch.target.astype(np.int64)
    return Raw(labels, DIGITS, _from_array(pixels), {"kind": "digits", "sha256": _array_digest(pixels, labels)})


def _from_array(pixels: np.ndarray) -> Callable[[np.ndarray], Iterator[Image.Image]]:
    from PIL import Image

    return lambda positions: (Image.fromarray(pixels[position]) for position in positions)


def _array_digest(*arrays: np.ndarray) -> str:
    total = hashlib.sha256()
    for array in arrays:
        total.update(np.ascontiguousarray(array))
    return total.hexdigest()
