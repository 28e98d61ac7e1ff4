"""docs/walk-through.md, run from its own text: files written and commands given in the order in which they stand."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from apfl.registry.trees import ROOT
from tests.helpers import forked
from tests.helpers.project import BIN

STEPS = re.compile(r"^`([\w./-]+)`:\n\n```\w+\n(.*?)^```$|^    (\S[^\n]*)$", re.MULTILINE | re.DOTALL)
"""A file with its text, or a command on a line of its own."""


def steps(page: str) -> list[tuple[str, str, str]]:
    """(file, its text, "") or ("", "", command), in the order of the page; what is indented in a file is no command."""
    return STEPS.findall(page)


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """The folder in which the page ends, and what each of its commands said; its 2 GB go with the last test."""
    begun, said = tmp_path_factory.mktemp("walk"), {}
    folder = begun
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "APFL_DATA_ROOT": ""}
    for name, text, command in steps((ROOT / "docs/walk-through.md").read_text()):
        if name:
            (folder / name).write_text(text)
        elif command.startswith("cd "):
            folder /= command.removeprefix("cd ")
        else:
            words = shlex.split(re.sub("^apfl ", f"{sys.executable} -m apfl ", command))
            done = forked.run(words, folder, environment, timeout=900)
            said[command] = done.stdout + done.stderr
            assert done.returncode == 0, said[command]
    yield folder, said
    shutil.rmtree(begun)


def test_the_table_has_exactly_the_methods_and_the_clients_that_were_asked_for(said) -> None:
    table = pd.read_csv(said[0] / "results/handwriting/tables/table2.csv")
    assert list(table["title"].unique()) == ["Local", "FedAvg", "FedAvgM"] and set(table["status"]) == {"ok"}
    assert set(table["setting"]) == {"natural-clients50"}
    heading = (said[0] / "results/handwriting/tables/table2.md").read_text().split("| :--")[0]
    assert re.findall(r"\w+", heading.splitlines()[-1])[-3:] == ["Local", "FedAvg", "FedAvgM"]


def test_ten_of_fifty_clients_took_part_in_each_round(said) -> None:
    run = said[0] / "results/handwriting/runs/handwriting/natural-clients50/fedavgm/seed0/run.json"
    drawn = pd.read_json(run, typ="series")["drawn"]
    assert [len(clients) for clients in drawn] == [10, 10]
    assert drawn[0] != drawn[1]


def test_the_rule_of_one_s_own_has_a_row_for_each_client(said) -> None:
    assert list(pd.read_csv(said[0] / "results/people.csv")["client"]) == list(range(50))


def test_the_terminal_follows_the_module_s_jobs_and_names_the_page(said) -> None:
    last = said[1]["snakemake"]
    assert "began federate handwriting, natural-clients50, fedavgm, seed 0" in last
    assert "the page: results/handwriting/report.html" in last


def test_a_study_is_checked_and_planned_before_its_images_are_counted(said) -> None:
    assert "how many images it has is not known" in said[1]["apfl check config/config.yaml"]
    assert "holds no image" not in said[1]["apfl plan config/config.yaml"]
