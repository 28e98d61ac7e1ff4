"""The paper's printed numbers, against the files and against what the paper's text shows."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from apfl.data.catalogue import IN_PAPER
from apfl.paper import published

FOLDER = Path(published.__file__).parent / "published"


@pytest.mark.parametrize(("table", "number"), [("table2", 140), ("table3", 24), ("table4", 24)])
def test_every_line_of_a_published_file_is_one_number(table, number):
    with (FOLDER / f"{table}.csv").open(encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    found = published.accuracies(table)
    assert len(lines) == len(found) == len(published.lookup(table)) == number
    for line, item in zip(lines, found, strict=True):
        assert item.dataset == line["dataset"]
        assert f"{item.mean:.2f}" == line.get("accuracy_mean", line.get("accuracy"))
        assert table == "table4" or f"{item.std:.2f}" == line["accuracy_std"]


@pytest.mark.parametrize(
    ("table", "place", "mean", "std"),
    [
        ("table2", ("cifar10", ("5", "0.01"), "AP-FL"), 61.84, 1.75),
        ("table2", ("emnist", ("10", "0.01"), "FedGen"), 66.74, 8.45),
        ("table2", ("fashion_mnist", ("10", "-"), "FedDF"), 83.97, 3.62),
        ("table3", ("cifar100", ("20",), "FedAvg-FT"), 24.73, 1.43),
        ("table4", ("emnist", ("dropout",), "bert"), 51.27, None),
    ],
)
def test_published_numbers_are_those_of_the_paper(table, place, mean, std):
    item = published.lookup(table)[place]
    assert (item.mean, item.std) == (mean, std)


def test_table_1_is_the_printed_assignment():
    devices = {device.client: device for device in published.table1()}
    assert len(devices) == 10
    assert devices[4].classes == (2, 4)
    assert [client for client, device in devices.items() if device.monopoly] == [8]
    assert devices[8].classes == (8, 9)


def test_stand_ins_have_no_published_number():
    for table in published.METHODS:
        assert {item.dataset for item in published.accuracies(table)} == set(IN_PAPER)


def test_the_columns_are_in_the_papers_order():
    for table, names in published.METHODS.items():
        assert set(names) == {item.column for item in published.accuracies(table)}
