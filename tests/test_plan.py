"""The plan in docs/plan.md is kept: what decides has not changed after it was frozen."""

from __future__ import annotations

import json
import re
from collections import defaultdict

import pytest

from apfl.jobs.archive import contents
from apfl.registry.trees import ROOT


def records(study: str) -> list[dict]:
    files = contents(ROOT / "results" / study)
    return [json.loads(text) for name, text in files.items() if name.endswith("/run.json")]


BLOCKS = [("P", "paper_scale"), ("G", "reference"), ("G", "reference_ten_seeds")]
"""Blocks by whose commit archives are made; D's runs are made by G's."""


@pytest.mark.parametrize(("block", "study"), BLOCKS)
def test_every_run_of_a_block_was_made_by_the_planned_commit_without_edits(block: str, study: str) -> None:
    plan = (ROOT / "docs" / "plan.md").read_text(encoding="utf-8")
    (commit,) = re.findall(rf"{block}'s is ([0-9a-f]{{7}})\b", plan)
    again = re.findall(rf"{block}'s runs of `\w+` are made again by ([0-9a-f]{{7}})", plan)
    made = records(study)
    assert made
    # What is made again takes the place of the others as a whole: see the next test.
    assert all(run["commit"].startswith((commit, *again)) and run["clean"] for run in made)


@pytest.mark.parametrize("study", [study for _, study in BLOCKS])
def test_runs_of_a_method_in_a_block_were_made_by_one_code(study: str) -> None:
    codes = defaultdict(set)
    for run in records(study):
        codes[run["stage"], run["specification"].get("module")].add(run["code"])
    assert all(len(found) == 1 for found in codes.values()), codes
