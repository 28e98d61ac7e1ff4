"""Which files are a split, a shard, a class: what is read, what is said to be left out, and what is refused."""

from __future__ import annotations

import io
import json
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from apfl.data.layout import split_of
from apfl.data.parquet import class_names, parquet
from apfl.data.sources import image_folder
from apfl.errors import UserError

STREAM = np.random.default_rng(0)


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(STREAM.integers(0, 256, (8, 8, 3), np.uint8)).save(path, "PNG")


def pictures(root: Path, *names: str) -> Path:
    """A folder with pictures of these names; a name that ends with / is an empty folder."""
    for name in names:
        (root / name).mkdir(parents=True, exist_ok=True) if name.endswith("/") else picture(root / name)
    return root


def shards(root: Path, *names: str, classes: object = ("cat", "dog"), paths: bool = False) -> Path:
    """A folder of Parquet files with two rows each, no two of them alike."""
    for name in names:
        buffer = io.BytesIO()
        Image.fromarray(STREAM.integers(0, 256, (8, 8, 3), np.uint8)).save(buffer, "PNG")
        rows = [{"bytes": None if paths else buffer.getvalue(), "path": f"a/{row}.png"} for row in range(2)]
        struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        table = pa.table({"image": pa.array(rows, struct), "label": [0, 1]})
        features = {"info": {"features": {"label": {"names": classes}}}}
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(features)}), root / name)
    return root


def read(root: Path) -> list[str]:
    return list(parquet("x", root).source["files"])


@pytest.mark.parametrize(
    "names",
    [
        ["train-00000-of-00002-0123456789abcdef.parquet", "train-00001-of-00002-fedcba9876543210.parquet"],
        ["train.parquet", "val.parquet", "test.parquet"],
        ["Training-00000.parquet", "dev-00000.parquet", "Testing-00000.parquet"],
        ["data/train-00000-of-00001.parquet", "data/validation-00000-of-00001.parquet"],
        ["train/0000.parquet", "train/0001.parquet", "test/0000.parquet"],
        ["default/train/0000.parquet", "default/test/0000.parquet"],
        ["plain_text/train-00000-of-00001.parquet"],
        ["train-1-of-2.parquet", "train-2-of-2.parquet"],
        ["cifar_train.parquet", "cifar_test.parquet"],
        ["0000.parquet", "0001.parquet"],
        ["everything.parquet"],
    ],
)
def test_every_layout_of_people_and_hubs_is_read_train_first_and_test_last(tmp_path: Path, names: list[str]) -> None:
    assert read(shards(tmp_path, *names)) == names


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (["train-00000-of-00003-0123456789abcdef.parquet"], "is one of 3 files, but not all of them are there .1 of 3"),
        (["data/train-00001-of-00002.parquet"], "is one of 2 files, but not all of them are there"),
        (["train-00000-of-00001.parquet", "train-00000-of-00002.parquet", "train-00001-of-00002.parquet"],
         "train-00000-of-00001.parquet and train-00001-of-00002.parquet are of two uploads"),
        (["train-00000-of-00001-0123456789ab.parquet", "train-00000-of-00001-ba9876543210.parquet"],
         "0123456789ab.parquet and train-00000-of-00001-ba9876543210.parquet are of two uploads"),
        (["train.parquet", "train-00000-of-00001.parquet"], "are of two uploads of train; keep one"),
        (["train-00000.parquet", "train-00002.parquet"], "number 1 of the files like train-00000.parquet is missing"),
        (["a/train.parquet", "b/train.parquet"], r"holds several data sets \(a, b\); give the folder of one"),
        (["cats.parquet", "dogs.parquet"], "cats.parquet, dogs.parquet; name the files after their splits"),
    ],
)  # fmt: skip
def test_shards_that_are_missing_or_of_two_uploads_are_refused(tmp_path: Path, names: list[str], line: str) -> None:
    with pytest.raises(UserError, match=line):
        parquet("x", shards(tmp_path, *names))


def test_a_file_that_is_there_twice_is_refused_whatever_it_is_called(tmp_path: Path) -> None:
    shards(tmp_path, "train-00000-of-00001.parquet")
    shutil.copy(tmp_path / "train-00000-of-00001.parquet", tmp_path / "train-00000-of-00001 (1).parquet")
    with pytest.raises(UserError, match="are the same file; remove one of them"):
        parquet("x", tmp_path)


def test_an_unfinished_download_is_refused(tmp_path: Path) -> None:
    shards(tmp_path, "train.parquet")
    (tmp_path / "test.parquet.crdownload").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"test\.parquet\.crdownload: is an unfinished download"):
        parquet("x", tmp_path)


def test_what_belongs_to_no_split_is_said_to_be_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert read(shards(tmp_path, "train.parquet", "extra.parquet", "._train.parquet")) == ["train.parquet"]
    assert capsys.readouterr().err == "data set x: leaves out extra.parquet, which belong to no split\n"


