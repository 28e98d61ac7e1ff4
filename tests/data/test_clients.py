"""Clients that a data set comes with: beside a folder of images, in Parquet files, and in a saved partition."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from apfl.cli import main
from apfl.data.dataset import NOBODY, Dataset, OwnClients, load_dataset, save_dataset
from apfl.data.decode import make_dataset
from apfl.data.parquet import parquet
from apfl.data.partition import load_partition, make_partition, save_partition
from apfl.data.sources import image_folder, number_of_clients
from apfl.errors import UserError
from apfl.jobs.before import NOTE, note_sources
from apfl.jobs.calls import Plan, inputs, partition_options
from apfl.stages.try_out import try_out
from apfl.study.cells import artefacts, cells, runs
from apfl.study.load import load_study
from tests.helpers.parquet_files import write
from tests.helpers.studies import tiny

STREAM = np.random.default_rng(0)
CLASSES = ("cat", "dog")
EACH = 6
"""Images of a class, which are called 0.png, 1.png ..."""


def pets(root: Path, *classes: str) -> Path:
    for name in classes or CLASSES:
        (root / name).mkdir(parents=True)
        for number in range(EACH):
            pixels = STREAM.integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return pets(tmp_path / "pets")


def rows(client=lambda label, number: f"c{number % 3}", split=None) -> str:
    """A clients.csv of all pictures."""
    lines = [
        ",".join([f"{name}/{number}.png", client(label, number), *([split(number)] if split else [])])
        for label, name in enumerate(CLASSES)
        for number in range(EACH)
    ]
    return "\n".join(["image,client" + (",split" if split else ""), *lines, ""])


def made(folder: Path, text: str, **options) -> Dataset:
    (folder / "clients.csv").write_text(text, encoding="utf-8")
    return make_dataset("pets", image_folder("pets", folder), **options)


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(UserError) as error:
        made(folder, text)
    assert "\n" not in str(error.value) and str(folder / "clients.csv") in str(error.value)
    return str(error.value)


def command(line: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(line.split())
    return int(ended.value.code)


def test_each_image_is_the_clients_that_its_row_names(folder: Path) -> None:
    dataset = made(folder, rows(lambda label, number: f"c{number % 2}"))
    assert dataset.clients.names == ("c0", "c1")
    assert dataset.clients.client.tolist() == [number % 2 for number in range(EACH)] * 2
    natural = make_partition(dataset, "natural-clients2", 0)
    assert natural.client.tolist() == dataset.clients.client.tolist() and not natural.dropout.any()
    assert natural.counts.sum() + 2 * 1 == len(dataset) == 12, "of six images one is for tests"


def test_without_a_column_of_splits_each_client_keeps_its_tenth_for_tests_by_seed(tmp_path: Path) -> None:
    labels, owner = np.arange(90, dtype=np.int64) % 3, np.arange(90, dtype=np.int64) // 30
    own = OwnClients(("a", "b", "c"), owner, np.zeros(0, np.int64))
    dataset = Dataset("noise", np.zeros((90, 1, 32, 32), np.uint8), labels, ("x", "y", "z"), {"kind": "test"}, own)
    one, other = (make_partition(dataset, "natural-clients3", seed, validation=True) for seed in (0, 1))
    assert all(len(part.test(k)) == len(part.validation(k)) == 3 for part in (one, other) for k in range(3))
    assert not np.array_equal(one.is_train, other.is_train) and np.array_equal(one.client, other.client)
    thinned = make_partition(dataset, "natural-clients3-train30", 0)
    assert thinned.is_train.sum() == 30 and all(np.array_equal(thinned.test(k), one.test(k)) for k in range(3))
    path = tmp_path / "data.npz"
    save_dataset(path, dataset)
    again = load_dataset(path).clients
    assert again.names == own.names and np.array_equal(again.client, own.client) and not len(again.split)


def test_a_column_of_splits_says_what_trains_and_what_tests_for_every_seed(folder: Path) -> None:
    words = ("train", "Training", "test", "val")
    dataset = made(folder, rows(lambda label, number: "a" if number % 2 else "b", lambda number: words[number % 4]))
    one, other = (make_partition(dataset, "natural-clients2", seed) for seed in (0, 1))
    assert np.array_equal(one.is_train, other.is_train)
    for part, numbers in ((one.is_train, {0, 1, 4, 5}), (one.is_validation, {3})):
        assert {place % EACH for place in np.flatnonzero(part)} == numbers


def test_clients_are_sorted_as_numbers_where_they_are_numbers(folder: Path) -> None:
    assert made(folder, rows(lambda label, number: str(9 + number % 2))).clients.names == ("9", "10")


WAYS = {
    "from the folder itself": "{0}/{1}",
    "from the one above": "pets/{0}/{1}",
    "on Windows": "{0}\\{1}",
    "with a dot": "./{0}/{1}",
    "in full": "/home/ada/pets/{0}/{1}",
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_path_is_read_as_people_write_it(folder: Path, way: str) -> None:
    text = rows().replace("cat/0.png", way.format("cat", "0.png")).replace("dog/5.png", way.format("dog", "5.png"))
    assert made(folder, text).clients.client.tolist() == [number % 3 for number in range(EACH)] * 2


def test_a_name_alone_is_enough_where_no_other_image_has_it(folder: Path) -> None:
    os.rename(folder / "cat" / "0.png", folder / "cat" / "Zoé.png")
    text = rows().replace("cat/0.png", unicodedata.normalize("NFD", "Zoé.png"))
    assert (made(folder, text).clients.client != NOBODY).all()
    assert "may be cat/1.png or dog/1.png" in refusal(folder, text.replace("cat/1.png", "1.png"))


def test_spreadsheets_write_it_too(folder: Path) -> None:
    text = rows().replace(",", ";").replace("image;client", "Client;Image")
    lines = text.splitlines()
    turned = [lines[0], *(";".join(reversed(line.split(";"))) for line in lines[1:])]
    assert made(folder, "\ufeff" + "\r\n".join(turned)).clients.names == ("c0", "c1", "c2")


def test_the_file_may_lie_where_the_classes_are(tmp_path: Path) -> None:
    pets(tmp_path / "pets" / "images")
    (tmp_path / "pets" / "images" / "clients.csv").write_text(rows())
    raw = image_folder("pets", tmp_path / "pets")
    assert raw.clients.names == ("c0", "c1", "c2") and number_of_clients("pets", "folder", tmp_path / "pets") == 3
    (tmp_path / "pets" / "clients.csv").write_text(rows())
    with pytest.raises(UserError, match="remove one of them"):
        image_folder("pets", tmp_path / "pets")


def test_images_that_no_row_names_are_nobodys_and_a_line_says_so(folder: Path, capsys) -> None:
    dataset = made(folder, rows(lambda label, number: "ada").replace("dog/3.png,ada\n", ""))
    assert "1 of 12 images" in capsys.readouterr().err
    natural = make_partition(dataset, "natural-clients1", 0)
    assert np.flatnonzero(natural.client == NOBODY).tolist() == [9] and not natural.is_train[9]


def test_a_subset_keeps_its_clients(folder: Path) -> None:
    dataset = made(folder, rows(lambda label, number: f"{CLASSES[label]}{number}"), max_samples=6)
    assert [dataset.clients.names[k][:3] for k in dataset.clients.client] == [CLASSES[k] for k in dataset.labels]


WRONG = {
    "an image that is not there": (
        lambda text: text.replace("cat/0", "cat/99"),
        "line 2: 'cat/99.png' is not an image",
    ),
    "an image twice": (lambda text: text + "cat/1.png,c1\n", "line 14: .*stands in line 3 too"),
    "no client": (lambda text: text.replace("cat/2.png,c2", "cat/2.png,"), "line 4: .*has no client"),
    "other columns": (lambda text: text.replace("client\n", "user\n", 1), "must be image,client"),
}


@pytest.mark.parametrize(("change", "line"), WRONG.values(), ids=WRONG)
def test_a_mistake_is_one_line_that_names_file_and_row(folder: Path, change, line: str) -> None:
    assert __import__("re").search(line, refusal(folder, change(rows())))


def test_a_split_that_is_unknown_or_has_no_part_for_tests_is_refused(folder: Path) -> None:
    assert "split 'holdout' is unknown" in refusal(folder, rows(split=lambda number: "holdout"))
    for text in (rows(split=lambda number: "train"), rows()):  # of four images of a client, none is a tenth
        with pytest.raises(UserError, match="none of the clients' images is for tests"):
            make_partition(made(folder, text), "natural-clients3", 0)


def test_another_number_of_clients_and_a_data_set_without_any_are_refused(folder: Path) -> None:
    dataset = made(folder, rows())
    with pytest.raises(UserError, match="natural-clients5: pets has 3 clients"):
        make_partition(dataset, "natural-clients5", 0)
    (folder / "clients.csv").unlink()
    with pytest.raises(UserError, match=r"comes without clients; give clients\.csv"):
        make_partition(make_dataset("pets", image_folder("pets", folder)), "natural-clients3", 0)


def with_columns(path: Path, **columns: list) -> None:
    count = len(next(iter(columns.values())))
    images = STREAM.integers(0, 256, (count, 8, 8, 3), np.uint8)
    write(path, images, [row % 3 for row in range(count)])
    table = pq.read_table(path)
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values))
    pq.write_table(table, path, row_group_size=2)


@pytest.mark.parametrize("names", [["b", "a", "b", "a"], [7, 3, 7, 3], [7.0, 3.0, None, 3.0]], ids=str)
def test_a_column_of_parquet_files_names_the_clients(tmp_path: Path, names: list, capsys) -> None:
    with_columns(tmp_path / "train.parquet", client=names)
    with_columns(tmp_path / "test.parquet", client=names[:2])
    clients = parquet("pets", tmp_path).clients
    assert len(clients.names) == 2 == number_of_clients("pets", "parquet", tmp_path)
    third = NOBODY if names[2] is None else 1
    assert clients.client.tolist() == [1, 0, third, 0, 1, 0]
    assert ("whose column client is empty" in capsys.readouterr().err) == (names[2] is None)


def test_a_column_of_splits_counts_in_parquet_files_too(tmp_path: Path) -> None:
    with_columns(tmp_path / "train.parquet", client=["a", "a", "b"], split=["train", "test", "train"])
    assert parquet("pets", tmp_path).clients.split.tolist() == [0, 2, 0]
    with_columns(tmp_path / "train.parquet", client=["a", "a", ""], split=["train", "test", ""])
    assert parquet("pets", tmp_path).clients.split.tolist() == [0, 2, NOBODY], "nobody's image needs no split"


def test_a_column_that_some_files_lack_is_left_out_with_a_word(tmp_path: Path, capsys) -> None:
    with_columns(tmp_path / "train.parquet", client=["a", "b"])
    with_columns(tmp_path / "test.parquet", other=["a", "b"])
    assert parquet("pets", tmp_path).clients is None
    assert "column client, which test.parquet does not have" in capsys.readouterr().err


def noise(folder: Path) -> Dataset:
    labels = np.arange(120, dtype=np.int64) % 10
    images = STREAM.integers(0, 256, (120, 1, 32, 32), np.uint8)
    dataset = Dataset("noise", images, labels, tuple("abcdefghij"), {"kind": "test"})
    save_dataset(folder / "noise.npz", dataset)
    return dataset


def test_a_saved_partition_is_taken_over_with_its_splits_and_its_dropout_clients(tmp_path: Path) -> None:
    dataset = noise(tmp_path)
    first = make_partition(dataset, "pathological-classes2-clients10-missing20", 3, validation=True)
    save_partition(tmp_path / "first.npz", first)
    options = f"--data {tmp_path}/noise.npz --seed 0 --out {tmp_path}/taken.npz"
    assert command(f"partition {options} --setting natural-clients10 --saved {tmp_path}/first.npz") == 0
    taken = load_partition(tmp_path / "taken.npz")
    for name in ("client", "is_train", "is_validation", "counts", "dropout", "unseen"):
        assert np.array_equal(getattr(taken, name), getattr(first, name)), name
    assert taken.specification["setting"] == "natural-clients10"
    assert taken.specification["saved"]["setting"] == "pathological-classes2-clients10-missing20"
    assert command(f"partition {options} --setting iid-clients10 --saved {tmp_path}/first.npz") == 2


def test_a_partition_is_exported_as_the_file_that_makes_it_again(folder: Path, tmp_path: Path) -> None:
    """From a folder of images to a data set and a partition, to clients.csv beside the images, and back."""
    data, partition = tmp_path / "pets.npz", tmp_path / "partition.npz"
    assert command(f"data pets --source folder --path {folder} --out {data}") == 0
    assert command(f"partition --data {data} --setting iid-clients2 --seed 1 --validation --out {partition}") == 0
    out = folder / "clients.csv"
    assert command(f"clients {partition} --data {data} --path {folder} --out {out}") == 0
    assert out.read_text().splitlines()[:1] == ["image,client,split"] and "cat/0.png," in out.read_text()
    assert command(f"data pets --source folder --path {folder} --out {tmp_path}/again.npz") == 0
    again, first = (
        make_partition(load_dataset(tmp_path / "again.npz"), "natural-clients2", 7),
        load_partition(partition),
    )
    for name in ("client", "is_train", "is_validation", "counts", "dropout", "unseen"):
        assert np.array_equal(getattr(again, name), getattr(first, name)), name


def test_images_without_files_of_their_own_are_exported_by_position(tmp_path: Path) -> None:
    save_partition(tmp_path / "partition.npz", make_partition(noise(tmp_path), "iid-clients3", 0))
    assert command(f"clients {tmp_path}/partition.npz --data {tmp_path}/noise.npz --out {tmp_path}/out.csv") == 0
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines[1:]] == [str(place) for place in range(120)]


def test_names_are_taken_from_the_images_that_the_data_set_was_made_from(folder: Path, tmp_path: Path, capsys) -> None:
    data, partition = tmp_path / "pets.npz", tmp_path / "partition.npz"
    assert command(f"data pets --source folder --path {folder} --out {data}") == 0
    assert command(f"partition --data {data} --setting iid-clients2 --out {partition}") == 0
    for path, line in (("", "give it (--path)"), (f"--path {pets(tmp_path / 'other')}", "was not made from")):
        assert command(f"clients {partition} --data {data} {path} --out {tmp_path}/out.csv") == 2
        assert line in capsys.readouterr().err


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (pets(tmp_path / "root" / "pets") / "clients.csv").write_text(rows())
    return tmp_path / "root"


def study(root: Path, **entry):
    changes = {
        "data": {"pets": {"source": "folder", "classes": 2} | entry},
        "data_root": str(root),
        "methods": {"local": {}, "fedavg": {}},
        "apfl": {},
        "semantics": {},
        "tables": {"table2": {"partitions": {"pets": "natural"}, "clients": [5, 10]}},
        "figures": {"figure4": {"panels": {"pets": "natural"}}},
    }
    return tiny(**changes)


def test_a_study_names_the_setting_natural_in_every_path_once_whatever_the_clients_of_its_tables(root: Path) -> None:
    loaded = load_study(study(root, clients=3))
    try_out(loaded)
    assert {run.setting for run in runs(loaded)} == {"natural-clients3"} and len(runs(loaded)) == 2
    assert {(cell.axis["clients"], cell.setting) for cell in cells(loaded, "table2")} == {(3, "natural-clients3")}
    assert {cell.axis["clients"] for cell in cells(loaded, "figure4")} == {3}


def test_a_study_that_does_not_say_how_many_clients_there_are_is_told_the_number(root: Path) -> None:
    with pytest.raises(UserError, match=r"partitions\.pets 'natural': .*add `clients: 3` to it"):
        load_study(study(root))
    with pytest.raises(UserError, match=r"data\.pets\.clients 4: it has 3; correct the number"):
        load_study(study(root, clients=4))
    (root / "pets" / "clients.csv").unlink()
    with pytest.raises(UserError, match=r"data\.pets: comes without clients; put clients\.csv into"):
        load_study(study(root, clients=3))


NOT_DIRICHLET = r"alphas?(\.0)?: 'natural' is not valid; give a Dirichlet concentration"
ON = {"entries": [{"method": "fedavg", "schedule": "sync"}]}


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"tables": {"table2": {"partitions": {"pets": "natural-clients3"}}}},
         r"table2\.partitions\.pets 'natural-clients3': says how many clients there are; write natural, as"),
        ({"tables": {"table2": {"alphas": ["natural"]}}}, NOT_DIRICHLET),
        ({"tables": {"table3": {"partitions": {"pets": "natural"}}}}, r"table3: unknown key 'partitions'; known"),
        ({"tables": {"convergence": {"alpha": "natural", **ON}}}, NOT_DIRICHLET),
        ({"tables": {"dropout": {"alpha": "natural", **ON}}}, NOT_DIRICHLET),
        ({"figures": {"figure5": {"alpha": "natural"}}}, NOT_DIRICHLET),
        ({"figures": {"figure_multiverse": {"alphas": ["natural"]}}}, NOT_DIRICHLET),
    ],
)  # fmt: skip
def test_where_the_setting_is_not_shown_it_is_refused_in_one_line(root: Path, changes, line: str) -> None:
    with pytest.raises(UserError, match=line) as refused:
        load_study(study(root, clients=3) | changes)
    assert "\n" not in str(refused.value)


def test_a_study_takes_over_a_saved_partition_and_makes_it_anew_when_the_file_changes(root: Path, tmp_path) -> None:
    dataset = make_dataset("pets", image_folder("pets", root / "pets"))
    save_partition(root / "own.npz", make_partition(dataset, "iid-clients2", 0))
    loaded = load_study(study(root, clients=2, partition="own.npz"))
    (entry,) = (entry for entry in artefacts(loaded) if entry.kind == "partition")
    assert entry.path == "tiny/partitions/pets/natural-clients2/seed0.npz"
    assert partition_options([entry]) == '--saved "$APFL_DATA_ROOT/own.npz"'
    note = tmp_path / "results" / entry.path.replace(".npz", NOTE)
    assert inputs([entry])["note"] == [f"results/{entry.path.replace('.npz', NOTE)}"]
    note_sources(loaded, artefacts(loaded), tmp_path / "results")
    before = note.read_text()
    save_partition(root / "own.npz", make_partition(dataset, "iid-clients2", 1))
    note_sources(loaded, artefacts(loaded), tmp_path / "results")
    assert note.read_text() != before
    usual = Plan.of(load_study(study(root, clients=3)))
    assert [partition_options([one]) for one in usual.artefacts.values() if one.kind == "partition"] == [""]
