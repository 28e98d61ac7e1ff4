"""Data sets: sources, decoding, subsets and names."""

from __future__ import annotations

import gzip
import hashlib
import struct
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits

from apfl.cli import main
from apfl.data.dataset import Dataset, load_dataset, save_dataset
from apfl.data.decode import make_dataset, subset, to_pixels
from apfl.data.partition import make_partition
from apfl.data.plots import SINGLE, partition_picture, sample_picture
from apfl.data.raw import Raw, from_array
from apfl.data.sources import digits, image_folder, photos, pooled
from apfl.errors import UserError


def raw(pixels: np.ndarray, labels=None, names=("a", "b")) -> Raw:
    labels = np.arange(len(pixels)) % len(names) if labels is None else labels
    return Raw(labels, names, from_array(pixels), {"kind": "test"})


def refused(capsys, *arguments: object) -> str:
    """The one line with which the command line refuses; nothing may be left behind."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.startswith("apfl: error: ") and error.count("\n") == 1
    return error


def test_digits_are_the_scikit_learn_digits_scaled_to_255_and_resized():
    dataset = make_dataset("digits", digits("digits"))
    bunch = load_digits()
    assert dataset.images.shape == (1797, 1, 32, 32) and dataset.images.dtype == np.uint8
    assert np.array_equal(dataset.labels, bunch.target) and dataset.class_names[3] == "three"
    assert np.allclose(dataset.images.mean(axis=(1, 2, 3)), bunch.images.mean(axis=(1, 2)) * 255 / 16, atol=4)
    # Away from the borders a pixel of the centre of an 8x8 pixel lies between its neighbours.
    assert np.corrcoef(dataset.images[:, 0, 1::4, 1::4].ravel(), bunch.images.ravel())[0, 1] > 0.97
    assert len(dataset.source["sha256"]) == 64


def test_a_data_set_file_gives_the_data_set_back_and_is_the_same_every_time(tmp_path):
    dataset = make_dataset("digits", digits("digits"), max_samples=50)
    save_dataset(tmp_path / "a.npz", dataset)
    save_dataset(tmp_path / "b.npz", make_dataset("digits", digits("digits"), max_samples=50))
    back = load_dataset(tmp_path / "a.npz")
    assert np.array_equal(back.images, dataset.images) and np.array_equal(back.labels, dataset.labels)
    assert (back.name, back.class_names, back.source) == (dataset.name, dataset.class_names, dataset.source)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_images_are_grey_only_if_all_channels_agree_in_every_image():
    pixels = np.repeat(np.random.default_rng(0).integers(0, 256, (4, 32, 32, 1), np.uint8), 3, axis=3)
    assert np.array_equal(make_dataset("x", raw(pixels)).images[:, 0], pixels[..., 0])
    pixels[3, 5, 7, 2] ^= 1
    dataset = make_dataset("x", raw(pixels))
    assert np.array_equal(dataset.images, pixels.transpose(0, 3, 1, 2))


def test_a_narrow_image_is_padded_to_a_square_before_it_is_resized():
    pixels = to_pixels(Image.fromarray(np.full((16, 8), 255, np.uint8)))
    assert pixels.shape == (32, 32, 3)
    assert (pixels[:, 10:22] == 255).all() and (pixels[:, :6] == 0).all() and (pixels[:, 26:] == 0).all()
    assert np.array_equal(pixels, pixels[::-1]) and np.array_equal(pixels, pixels[:, ::-1])


def test_resizing_is_bilinear_from_28_pixels():
    small = np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)
    # Output pixel i lies at (i + 1/2) 28/32 - 1/2 of the input; between input pixels the value is linear.
    place = np.clip((np.arange(32) + 0.5) * 28 / 32 - 0.5, 0, 27)
    low, part = np.floor(place).astype(int), place % 1
    high = np.minimum(low + 1, 27)
    across = small[:, low] * (1 - part) + small[:, high] * part
    expected = across[low] * (1 - part)[:, None] + across[high] * part[:, None]
    assert np.allclose(to_pixels(Image.fromarray(small))[..., 0], expected, atol=1.5)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK"])
def test_any_mode_of_image_becomes_rgb(mode):
    white = Image.new("RGB", (40, 40), (255, 255, 255)).convert(mode)
    assert (to_pixels(white) == 255).all()


@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(lambda sizes: sum(sizes) > 1),
    part=st.floats(0.01, 0.99),
)
def test_a_subset_has_the_size_asked_for_and_the_classes_in_proportion(sizes, part):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    size = max(1, int(part * len(labels)))
    chosen = subset(labels, size, 0, "x")
    assert len(chosen) == size and (np.diff(chosen) > 0).all()
    kept = np.bincount(labels[chosen], minlength=len(sizes))
    assert (abs(kept - np.array(sizes) * size / len(labels)) < 1).all()


def test_the_seed_decides_the_subset():
    labels = np.arange(1000) % 10
    first, again, other = (subset(labels, 100, seed, "x") for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert np.array_equal(subset(labels, 5000, 0, "x"), np.arange(1000))


def test_a_subset_decodes_no_other_images():
    decoded = []

    def images(positions):
        decoded.extend(positions.tolist())
        return from_array(np.zeros((1000, 8, 8), np.uint8))(positions)

    dataset = make_dataset("x", Raw(np.arange(1000) % 2, ("a", "b"), images, {}), max_samples=10, seed=4)
    assert len(dataset) == len(decoded) == 10 and dataset.source == {"max_samples": 10, "seed": 4}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": np.zeros((2, 2, 32, 32), np.uint8)}, "not uint8 .2, 1 or 3, 32, 32."),
        ({"images": np.zeros((2, 1, 28, 28), np.uint8)}, "not uint8"),
        ({"images": np.zeros((2, 1, 32, 32), np.float32)}, "not uint8"),
        ({"images": np.zeros((3, 1, 32, 32), np.uint8)}, "not uint8"),
        ({"labels": np.array([0, 2])}, "labels outside 0 to 1"),
        ({"labels": np.array([0, -1])}, "labels outside 0 to 1"),
        ({"labels": np.array([0, 1], np.int32)}, "not int64"),
        ({"images": np.zeros((0, 1, 32, 32), np.uint8), "labels": np.arange(0)}, "holds no image"),
        ({"name": "emnist"}, "has 26 classes, not 2; give a stand-in a name of its own"),
        ({"name": "Bad name"}, "lower-case letters"),
    ],
)
def test_a_data_set_that_contradicts_itself_or_its_name_is_refused(change, words):
    fields = {"name": "x", "images": np.zeros((2, 1, 32, 32), np.uint8), "labels": np.array([0, 1])}
    with pytest.raises(UserError, match=words):
        Dataset(**(fields | change), class_names=("a", "b"), source={})


def test_torchvision_parts_are_pooled_train_first():
    parts = [
        SimpleNamespace(data=np.full((2, 32, 32, 3), 9, np.uint8), targets=[1, 0], classes=["cat", "dog"]),
        SimpleNamespace(data=np.full((1, 32, 32, 3), 7, np.uint8), targets=[1], classes=["cat", "dog"]),
    ]
    dataset = make_dataset("pets", pooled("pets", parts))
    assert dataset.labels.tolist() == [1, 0, 1] and dataset.class_names == ("cat", "dog")
    assert dataset.images[:, 0, 0, 0].tolist() == [9, 9, 7]


def test_emnist_letters_from_torchvision_stand_upright_and_are_labelled_from_zero(tmp_path, monkeypatch):
    """Drives torchvision's own reader on a tiny archive that is already there."""
    datasets = pytest.importorskip("torchvision.datasets")
    from apfl.data.sources import torchvision

    upright = np.zeros((26, 28, 28), np.uint8)
    upright[:, 20:, 2:5] = 255  # ink at the lower left
    archive = tmp_path / "EMNIST" / "raw" / "gzip.zip"
    archive.parent.mkdir(parents=True)
    with zipfile.ZipFile(archive, "w") as files:
        numbers = np.arange(1, 27, dtype=np.uint8)
        for part, labels in (("train", numbers), ("test", numbers[::-1])):
            for what, array in (("images-idx3", upright.transpose(0, 2, 1)), ("labels-idx1", labels)):
                head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
                packed = gzip.compress(head + array.tobytes())
                files.writestr(f"gzip/emnist-letters-{part}-{what}-ubyte.gz", packed)
    monkeypatch.setattr(datasets.EMNIST, "md5", hashlib.md5(archive.read_bytes()).hexdigest())
    torchvision("emnist", tmp_path)
    dataset = make_dataset("emnist", torchvision("emnist", tmp_path))
    assert dataset.class_names == tuple("abcdefghijklmnopqrstuvwxyz")
    assert dataset.labels.tolist() == [*range(26), *range(25, -1, -1)]
    assert (dataset.images[:, 0, 25:31, 3:5] > 200).all() and (dataset.images[:, 0, :20] == 0).all()


