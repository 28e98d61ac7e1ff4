"""Mistakes in data sets, partitions and embeddings, and in the images that they are made from."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.bad_input import (
    NAMES,
    Case,
    Damage,
    arrays,
    both,
    copied,
    federate,
    folder_instead,
    memorize,
    nothing,
    shortened,
    specified,
    text,
    unreadable,
    without,
)

PETS = ("data", "pets", "--source", "parquet", "--path", "parquet", "--out", "pets.npz")
FOLDERS = ("data", "pets", "--source", "folder", "--path", "pets", "--out", "pets.npz")
PARTITION = ("partition", "--data", "data.npz", "--out", "new.npz", "--setting")
EMBED = ("semantics", "--data", "data.npz", "--out", "new.npz", "--source")
TABLE = (*EMBED, "table", "--path", "semantics.npz")


IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def picture(size: tuple[int, int] = (32, 32), form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (200, 30, 60)).save(buffer, form)
    return buffer.getvalue()


def parquet(images: Any = None, labels: Any = (0, 1), names: Any = ("cat", "dog"), **columns: Any) -> Damage:
    """A folder with one Parquet file in the layout of Hugging Face, or not quite."""

    def damage(world: Path) -> None:
        rows = [{"bytes": picture(), "path": None}] * len(labels) if images is None else images
        table = pa.table({"img": rows, "label": list(labels)} | columns)
        features = {"info": {"features": {"label": {"names": names}}}}
        (world / "parquet").mkdir(exist_ok=True)
        path = world / "parquet" / "train.parquet"
        pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(features)}), path)

    return damage


def renamed(*names: str) -> Damage:
    """The columns of the Parquet file under other names."""

    def damage(world: Path) -> None:
        parquet()(world)
        path = world / "parquet" / "train.parquet"
        pq.write_table(pq.read_table(path).rename_columns(list(names)), path)

    return damage


def twice(name: str) -> Damage:
    """The Parquet file with one of its columns a second time."""

    def damage(world: Path) -> None:
        parquet()(world)
        path = world / "parquet" / "train.parquet"
        there = pq.read_table(path)
        pq.write_table(there.append_column(name, there[name]), path)

    return damage


def encoded(data: bytes | None) -> Damage:
    return parquet([{"bytes": picture(), "path": None}, {"bytes": data, "path": None}])


def bomb() -> bytes:
    """A PNG that says that it is 10000 pixels wide and high."""
    data = bytearray(picture())
    data[16:24] = (10000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


def objects(world: Path) -> None:
    np.savez(world / "data.npz", images=np.array([{"a": 1}], dtype=object))


def inflated(world: Path) -> None:
    """The header of an array asks for terabytes."""
    with np.load(world / "data.npz") as archive:
        there = {name: archive[name] for name in archive.files}
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": (1 << 42,)})
    with zipfile.ZipFile(world / "data.npz", "w") as archive:
        for name, value in there.items():
            part = io.BytesIO()
            np.lib.format.write_array(part, value)
            archive.writestr(f"{name}.npy", buffer.getvalue() if name == "images" else part.getvalue())


def data(name: str, line: str, damage: Damage | None = None, /, **changes: Any) -> Case:
    return Case(name, damage or arrays("data.npz", **changes), (*PARTITION, "iid-clients5"), line)


def shared(name: str, line: str, damage: Damage | None = None, /, **changes: Any) -> Case:
    return Case(name, damage or arrays("partition.npz", **changes), federate(), line)


def setting(name: str, line: str) -> Case:
    return Case(f"setting {name}", nothing, (*PARTITION, name), line)


def table(name: str, line: str, damage: Damage | None = None, /, **changes: Any) -> Case:
    return Case(name, damage or arrays("semantics.npz", **changes), TABLE, line)


def first(value: Any) -> Any:
    """A function of an array that puts another value at its beginning."""

    def change(array: np.ndarray) -> np.ndarray:
        array = array.copy()
        array.flat[0] = value
        return array

    return change


CASES = [
    # Parquet.
    Case("parquet folder missing", nothing, PETS,
         r"data set pets: parquet has no train\*\.parquet .*; correct the name"),
    Case("parquet is text", both(parquet(), text("parquet/train.parquet", "no")), PETS,
         r"train\.parquet: not a complete Pa"),
    Case("parquet empty file", both(parquet(), text("parquet/train.parquet", "")), PETS,
         r"not a complete .*; get it again"),
    Case("parquet truncated", both(parquet(), shortened("parquet/train.parquet")), PETS,
         r"train\.parquet: not a complete"),
    Case("parquet is a folder", both(parquet(), folder_instead("parquet/train.parquet")), PETS,
         r"train\.parquet: .*; "),
    Case("parquet unreadable", both(parquet(), unreadable("parquet/train.parquet")), PETS,
         r"(train\.parquet|mem): .*; "),
    Case("parquet without rows", parquet([], []), PETS, r"train\.parquet: .*; |data set pets: holds no image; correct"),
    Case("column of images missing", renamed("picture", "label"), PETS, r"has no column img or image \(it has picture"),
    Case("column of labels missing", renamed("img", "kind"), PETS, r"has no column label or fine_label .*; rename it"),
    Case("two columns of labels", twice("label"), PETS, r"has 2 columns label; rename all but one"),
    Case("images as texts", parquet(["a", "b"]), PETS, r"column img is not a struct with bytes; store encoded images"),
    Case("label out of range", parquet(labels=(0, 2)), PETS, r"labels run from 0 to 2, classes from 0 to 1; correct"),
    Case("label negative", parquet(labels=(0, -1)), PETS, r"labels run from -1 to 0, classes from 0 to 1; correct"),
    Case("label null", parquet(labels=(0, None)), PETS, r"column label is not a whole number in every row; correct"),
    Case("label a text", parquet(labels=("cat", "dog")), PETS, r"column label is not a whole number in every row"),
    Case("names of classes as numbers", parquet(names=[1, 2]), PETS,
         r"class names .*\[1, 2\], not a list of texts; correct"),
    Case("names of classes as one text", parquet(names="ab"), PETS,
         r"class names .*'ab', not a list of texts; correct"),
    Case("names of classes twice", parquet(names=["cat", "cat"]), PETS, r"has two classes called 'cat'; correct its"),
    Case("image null", parquet(pa.array([None, None], IMAGE)), PETS,
         r"row 0 of row group 0: not an image that can be decoded"),
    Case("image of no bytes", encoded(b""), PETS, r"row 1 of row group 0: not an image .*; get the file again"),
    Case("image of noise", encoded(bytes(range(256))), PETS, r"row 1 of row group 0: not an image"),
    Case("image truncated", encoded(picture((32, 32), "JPEG")[:300]), PETS, r"row 1 of row group 0: not an image"),
    Case("image of 100 megapixels", encoded(bomb()), PETS, r"row 1 .*10000 x 10000 pixels; a side has at most 8000"),
    Case("image of a drawing program", encoded(picture(form="EPS")), PETS, r"row 1 of row group 0: not an image"),
    # Folders of images.
    Case("no classes", nothing, (*FOLDERS[:5], "nowhere", *FOLDERS[6:]),
         r"data set pets: nowhere has no images in fold"),
    Case("image damaged", shortened("pets/dog/10.png"), FOLDERS, r"dog/10\.png: not an image .*; get the file again"),
    Case("image unreadable", unreadable("pets/dog/10.png"), FOLDERS, r"(dog/10\.png|mem): .*; "),
    # Data set artefacts.
    data("data missing", r"data set data\.npz: no such file; make it first", without("data.npz")),
    data("data a folder", r"data set data\.npz: is a folder, not a file; make it", folder_instead("data.npz")),
    data("data unreadable", r"data set data\.npz: cannot be read \(.*\); make it again", unreadable("data.npz")),
    data("data empty", r"data set data\.npz: cannot be read \(.*\); make it again", text("data.npz", "")),
    data("data truncated", r"data set data\.npz: cannot be read \(.*\)", shortened("data.npz")),
    data("data a text", r"data set data\.npz: cannot be read \(.*\)", text("data.npz", "images, labels")),
    data("data of objects", r"data set data\.npz: cannot be read \(.*object.*\); make it again", objects),
    data("data of terabytes", r"data set data\.npz: cannot be read \(.*which is not what follows\)", inflated),
    data("images missing", r"data\.npz: has no array 'images' \(it has .*\); make it again", images=...),
    data("names missing", r"data\.npz: has no array 'class_names'", class_names=...),
    data("images of 28 pixels", r"data\.npz: .*images are uint8 .*28, 28\], not uint8 \[300",
         images=lambda images: images[:, :, :28, :28]),
    data("images of two channels", r"images are uint8 \[300, 2, 32, 32\]", images=lambda one: one.repeat(2, axis=1)),
    data("images as floats", r"images are float32", images=lambda images: images.astype(np.float32)),
    data("images one too few", r"images are uint8 \[299, .*not uint8 \[300", images=lambda images: images[:-1]),
    data("labels as floats", r"labels are float64 \[300\], not int64", labels=lambda labels: labels.astype(float)),
    data("labels in two dimensions", r"labels are int64 \[300, 1\]", labels=lambda labels: labels[:, None]),
    data("labels a number", r"labels are int64 \[\], not int64 \[N\]; correct", labels=np.int64(3)),
    data("labels of another class", r"labels outside 0 to 9, such as 10; correct", labels=first(10)),
    data("labels negative", r"labels outside 0 to 9, such as -1", labels=first(-1)),
    data("no image", r"holds no image; correct", labels=np.empty(0, np.int64),
         images=np.empty((0, 1, 32, 32), np.uint8)),
    data("two classes of one name", r"has two classes called 'nine'",
         class_names=np.array([*NAMES[:-2], "nine", "nine"])),
    data("class without a name", r"has the class name '', which is not text", class_names=np.array([*NAMES[:-1], ""])),
    data("source no JSON", r"data\.npz: its source is not JSON; make it again", source=np.array("{")),
    data("name with a path", r"data set '\.\./x': a name has lower-case letters", name=np.array("../x")),
    data("name of a data set of the paper",
         r"cifar100: has 100 classes, not 10; give a stand-in", name=np.array("cifar100")),
    Case("other data", nothing, federate(data="other_data.npz"), r"made from noise .*not from this data set other"),
    # Settings.
    setting("", r"setting '': unknown kind ''; use one of dirichlet"),
    setting("zipf-clients5", r"unknown kind 'zipf'; use one of dirichlet"),
    setting("dirichlet-alpha0.1", r"clients is missing; write it like dirichlet-alpha0\.1-clients5"),
    setting("dirichlet-alpha1e-3-clients5",
            r"setting dirichlet-alpha1e-3-clients5: alpha is '1e-3'; it must be a decimal"),
    setting("dirichlet-alpha-1-clients5", r"alpha is '-1'; it must be a decimal number above 0"),
    setting("dirichlet-alpha0.1-clients5.5", r"clients is '5\.5', not a whole number"),
    setting("dirichlet-alpha0.0001-clients20", r"in 1000 draws some client always held fewer than 10 images; use a"),
    setting("iid-clients301", r"more clients \(301\) than images \(300 of noise\); use fewer"),
    setting("pathological-classes2-clients10-missing99", r"99 % of 10 classes is 10 of them; lower it"),
    setting("../iid-clients5", r"setting '\.\./iid-clients5': unknown kind"),
    # Partition artefacts.
    shared("partition missing", r"partition partition\.npz: no such file; make it first", without("partition.npz")),
    shared("partition truncated", r"partition partition\.npz: cannot be read", shortened("partition.npz")),
    shared("data set as a partition", r"partition partition\.npz: has no array 'client'",
           copied("data.npz", "partition.npz")),
    shared("partition of other data", r"made from other \(200 images\) but not from this data set noise \(300",
           copied("other_partition.npz", "partition.npz")),
    shared("partition of another setting", r"spec\.setting 'pathological.*': partition\.npz is of 'iid-clients5'; give",
           copied("iid.npz", "partition.npz")),
    shared("partition too short", r"is_train is bool \[300\], not bool \[299\]; make it again",
           client=lambda one: one[1:]),
    shared("partition all too short", r"its counts are not those of its 299 images among the 300",
           **dict.fromkeys(("client", "is_train", "is_validation"), lambda one: one[1:])),
    shared("partition as floats", r"client is float64 \[300\], not int64", client=lambda one: one.astype(float)),
    shared("partition of an unknown client", r"client 77 is not one of its 10; make it again", client=first(77)),
    shared("partition of a negative client", r"client -5 is not one of its 10", client=first(-5)),
    shared("counts of other images", r"its counts are not those of its 300 images", counts=first(999)),
    shared("counts of other classes", r"counts is int64 \[10, 9\], not int64 \[10, 10\]",
           counts=lambda one: one[:, 1:]),
    shared("everybody drops out", r"no client that does not drop out has a training image", dropout=np.ones(10, bool)),
    shared("training for nobody", r"some of its training or validation images belong to no client",
           client=np.full(300, -1)),
    shared("dropout as numbers", r"dropout is int64 \[10\], not bool", dropout=lambda one: one.astype(np.int64)),
    shared("specification no JSON", r"its specification is not JSON; make it again", specification=np.array("{")),
    shared("specification a list", r"its specification has no 'dataset'; make it again", specification=np.array("[]")),
    shared("specification without a seed", r"its specification has no 'seed'", specified("partition.npz", seed=...)),
    # Embeddings.
    table("embedding missing", r"--path semantics\.npz: no such file or folder; correct it", without("semantics.npz")),
    table("embedding truncated", r"embedding table semantics\.npz: cannot be read", shortened("semantics.npz")),
    table("no embedding in it", r"semantics\.npz: has no array 'embedding'", embedding=...),
    table("embedding with NaN", r"semantics\.npz: row 0 of the embedding has numbers that are not finite; correct",
          embedding=first(np.nan)),
    table("embedding too large", r"row 0 of the embedding has numbers that are not finite",
          embedding=lambda one: one.astype(np.float64) * 1e300),
    table("embedding of one dimension", r"embedding is float32 \[10\], not numbers", embedding=lambda one: one[:, 0]),
    table("embedding without rows", r"embedding is float32 \[0, 384\], not numbers", embedding=lambda one: one[:0]),
    table("embedding of texts", r"embedding is <U1 \[1, 1\], not numbers", embedding=np.array([["a"]])),
    table("embedding of complex numbers", r"embedding is complex128", embedding=lambda one: one.astype(complex)),
    table("embedding of fewer classes", r"semantics\.npz: has 10 names for 9 embeddings; correct the table",
          embedding=lambda one: one[:-1]),
    table("embedding of other classes", r"semantics\.npz: has 10 rows \(a, a.*\) for 10 classes \(zero",
          names=np.array(["a"] * 10)),
    table("embedding of a part of the classes", r"semantics\.npz: has no row for nine; use a table of all 10",
          embedding=lambda one: one[:-1], names=np.array(NAMES[:-1]), texts=np.array(NAMES[:-1])),
    Case("embedding of other classes in a run", arrays("semantics.npz", names=np.array([f"n{i}" for i in range(10)])),
         memorize(), r"semantics\.npz: has 10 rows \(n0"),
    Case("source of embeddings", nothing, (*EMBED, "elmo"), r"semantics source 'elmo': unknown; use one of packaged"),
    Case("option of another source", nothing, (*EMBED, "packaged", "--dimension", "3"),
         r"packaged: does not read --dim"),
    Case("option missing", nothing, (*EMBED, "shuffled"), r"semantics shuffled: needs --of; add it"),
]  # fmt: skip
