"""Images from Parquet files, made here and, where they are, real ones."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from apfl.cli import main
from apfl.data.dataset import load_dataset
from apfl.data.decode import make_dataset
from apfl.data.parquet import parquet
from apfl.errors import UserError
from tests.helpers.parquet_files import NAMES, encode, write


def pixels(count: int, seed: int = 0, size: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "pets"
    write(folder / "train-00000.parquet", pixels(5), [0, 1, 2, 0, 1])
    write(folder / "test-00000.parquet", pixels(3, seed=1), [2, 2, 1])
    return folder


def refused(capsys, tmp_path, *arguments: object) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["data", *map(str, arguments), "--source", "parquet", "--out", str(tmp_path / "d.npz")])
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.startswith("apfl: error: ") and error.count("\n") == 1
    assert not (tmp_path / "d.npz").exists()
    return error


def test_train_and_test_are_pooled_in_this_order_pixel_for_pixel(folder):
    dataset = make_dataset("pets", parquet("pets", folder))
    expected = np.concatenate([pixels(5), pixels(3, seed=1)]).transpose(0, 3, 1, 2)
    assert np.array_equal(dataset.images, expected)
    assert dataset.labels.tolist() == [0, 1, 2, 0, 1, 2, 2, 1] and dataset.class_names == tuple(NAMES)
    assert set(dataset.source["files"]) == {"train-00000.parquet", "test-00000.parquet"}


def test_a_subset_takes_the_right_images_out_of_every_row_group(folder):
    source = parquet("pets", folder)
    chosen = np.array([1, 4, 5, 7])
    found = np.stack([np.asarray(image) for image in source.images(chosen)])
    assert np.array_equal(found, np.concatenate([pixels(5), pixels(3, seed=1)])[chosen])


def test_row_groups_that_are_not_asked_for_are_not_read(folder):
    path = folder / "train-00000.parquet"
    group = pq.ParquetFile(path).metadata.row_group(2)
    start = group.column(0).data_page_offset
    content = bytearray(path.read_bytes())
    content[start : start + 40] = bytes(40)
    path.write_bytes(content)
    source = parquet("pets", folder)
    assert len(list(source.images(np.array([0, 1, 5])))) == 3
    with pytest.raises(UserError, match=r"train-00000\.parquet"):
        list(source.images(np.array([0, 4])))


def test_grey_images_in_webp_become_one_channel_without_loss(tmp_path):
    grey = pixels(4, size=32)[..., :1].repeat(3, axis=3)
    write(tmp_path / "train.parquet", None, [0, 1, 2, 0], encoded=[encode(image, "WEBP") for image in grey])
    dataset = make_dataset("x", parquet("x", tmp_path))
    assert np.array_equal(dataset.images[:, 0], grey[..., 0])


def test_the_other_column_names_of_the_layout_are_read_too(tmp_path):
    write(tmp_path / "train.parquet", pixels(2), [0, 1], columns=("image", "fine_label"))
    assert parquet("x", tmp_path).labels.tolist() == [0, 1]


def test_class_names_come_from_the_folders_of_the_images_if_the_metadata_has_none(tmp_path):
    paths = ["data/cat/1.png", "data/dog/1.png", "data/cat/2.png"]
    write(tmp_path / "train.parquet", pixels(3), [0, 1, 0], names=None, paths=paths)
    assert parquet("x", tmp_path).class_names == ("cat", "dog")
    write(tmp_path / "train.parquet", pixels(3), [0, 1, 1], names=None, paths=paths)
    with pytest.raises(UserError, match="names no classes"):
        parquet("x", tmp_path)
    write(tmp_path / "train.parquet", pixels(3), [0, 1, 0], names=None)
    with pytest.raises(UserError, match="names no classes"):
        parquet("x", tmp_path)


def test_a_changed_file_changes_the_hash_of_the_source(folder):
    before = parquet("pets", folder).source["sha256"]
    write(folder / "test-00000.parquet", pixels(3, seed=2), [2, 2, 1])
    assert parquet("pets", folder).source["sha256"] != before


def test_a_missing_folder_is_one_line_that_names_its_neighbours(folder, capsys, tmp_path):
    error = refused(capsys, tmp_path, "cats", "--root", tmp_path)
    assert "data set cats" in error and "no train*.parquet" in error and "holds pets" in error


@pytest.mark.parametrize("keep", [0.5, 0.02, 0.0])
def test_a_truncated_file_is_one_line_that_names_it(folder, capsys, tmp_path, keep):
    path = folder / "test-00000.parquet"
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    error = refused(capsys, tmp_path, "pets", "--root", tmp_path)
    assert str(path) in error and "not a complete Parquet file" in error and "get it again" in error


def test_a_missing_part_of_a_split_is_one_line(capsys, tmp_path):
    write(tmp_path / "train-00000-of-00002.parquet", pixels(2), [0, 1])
    error = refused(capsys, tmp_path, "x", "--path", tmp_path)
    assert "one of 2 files, but not all of them are there" in error


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"labels": [0, 3]}, "labels run from 0 to 3, classes from 0 to 2"),
        ({"labels": [0, None]}, "not a whole number in every row"),
        ({"labels": [0.5, 1.0]}, "not a whole number in every row"),
        ({"labels": [0, 1], "columns": ("picture", "label")}, "has no column img or image (it has picture, label)"),
        ({"labels": [0, 1], "columns": ("img", "kind")}, "has no column label or fine_label"),
        ({"labels": [0, 1], "encoded": [encode(pixels(1)[0]), b"junk"]}, "row 1 of row group 0: not an image"),
        ({"labels": [0, 1], "encoded": [None, None]}, "row 0 of row group 0: not an image"),
    ],
)
def test_a_file_that_holds_no_labelled_images_is_one_line(capsys, tmp_path, options, words):
    write(tmp_path / "train.parquet", pixels(2), **options)
    assert words in refused(capsys, tmp_path, "x", "--path", tmp_path)


def test_a_column_of_something_else_than_encoded_images_is_one_line(capsys, tmp_path):
    pq.write_table(pa.table({"img": ["a", "b"], "label": [0, 1]}), tmp_path / "train.parquet")
    assert "not a struct with bytes" in refused(capsys, tmp_path, "x", "--path", tmp_path)


@pytest.fixture
def real() -> str:
    root = os.environ.get("APFL_DATA_ROOT")
    if not root:
        pytest.skip("real images: set APFL_DATA_ROOT to the folder of the Parquet files")
    return root


@pytest.mark.parametrize(
    ("name", "classes", "channels"),
    [
        ("cifar10", 10, 3),
        ("cifar100", 100, 3),
        ("fashion_mnist", 10, 1),
        ("emnist_letters_a_to_l", 12, 1),
        ("ocr_letters", 26, 1),
    ],
)
def test_real_images_are_decoded(real, tmp_path, name, classes, channels):
    out = tmp_path / f"{name}.npz"
    with pytest.raises(SystemExit) as ended:
        main(["data", name, "--source", "parquet", "--root", real, "--max-samples", "400", "--out", str(out)])
    dataset = load_dataset(out)
    assert ended.value.code == 0
    assert dataset.images.shape == (400, channels, 32, 32) and dataset.classes == classes
    assert dataset.images.min() == 0 and dataset.images.max() > 250 and dataset.images.std() > 40


def test_real_cifar10_has_6000_images_a_class_and_its_known_mean(real):
    source = parquet("cifar10", Path(real) / "cifar10")
    assert np.bincount(source.labels).tolist() == [6000] * 10
    mean = make_dataset("cifar10", source, max_samples=1000).images.mean(axis=(0, 2, 3)) / 255
    assert np.allclose(mean, [0.4914, 0.4822, 0.4465], atol=0.02)


def test_real_letters_a_to_l_are_refused_as_emnist(real, capsys, tmp_path):
    error = refused(capsys, tmp_path, "emnist", "--path", f"{real}/emnist_letters_a_to_l")
    assert "emnist: has 26 classes, not 12" in error and "a name of its own" in error