def test_what_torchvision_cannot_get_is_one_line(tmp_path, capsys, monkeypatch):
    datasets = pytest.importorskip("torchvision.datasets")

    def offline(*arguments, **options):
        raise OSError("no route to host")

    monkeypatch.setattr(datasets, "CIFAR10", offline)
    out = tmp_path / "d.npz"
    error = refused(capsys, "data", "cifar10", "--source", "torchvision", "--path", tmp_path, "--out", out)
    assert "no route to host" in error and "check the network" in error and not out.exists()
    error = refused(capsys, "data", "mnist", "--source", "torchvision", "--path", tmp_path, "--out", out)
    assert "'mnist'" in error and "cifar10, cifar100, emnist, fashion_mnist" in error


def test_an_image_folder_is_read_class_by_class_train_first(tmp_path):
    for part, value in (("train", 10), ("test", 20)):
        for label, name in enumerate(("2", "10")):
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            Image.fromarray(np.full((32, 32), value + label, np.uint8)).save(folder / "0.png")
            (folder / "notes.txt").write_text("no image")
    source = image_folder("x", tmp_path)
    dataset = make_dataset("x", source)
    assert dataset.class_names == ("2", "10") and dataset.labels.tolist() == [0, 1, 0, 1]
    assert dataset.images[:, 0, 0, 0].tolist() == [10, 11, 20, 21]
    (tmp_path / "train" / "2" / "0.png").write_bytes(b"broken")
    changed = image_folder("x", tmp_path)
    assert changed.source["sha256"] != source.source["sha256"]
    with pytest.raises(UserError, match="not an image that can be decoded"):
        make_dataset("x", changed)


