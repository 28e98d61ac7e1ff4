"""What the pixels of an encoded picture are: upright, 8 bits a channel, opaque on white, in red, green and blue."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

BACKGROUND = (255, 255, 255, 255)
"""What is behind a transparent picture: the white of a page."""
ORIENTATION = 0x0112
"""The EXIF tag that says how a camera was held."""
SIXTEEN_BITS = ("PNG", "PPM")
"""Formats whose pixels of mode I are numbers of 16 bits."""


def as_rgb(image: Image.Image) -> Image.Image:
    """The picture in mode RGB.

    It is turned as its EXIF orientation says; of 16 bits the upper 8 are kept; what is transparent lets a white
    background through; palettes and CMYK become colours; of an animation this is the first frame. `ValueError` for
    whole or fractional numbers of 32 bits, of which nothing says how bright they are.
    """
    from PIL import Image

    form = image.format
    image = _eight_bits(_upright(image), form)
    if image.mode not in ("RGBA", "LA", "PA", "La", "RGBa") and "transparency" not in image.info:
        return image.convert("RGB")
    page = Image.new("RGBA", image.size, BACKGROUND)
    page.alpha_composite(image.convert("RGBA"))
    return page.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    from PIL import ImageOps

    try:
        turned = image.getexif().get(ORIENTATION, 1) != 1
    except Exception:  # damaged EXIF data raise many kinds; the pixels are whole
        return image
    return ImageOps.exif_transpose(image) if turned else image


def _eight_bits(image: Image.Image, form: str | None) -> Image.Image:
    """Of 16 bits the upper 8, as decoders keep of colours with 16 bits a channel."""
    from PIL import Image

    if image.mode == "F" or (image.mode == "I" and form not in SIXTEEN_BITS):
        raise ValueError("pixels of 32 bits, whose brightness is not defined; save it with 8 or 16 bits")
    if image.mode != "I" and not image.mode.startswith("I;"):
        return image
    values = np.asarray(image).astype(np.int64)
    if isinstance(clear := image.info.get("transparency"), int):
        values[values == clear] = 0xFFFF
    return Image.fromarray((values.clip(0, 0xFFFF) >> 8).astype(np.uint8))
