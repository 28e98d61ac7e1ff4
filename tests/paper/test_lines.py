"""What stands beside a verdict: its data sets, rows and supplements. None says more than was measured."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from apfl.paper.numbers.choice import BEST
from apfl.paper.numbers.metrics import Metrics
from apfl.paper.verdict.contrasts import Question, Source
from tests.paper.test_claims import AHEAD, BEHIND, claim, fill, judge, study

BOTH = [{"dataset": ["cifar10", "cifar100"], "clients": ["5"], "alpha": ["0.05", "0.1"]}]
TABLE = {"table2": {"datasets": ["cifar10", "cifar100"], "clients": [5], "alphas": ["0.05", "0.1"]}}
ABOVE_CHANCE = {"first": "AP-FL", "against": ["chance"], "above": 0, "gate": "reproduced"}


def test_a_supplement_without_all_comparisons_of_the_claim_is_open(tmp_path: Path) -> None:
    """AP-FL is ahead of FedAvg, and the study has no FedDF: what it would say is not known."""
    loaded = study(
        data={"digits": {"source": "digits"}},
        semantics={"clip": {"source": "packaged"}},
        tables={"table2": {"datasets": ["digits"], "clients": [5], "alphas": ["0.05", "0.1"]}},
    )
    fill(tmp_path, loaded, lambda cell: AHEAD if cell.method == "apfl" else (0.5,) * 3)
    for against, status in ((["FedAvg"], "reproduced"), (["FedAvg", "FedDF"], "open"), (["FedDF"], None)):
        (found,) = judge(tmp_path, loaded, claim(asks=[{"first": "AP-FL", "against": against, "above": 0}]))
        assert [one.status for one in found.stand_ins] == ([status] if status else [])
        if status == "open":
            assert any("AP-FL − FedDF: not in study" in text for text in found.stand_ins[0].absent)


@pytest.mark.parametrize(("table", "status"), [(TABLE, "nothing to judge"), (study().tables, "open")])
def test_a_claim_has_nothing_to_judge_only_where_each_of_its_data_sets_has_nothing(
    tmp_path: Path, table, status
) -> None:
    """At chance on CIFAR-10; on CIFAR-100 too, or not in the study."""
    loaded = study(tables=table)
    chance = {"cifar10": 0.1, "cifar100": 0.01}
    fill(tmp_path, loaded, lambda cell: tuple(chance[cell.dataset] * (1 + step) for step in (-0.01, 0, 0.01)))
    asks = [{"first": "AP-FL", "against": ["FedAvg"], "mean_over": "all", "above": 0}, ABOVE_CHANCE]
    (found,) = judge(tmp_path, loaded, claim(rows=BOTH, asks=asks))
    assert found.verdict.status == status
    assert {one.status for one in found.datasets} <= {"nothing to judge", "not run"}


def test_a_line_that_only_its_correction_leaves_open_says_so(tmp_path: Path) -> None:
    """Two lines, either of which could come out reproduced by chance: p is 0.02 for each, and twice that for both."""
    loaded = study(tables=TABLE)
    fill(tmp_path, loaded, lambda cell: (0.51, 0.52, 0.526) if cell.method == "apfl" else (0.5, 0.5, 0.505))
    ask = {"first": "AP-FL", "against": ["FedAvg"], "mean_over": "all", "above": 0}
    (found,) = judge(tmp_path, loaded, claim(rows=BOTH, asks=[ask]))
    assert found.verdict.status == "reproduced" and "before correction" not in found.verdict.reason
    for line in found.datasets:
        assert line.status == "open" and line.reason == "of 1: 1 on the claimed side before correction"


def test_the_rows_of_the_lines_are_those_of_the_claim(tmp_path: Path) -> None:
    """Corrected for all rows together, whichever line they stand beside."""
    loaded = study(tables=TABLE)
    values = {"cifar10": BEHIND, "cifar100": (0.47, 0.49, 0.48)}
    fill(tmp_path, loaded, lambda cell: values[cell.dataset] if cell.method == "apfl" else (0.5,) * 3)
    ask = {"first": "AP-FL", "against": ["FedAvg", "FedProx"], "mean_over": "all", "above": 0}
    (found,) = judge(tmp_path, loaded, claim(rows=BOTH, asks=[ask], every=True))
    assert Counter(found.verdict.rows) == Counter(row for line in found.datasets for row in line.rows)
    assert {line.dataset: len(line.rows) for line in found.datasets} == {"cifar10": 2, "cifar100": 2}


def test_where_no_reading_is_chosen_there_is_no_best_one() -> None:
    readings = ["literal", "soft-labels"]
    chosen = {"seeds": [7], "alphas": ["0.1"], "datasets": ["cifar10"]}
    loaded = study(tables=TABLE, apfl={"semantics": "clip", "readings": readings, "selection": chosen})
    source, asked = Source.of(loaded, Metrics({}, {})), Question(claim()[0], BEST, "pooled")
    for dataset, planned in (("cifar10", True), ("cifar100", False)):
        place = {"dataset": dataset, "clients": "5", "alpha": "0.1"}
        found = source.series(asked, asked.claim.asks[0], "AP-FL", place)
        assert (found.planned, found.status) == (planned, "not run" if planned else "not in study")