def test_the_command_line_writes_data_partition_and_pictures(tmp_path, capsys):
    data, partition = tmp_path / "digits.npz", tmp_path / "p" / "seed0.npz"
    for arguments in (
        ["data", "digits", "--source", "digits", "--max-samples", "300", "--out", data],
        ["partition", "--data", data, "--setting", "iid-clients3", "--out", partition],
    ):
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        assert ended.value.code == 0
    assert capsys.readouterr().err == ""  # the progress bar is for terminals
    assert len(load_dataset(data)) == 300 and partition.exists()
    assert {path.name for path in tmp_path.rglob("*.*")} == {"digits.npz", "digits.png", "seed0.npz", "seed0.png"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nonsense", "--source", "digits"], "data set 'nonsense': the source digits holds the data set digits alone"),
        (["x", "--source", "tape"], "source 'tape': unknown; use one of digits, photos, torchvision, parquet, folder"),
        (["x", "--source", "parquet"], "no folder given; add --path"),
        (["Bad-Name", "--source", "digits"], "data set 'Bad-Name'"),
        (["digits", "--source", "digits", "--max-samples", "0"], "max_samples: is 0"),
        (["y", "--source", "folder", "--path", "/no/where"], "has no images in folders of classes"),
    ],
)
def test_a_data_set_that_cannot_be_made_is_refused_in_one_line(tmp_path, capsys, arguments, words):
    assert words in refused(capsys, "data", *arguments, "--out", tmp_path / "d.npz")
    assert not list(tmp_path.iterdir())


def test_a_damaged_data_set_file_is_refused_in_one_line(tmp_path, capsys):
    broken = tmp_path / "d.npz"
    for content in (b"", b"PK\x03\x04 not really"):
        broken.write_bytes(content)
        error = refused(capsys, "partition", "--data", broken, "--setting", "iid-clients3", "--out", tmp_path / "p.npz")
        assert "cannot be read" in error and "make it again" in error


@pytest.mark.parametrize(("classes", "clients"), [(10, 10), (100, 10), (10, 300), (10, 5000)])
def test_a_picture_of_a_partition_is_red_where_clients_drop_out(tmp_path, classes, clients):
    labels = np.arange(2 * clients * classes) % classes
    images = np.broadcast_to(np.zeros((1, 1, 32, 32), np.uint8), (len(labels), 1, 32, 32))
    dataset = Dataset("x", images, labels, tuple(f"class {label}" for label in range(classes)), {})
    own = classes // 5
    dropout = f"pathological-classes{own}-clients{clients}-missing20"
    for setting, is_red in ((dropout, True), (f"iid-clients{clients}", False)):
        path = tmp_path / f"{is_red}.png"
        partition_picture(path, dataset, make_partition(dataset, setting, 0))
        pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
        red = pixels[..., 0] - pixels[..., 1] > 100
        assert (red.sum() > 500) == is_red
        # Of many clients a line across all classes shows those that drop out, however few they are.
        assert (red.sum(axis=1).max() > 0.5 * red.shape[1]) == (is_red and clients > SINGLE)
        assert max(pixels.shape) < 3000, "many clients have a picture of the size of few ones"
    sample_picture(tmp_path / "samples.png", dataset)
    assert Image.open(tmp_path / "samples.png").format == "PNG"


def test_photos_are_overlapping_patches_of_two_photographs():
    dataset = make_dataset("photos", photos("photos"))
    assert dataset.images.shape == (2 * 25 * 39, 3, 32, 32) and dataset.class_names == ("temple", "flower")
    first, right, below = dataset.images[0], dataset.images[1], dataset.images[39]
    assert np.array_equal(first[:, :, 16:], right[:, :, :16]) and np.array_equal(first[:, 16:], below[:, :16])
    with pytest.raises(UserError, match="holds the data set photos alone"):
        photos("cifar10")
