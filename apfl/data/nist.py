"""Letters of NIST Special Database 19 as EMNIST's authors convert them (Cohen, Afshar, Tapson, van Schaik 2017,
"EMNIST: an extension of MNIST to handwritten letters", figure 1): the source of EMNIST, but not EMNIST itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from apfl.data.parquet import parquet
from apfl.data.raw import Raw
from apfl.data.sources import LETTERS
from apfl.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

SIDE = 28
MARGIN = 2
"""Pixels around the letter in the square, before it is made smaller."""


def nist_letters(name: str, folder: Path | None) -> Raw:
    """Scanned letters in Parquet files, black ink on white, each converted by `as_emnist`.

    They stand in for EMNIST's letters and must not be called so: any other name than nist_letters is a `UserError`, and
    so are other classes than the 26 letters.
    """
    if name != "nist_letters":
        raise UserError(f"data set {name!r}: the source nist_letters makes that data set alone; use its name")
    scans = parquet(name, folder)
    if scans.class_names != LETTERS:
        raise UserError(
            f"data set {name}: {folder} has the classes {', '.join(scans.class_names):.60}, not a to z; give the folder"
            " of the letters"
        )

    def images_at(positions: np.ndarray) -> Iterator[Image.Image]:
        for position, scan in zip(positions.tolist(), scans.images(positions), strict=True):
            ink = 255 - np.asarray(scan.convert("L"))
            if not ink.any():
                raise UserError(f"data set {name}: image {position} of {folder} is blank; get the files again")
            yield as_emnist(ink)

    return replace(scans, images=images_at, source={**scans.source, "kind": "nist_letters"})


def as_emnist(ink: np.ndarray) -> Image.Image:
    """The grey image, 28x28, of uint8 [height, width] with a letter in white (255) on black.

    Blurred by a Gaussian of sigma 1; cropped to what is not black then; in the middle of a square with a margin of two
    pixels, so that its proportions are kept; made smaller by bi-cubic interpolation; its brightest pixel is 255.
    """
    from PIL import Image
    from scipy.ndimage import gaussian_filter

    soft = np.rint(gaussian_filter(ink.astype(np.float64), sigma=1, mode="constant")).astype(np.uint8)
    rows, columns = (np.flatnonzero(soft.any(axis)) for axis in (1, 0))
    letter = soft[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    side = max(letter.shape) + 2 * MARGIN
    top, left = ((side - length) // 2 for length in letter.shape)
    square = np.pad(letter, ((top, side - top - letter.shape[0]), (left, side - left - letter.shape[1])))
    small = np.asarray(Image.fromarray(square).resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.float64)
    return Image.fromarray(np.rint(small * 255 / small.max()).astype(np.uint8))