def test_a_pointer_of_git_lfs_is_called_what_it_is(tmp_path: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    (tmp_path / "train.parquet").write_text(pointer)
    with pytest.raises(UserError, match="a pointer of Git LFS; run git lfs pull"):
        parquet("x", tmp_path)
    picture(tmp_path / "pets/cat/1.png")
    (tmp_path / "pets/cat/1.png").write_text(pointer)
    with pytest.raises(UserError, match=r"1\.png: .*a pointer of Git LFS; run git lfs pull"):
        list(image_folder("x", tmp_path / "pets").images(np.array([0])))


def test_paths_in_place_of_images_are_called_what_they_are(tmp_path: Path) -> None:
    source = parquet("x", shards(tmp_path, "train.parquet", paths=True))
    with pytest.raises(UserError, match=r"holds a path \(a/0\.png\), no image; embed the images"):
        list(source.images(np.array([0])))


def test_class_names_of_the_metadata_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    names = {str(number): f"class {number}" for number in sorted(range(12), key=str)}
    assert list(names)[:3] == ["0", "1", "10"]
    shards(tmp_path, "train.parquet", classes=names)
    assert class_names("x", tmp_path) == tuple(f"class {number}" for number in range(12))


def test_files_that_number_their_classes_otherwise_are_refused(tmp_path: Path) -> None:
    shards(tmp_path, "train.parquet")
    shards(tmp_path, "test.parquet", classes=["dog", "cat"])
    with pytest.raises(UserError, match=r"test\.parquet: has not the class names of train\.parquet"):
        parquet("x", tmp_path)


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (["cat/1.png", "dog/1.png", "bird/", "__MACOSX/cat/._1.png", "cat/._1.png"], ("cat", "dog")),
        (["cat/1.png", "dog/1.JPG", "cat/.hidden.png", ".git/1.png", "@eaDir/1.png"], ("cat", "dog")),
        (["Train/cat/1.png", "Train/dog/1.png", "val/cat/2.png", "Testing/dog/3.png"], ("cat", "dog")),
        (["car/1.png", "ship/1.png", "train/1.png"], ("car", "ship", "train")),
        (["pets/cat/1.png", "pets/dog/1.png"], ("cat", "dog")),
        (["pets/train/cat/1.png", "pets/train/dog/1.png"], ("cat", "dog")),
        (["10/1.png", "9/1.png"], ("9", "10")),
    ],
)
def test_a_class_is_a_folder_with_images(tmp_path: Path, names: list[str], classes: tuple[str, ...]) -> None:
    source = image_folder("x", pictures(tmp_path, *names))
    assert source.class_names == classes
    assert set(source.labels.tolist()) == set(range(len(classes)))


def test_an_empty_class_is_said_to_be_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image_folder("x", pictures(tmp_path, "cat/1.png", "dog/1.png", "bird/", "__MACOSX/"))
    assert capsys.readouterr().err == f"data set x: leaves out bird of {tmp_path}, without any image\n"


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (["training/1.png", "testing/1.png"], "testing, training of .* are called after splits"),
        (["train/1.png"], "train of .* are called after splits"),
        (["train/cat/1.png", "train/dog/1.png", "test/1.png"], "test of .* are called after splits"),
        (["train/cat/1.png", "train/dog/1.png", "owl/1.png"], r"holds splits \(train\) beside owl"),
        (["train/cat/1.png", "training/cat/1.png"], r"has one split twice \(train, training\)"),
        (["train/cat/1.png", "test/Cat/1.png"], "test has the class 'Cat', which .*train has not"),
        (["train/cat/1.png", "val/images/1.png"], "val has the class 'images', which .*train has not"),
        (["cat/1.png", "dog/images/1.png", "dog/2.png"], r"dog/images/1\.png: lies below the folder of a class, dog"),
        (["cat/1.png", "dog/1.heic"], r"dog/1\.heic: pictures of this kind are not read; save them as PNG or JPEG"),
    ],
)  # fmt: skip
def test_folders_that_could_be_read_in_two_ways_are_refused(tmp_path: Path, names: list[str], line: str) -> None:
    with pytest.raises(UserError, match=line) as refused:
        image_folder("x", pictures(tmp_path, *names))
    assert "; " in str(refused.value) and "\n" not in str(refused.value)


def test_one_class_is_one_class_however_its_letters_are_stored(tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    assert composed != apart
    source = image_folder("x", pictures(tmp_path, f"train/{composed}/1.png", f"test/{apart}/2.png"))
    assert source.class_names == (composed,) and source.labels.tolist() == [0, 0]


def test_a_file_name_that_is_not_utf_8_is_read(tmp_path: Path) -> None:
    picture(tmp_path / "cat" / "a.png")
    shutil.copy(tmp_path / "cat" / "a.png", bytes(tmp_path / "cat") + b"/caf\xe9.png")
    assert len(image_folder("x", tmp_path).labels) == 2


def test_a_word_of_a_split_is_a_whole_word() -> None:
    assert [split_of(name) for name in ("validate", "devon", "evaluation-set", "latest", "my_test")] == [
        None, None, "validation", None, "test",
    ]  # fmt: skip
