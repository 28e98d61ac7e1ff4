"""NIST's letters as EMNIST's authors convert them: by what the description says, and, where they are, on real ones."""

from __future__ import annotations

import io
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from apfl.cli import main
from apfl.data.catalogue import CATALOGUE
from apfl.data.dataset import Dataset, load_dataset
from apfl.data.decode import make_dataset
from apfl.data.nist import MARGIN, SIDE, as_emnist, nist_letters
from apfl.data.parquet import parquet
from apfl.data.sources import LETTERS
from apfl.errors import UserError
from apfl.paper.labels import dataset_label
from apfl.study.cells import artefacts
from apfl.study.load import load_study
from tests.helpers.parquet_files import write
from tests.helpers.studies import tiny

KERNEL = np.exp(-(np.arange(-4, 5) ** 2) / 2) / np.exp(-(np.arange(-4, 5) ** 2) / 2).sum()
"""A Gaussian of sigma 1 on whole pixels."""
SPREAD = max(k for k in range(1, 5) if 255 * KERNEL[4 + k :].sum() >= 0.5)
"""How many pixels beyond a straight edge are not black after it."""


def scan(height: int = 60, width: int = 30, top: int = 20, left: int = 40) -> np.ndarray:
    """A hook of ink: a bar with a foot to the right, whose orientation shows."""
    ink = np.zeros((128, 128), np.uint8)
    ink[top : top + height, left : left + width // 3] = 255
    ink[top + height - 8 : top + height, left : left + width] = 255
    return ink


def pixels(ink: np.ndarray) -> np.ndarray:
    return np.asarray(as_emnist(ink), np.float64)


def black_on_white(ink: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(255 - ink).convert("1").save(buffer, "PNG")
    return buffer.getvalue()


def folder_of(path: Path, scans: list[np.ndarray], labels: list[int], names: list[str]) -> Path:
    write(path / "train-00000.parquet", None, labels, names, encoded=[black_on_white(ink) for ink in scans])
    return path


def test_an_image_is_28_pixels_wide_and_as_bright_as_it_can_be() -> None:
    thin = np.zeros((128, 128), np.uint8)
    thin[20:100, 60] = 255
    for image in (as_emnist(scan()), as_emnist(thin)):
        assert image.size == (SIDE, SIDE) == (28, 28) and image.mode == "L"
        assert np.asarray(image).max() == 255 and np.asarray(image).min() == 0


def test_it_does_not_matter_where_on_its_sheet_a_letter_stands() -> None:
    assert np.array_equal(pixels(scan()), pixels(scan(top=5, left=60)))


@pytest.mark.parametrize(("height", "width"), [(80, 40), (40, 80), (60, 60)])
def test_the_crop_is_what_the_blur_makes_visible_with_a_margin_of_two_pixels_at_the_scale_of_the_scan(
    height: int, width: int
) -> None:
    ink = np.zeros((128, 128), np.uint8)
    ink[20 : 20 + height, 30 : 30 + width] = 255
    found, side = pixels(ink), max(height, width) + 2 * (SPREAD + 2)
    # Blur and interpolation move ink about, and the square's side says how much of the image it covers.
    assert found.sum() / 255 == pytest.approx(height * width * (SIDE / side) ** 2, rel=0.01)
    lengths = [(found.max(axis) > 127).sum() for axis in (1, 0)]
    assert lengths == pytest.approx([height * SIDE / side, width * SIDE / side], abs=1), "proportions are kept"
    for axis in (0, 1):
        centre = (found.sum(1 - axis) * np.arange(SIDE)).sum() / found.sum()
        assert centre == pytest.approx((SIDE - 1) / 2, abs=0.3), "in the middle"


def test_an_edge_is_softened_by_a_gaussian_of_sigma_1() -> None:
    # A square that has 28 pixels with its blur and its margin, so that nothing is made smaller.
    long = SIDE - 2 * (SPREAD + MARGIN)
    ink = np.zeros((64, 64), np.uint8)
    ink[10 : 10 + long, 20 : 20 + long] = 255
    edge = np.array([KERNEL[: 4 + k + 1].sum() for k in range(-SPREAD, SPREAD)])
    middle = pixels(ink)[SIDE // 2]
    assert middle[MARGIN : MARGIN + 2 * SPREAD] == pytest.approx(255 * edge, abs=1)


def test_letters_stand_upright_white_on_black_in_the_order_of_the_files(tmp_path: Path) -> None:
    drawn = [scan(), scan(50, 60), scan(30, 30)]
    source = nist_letters("nist_letters", folder_of(tmp_path / "letters", drawn, [0, 25, 1], list(LETTERS)))
    found = [np.asarray(image) for image in source.images(np.arange(3))]
    assert all(np.array_equal(one, pixels(ink)) for one, ink in zip(found, drawn, strict=True))
    assert found[0][20:, :14].mean() > found[0][:8, 14:].mean(), "the foot is below"
    dataset = make_dataset("nist_letters", source)
    assert dataset.images.shape == (3, 1, 32, 32) and dataset.labels.tolist() == [0, 25, 1]
    assert dataset.class_names == LETTERS and dataset.source["kind"] == "nist_letters"


def test_it_never_bears_emnists_name_and_other_classes_and_blank_scans_are_refused(tmp_path: Path) -> None:
    letters = folder_of(tmp_path / "letters", [scan(), np.zeros((128, 128), np.uint8)], [0, 1], list(LETTERS))
    with pytest.raises(UserError, match="'emnist': the source nist_letters makes that data set alone"):
        nist_letters("emnist", letters)
    with pytest.raises(UserError, match=r"image 1 of .* is blank"):
        list(nist_letters("nist_letters", letters).images(np.arange(2)))
    with pytest.raises(UserError, match="has the classes cat, dog, not a to z"):
        nist_letters("nist_letters", folder_of(tmp_path / "pets", [scan()] * 2, [0, 1], ["cat", "dog"]))


def test_where_the_folder_lacks_one_line_says_so_and_what_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cifar10").mkdir()
    out = tmp_path / "letters.npz"
    with pytest.raises(SystemExit) as ended:
        main(["data", "nist_letters", "--source", "nist_letters", "--root", str(tmp_path), "--out", str(out)])
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.count("\n") == 1 and not out.exists()
    assert f"{tmp_path / 'nist_letters_small'} has no train*.parquet" in error and "holds cifar10" in error


def test_a_study_finds_its_folder_and_shows_it_as_a_stand_in_of_26_classes() -> None:
    study = load_study(tiny(data_root="x", data={"nist_letters": {"source": "nist_letters"}}))
    assert artefacts(study)[0].spec["folder"] == "nist_letters_small"
    other = {"source": "nist_letters", "folder": "letters"}
    assert artefacts(load_study(tiny(data_root="x", data={"nist_letters": other})))[0].spec["folder"] == "letters"
    assert CATALOGUE["nist_letters"].classes == study.classes("nist_letters") == 26
    assert CATALOGUE["nist_letters"].stands_in_for == "emnist" and dataset_label("nist_letters").endswith("(stand-in)")


def of_class(dataset: Dataset, label: int) -> np.ndarray:
    return dataset.images[dataset.labels == label, 0].astype(np.float64)


def test_real_letters_stand_and_look_like_emnists(data_root: Path, tmp_path: Path) -> None:
    out = tmp_path / "nist_letters.npz"
    with pytest.raises(SystemExit) as ended:
        main(["data", "nist_letters", "--source", "nist_letters", "--root", str(data_root), "--out", str(out)])
    known = CATALOGUE["nist_letters"]
    ours, name = load_dataset(out), "emnist_letters_a_to_l"
    assert ended.value.code == 0 and (len(ours), ours.channels) == (known.images, known.channels)
    theirs = make_dataset(name, parquet(name, data_root / name), max_samples=3000)
    means = [np.stack([of_class(one, label).mean(0) for label in range(12)]) for one in (ours, theirs)]
    for measure in (np.mean, np.std):
        here, there = (measure(np.concatenate([of_class(one, label) for label in range(12)])) for one in (ours, theirs))
        assert here == pytest.approx(there, rel=0.1)
    turned = {}
    for quarter, flip in product(range(4), (1, -1)):
        mine = np.rot90(means[0][..., ::flip], quarter, (1, 2))
        turned[quarter, flip] = np.corrcoef(mine.ravel(), means[1].ravel())[0, 1]
    assert max(turned, key=turned.get) == (0, 1) and turned[0, 1] > 0.9, "upright, and not mirrored"
