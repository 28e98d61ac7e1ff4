"""What a pixel is: bit depth, transparency, orientation, palettes, CMYK and animations."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from apfl.data.decode import to_pixels
from apfl.data.raw import decode
from apfl.errors import UserError

STREAM = np.random.default_rng(0)
GREY = STREAM.integers(0, 256, (32, 32), np.uint8)
COLOURS = STREAM.integers(0, 256, (32, 32, 3), np.uint8)
OPAQUE = np.full((32, 32, 1), 255, np.uint8)


def stored(image: Image.Image, form: str = "PNG", **options: Any) -> np.ndarray:
    """uint8 [32, 32, 3], what is made of a picture that was saved in a format."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return to_pixels(decode(buffer.getvalue(), "x"))


def hidden(colour: int) -> Image.Image:
    """A black square; what is around it is transparent, and of a colour that nobody sees."""
    pixels = np.full((32, 32, 4), colour, np.uint8)
    pixels[..., 3] = 0
    pixels[8:24, 8:24] = (0, 0, 0, 255)
    return Image.fromarray(pixels)


def test_what_is_transparent_is_white_whatever_colour_it_hides() -> None:
    black, white = stored(hidden(0)), stored(hidden(255))
    assert np.array_equal(black, white)
    assert (black[8:24, 8:24] == 0).all() and (black[:8] == 255).all()
    assert np.array_equal(to_pixels(hidden(0).convert("LA")), white)
    assert np.array_equal(stored(hidden(0), "WEBP", lossless=True), white)


def test_transparency_of_a_palette_and_of_a_single_colour_is_white_too() -> None:
    image = Image.fromarray(np.repeat([[0, 1]], 16, axis=1).repeat(32, axis=0).astype(np.uint8), "P")
    image.putpalette([0, 0, 0, 200, 30, 60])
    seen = stored(image, transparency=0)
    assert (seen[:, :16] == 255).all() and (seen[:, 16:] == (200, 30, 60)).all()
    grey = Image.fromarray(np.where(GREY > 100, 100, 0).astype(np.uint8))
    assert np.array_equal(stored(grey, transparency=0)[..., 0], np.where(GREY > 100, 100, 255))


def test_half_transparent_black_is_the_middle_between_black_and_white() -> None:
    pixels = np.zeros((32, 32, 4), np.uint8)
    pixels[..., 3] = 128
    assert (abs(stored(Image.fromarray(pixels)).astype(int) - 127) <= 1).all()


def test_an_opaque_picture_is_the_same_with_and_without_an_alpha_channel() -> None:
    assert np.array_equal(stored(Image.fromarray(np.concatenate([COLOURS, OPAQUE], axis=2))), COLOURS)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_photograph_is_upright_however_the_camera_was_held(orientation: int, form: str) -> None:
    upright = np.zeros((32, 32, 3), np.uint8)
    upright[:8] = upright[:, :4] = 255
    # How the pixels lie in the file so that the tag's turn makes them upright.
    lies = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.swapaxes(0, 1), 6: np.rot90(upright), 7: upright[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(upright, 3),
    }[orientation]  # fmt: skip
    image = Image.fromarray(np.ascontiguousarray(lies))
    exif = Image.Exif()
    exif[0x0112] = orientation
    seen = stored(image, form, exif=exif, **({"quality": 95} if form == "JPEG" else {}))
    assert (abs(seen.astype(int) - upright) < 60).all()


def test_a_photograph_is_turned_once() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.fromarray(COLOURS).save(buffer, "PNG", exif=exif)
    assert np.array_equal(to_pixels(decode(buffer.getvalue(), "x")), np.rot90(COLOURS, 3))


def test_damaged_exif_data_leave_the_picture_as_it_is() -> None:
    assert np.array_equal(stored(Image.fromarray(COLOURS), exif=b"Exif\0\0II*\0\xff\xff\xff\x7f"), COLOURS)


@pytest.mark.parametrize(("form", "options"), [("PNG", {}), ("TIFF", {}), ("PPM", {})])
def test_of_16_bits_the_upper_8_are_kept(form: str, options: dict[str, Any]) -> None:
    wide = GREY.astype(np.uint16) << 8 | STREAM.integers(0, 256, (32, 32), np.uint16)
    assert np.array_equal(stored(Image.fromarray(wide), form, **options), GREY[..., None].repeat(3, axis=2))


@pytest.mark.parametrize("pixels", [GREY.astype(np.float32) / 255, GREY.astype(np.int32)], ids=["float", "int"])
def test_numbers_of_32_bits_are_refused_as_nothing_says_how_bright_they_are(pixels: np.ndarray) -> None:
    with pytest.raises(UserError, match="pixels of 32 bits, whose brightness is not defined; save it with 8 or 16"):
        stored(Image.fromarray(pixels), "TIFF")


def test_a_palette_is_its_colours_and_cmyk_is_no_negative() -> None:
    few = (COLOURS // 128 * 255).astype(np.uint8)
    palette = Image.fromarray(few).quantize(8)
    assert np.array_equal(stored(palette), few)
    cmyk = Image.fromarray(few).convert("CMYK")
    for form, options in (("JPEG", {"quality": 100, "subsampling": 0}), ("TIFF", {})):
        smooth = Image.new("CMYK", (32, 32), cmyk.getpixel((0, 0)))
        assert (abs(stored(smooth, form, **options).astype(int) - few[0, 0]) < 8).all()


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_an_animation_the_first_frame_counts(form: str) -> None:
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if form == "WEBP" else {}
    seen = stored(frames[0], form, save_all=True, append_images=frames[1:], **options)
    assert (seen == (255, 0, 0)).all()


def test_a_picture_of_several_views_is_read_as_the_first() -> None:
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("white", "black")]
    assert (stored(frames[0], "MPO", save_all=True, append_images=frames[1:]) > 250).all()
