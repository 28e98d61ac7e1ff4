"""A source of images before decoding, and what all sources share."""

from __future__ import annotations

import hashlib
import io
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from apfl.data.pixels import as_rgb
from apfl.errors import UserError
from apfl.storage.files import first_line

if TYPE_CHECKING:
    from PIL import Image

    from apfl.data.dataset import OwnClients


FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""What is decoded: not the formats for which other programs are called."""
LARGEST_SIDE = 8000
INSTEAD = {
    b"version https://git-lfs": "a pointer of Git LFS; run git lfs pull",
    b"<!doctype": "a page of the web, perhaps a message of the server",
    b"<html": "a page of the web, perhaps a message of the server",
    b"<?xml": "XML",
    b"<svg": "SVG",
    b"pk\x03\x04": "a ZIP archive",
    b"\x1f\x8b": "packed by gzip",
}
"""What is found in place of a file, by how it begins."""


@dataclass(frozen=True)
class Raw:
    """Labels at once, images on request.

    labels: int64 [N]; class_names: in label order; images: called with ascending positions, yields the image at each
    of them, of any size and mode; source: what identifies the source, with its SHA-256; clients: whose images they are,
    if that is known.
    """

    labels: np.ndarray
    class_names: tuple[str, ...]
    images: Callable[[np.ndarray], Iterator[Image.Image]]
    source: dict[str, Any]
    clients: OwnClients | None = None


def decode(encoded: bytes | None, where: str) -> Image.Image:
    """The picture in the bytes of a PNG, JPEG, WebP ... file, as `as_rgb` has it; if there is none, a `UserError` that
    says ``where``."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings(action="ignore"):
            image = Image.open(io.BytesIO(encoded or b""), formats=FORMATS)
            # A few bytes may claim to be a picture of any size.
            if max(image.size) > LARGEST_SIDE:
                raise ValueError(f"{image.width} x {image.height} pixels; a side has at most {LARGEST_SIDE}")
            image.load()
            image = as_rgb(image)
    except Exception as error:  # decoders raise many kinds for damaged bytes
        known = not isinstance(error, UnidentifiedImageError)
        problem = first_line(error) if known else mistaken(encoded or b"") or f"none of {', '.join(FORMATS)}"
        raise UserError(f"{where}: not an image that can be decoded ({problem}); get the file again") from None
    return image


def mistaken(head: bytes) -> str | None:
    """What the beginning of a file shows that is often there in place of the file itself; None if nothing known."""
    return next((what for begin, what in INSTEAD.items() if head.lstrip()[:60].lower().startswith(begin)), None)


def leave_out(name: str, things: Iterable[str]) -> None:
    """Say what of a data set's folder is not used."""
    for thing in things:
        print(f"data set {name}: leaves out {thing}", file=sys.stderr)


def from_array(pixels: np.ndarray) -> Callable[[np.ndarray], Iterator[Image.Image]]:
    """Images on request from uint8 [N, height, width] or [N, height, width, 3]."""
    from PIL import Image

    return lambda positions: (Image.fromarray(pixels[position]) for position in positions)


def required(name: str, folder: Path | None) -> Path:
    """The folder; `UserError` if none was given."""
    if folder is None:
        raise UserError(
            f"data set {name}: no folder given; add --path FOLDER, or --root with the folder that holds {name}"
        )
    return folder


def neighbours(folder: Path) -> str:
    """The end of a message about a missing folder: what is beside it, as the name may be misspelt."""
    there = sorted(child.name for child in folder.parent.iterdir() if child.is_dir()) if folder.parent.is_dir() else []
    return f"; correct the name ({folder.parent} holds {', '.join(there[:12])})" if there else "; correct the path"


def sha256(pieces: Iterable[bytes]) -> str:
    """SHA-256 of the pieces, one after the other."""
    total = hashlib.sha256()
    for piece in pieces:
        total.update(piece)
    return total.hexdigest()
