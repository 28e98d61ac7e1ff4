"""Ranks over the cells of Table 2: against a calculation by hand, against scipy, and with holes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from apfl.paper.figures import ranks as ranks_picture
from apfl.paper.numbers import ranks
from apfl.paper.numbers.intervals import holm
from apfl.paper.numbers.metrics import Metrics, SeedValue
from apfl.paper.report import ranks as ranks_module
from tests.helpers.paper_runs import both, cell

SEEDS = (0, 1, 2)
SETTINGS = ("dirichlet-alpha0.01-clients5", "dirichlet-alpha0.1-clients5")
BLOCKS = [(dataset, setting) for dataset in ("cifar10", "emnist") for setting in SETTINGS]


def given_values(table):
    """Values by method and cell from lists of accuracies in per cent, the same for all seeds but for a wobble."""
    return {
        name: {
            block: tuple(SeedValue(seed, "ok", (accuracy + 0.1 * (seed - 1)) / 100) for seed in SEEDS)
            for block, accuracy in zip(BLOCKS, accuracies, strict=False)
        }
        for name, accuracies in table.items()
    }


def study(table, missing=()):
    """Cells of Table 2 and their metrics from accuracies by method; ``missing`` are methods with a cell's number."""
    cells, frames, records = [], {}, {}
    for name, accuracies in table.items():
        for number, ((dataset, setting), accuracy) in enumerate(zip(BLOCKS, accuracies, strict=True)):
            axis = {"clients": 5, "alpha": setting.split("alpha")[1].split("-")[0]}
            reading = "literal" if name == "AP-FL" else ""
            ours = cell(name, dataset=dataset, setting=setting, seeds=SEEDS, axis=axis, reading=reading)
            cells.append(ours)
            if (name, number) not in missing:
                for seed, run in enumerate(ours.runs):
                    frames[run] = pd.DataFrame(both((accuracy + 0.1 * seed) / 100, model=ours.model))
                    records[run] = {"status": "finished"}
    return cells, Metrics(frames, records)


TABLE = {"FedAvg": [50, 60, 70, 80], "Local": [20, 30, 40, 50], "AP-FL": [55, 65, 65, 85]}


def test_ranks_are_those_worked_out_by_hand():
    ranking = ranks.rank(given_values(TABLE), "pooled")
    # AP-FL is first in three cells of four and second in one, FedAvg the other way round, Local last in all.
    assert ranking.rows[["method", "mean_rank", "cells"]].to_numpy().tolist() == [
        ["AP-FL", 1.25, 4],
        ["FedAvg", 1.75, 4],
        ["Local", 3.0, 4],
    ]
    assert ranking.rows["mean_rank_per_seed"].tolist() == [1.25, 1.75, 3.0]
    assert ranking.datasets == 2


def test_friedman_and_wilcoxon_are_scipys_on_the_means_over_seeds():
    ranking = ranks.rank(given_values(TABLE), "pooled")
    expected = stats.friedmanchisquare(*TABLE.values())
    assert ranking.friedman == pytest.approx((expected.statistic, expected.pvalue))
    pair = ranking.pairs.set_index(["better", "worse"]).loc[("AP-FL", "Local")]
    raw = stats.wilcoxon(np.subtract(TABLE["AP-FL"], TABLE["Local"])).pvalue
    assert pair["wilcoxon_p"] == pytest.approx(raw)
    assert pair["holm_p"] == pytest.approx(3 * raw)


def test_seeds_are_averaged_before_cells_are_ranked_but_the_other_rank_sees_them():
    found = {
        "FedAvg": {BLOCKS[0]: tuple(SeedValue(seed, "ok", value) for seed, value in enumerate((0.1, 0.3, 0.3)))},
        "Local": {BLOCKS[0]: tuple(SeedValue(seed, "ok", value) for seed, value in enumerate((0.7, 0.2, 0.2)))},
    }
    rows = ranks.rank(found, "pooled").rows.set_index("method")
    # Means 23 and 37 %, though FedAvg is ahead in two seeds of three.
    assert rows["mean_rank"].to_dict() == {"FedAvg": 2.0, "Local": 1.0}
    assert rows["mean_rank_per_seed"].to_dict() == pytest.approx({"FedAvg": 4 / 3, "Local": 5 / 3})
    # The other way round, where the largest seed would mislead.
    found["Local"] = {BLOCKS[0]: tuple(SeedValue(seed, "ok", value) for seed, value in enumerate((0.5, 0.0, 0.0)))}
    assert ranks.rank(found, "pooled").rows["method"].tolist() == ["FedAvg", "Local"]


@given(st.lists(st.lists(st.integers(0, 6), min_size=4, max_size=4), min_size=2, max_size=6))
@settings(max_examples=40, deadline=None)
def test_mean_ranks_add_up_whatever_ties_there_are(accuracies):
    table = {f"method {place}": row for place, row in enumerate(accuracies)}
    rows = ranks.rank(given_values(table), "pooled").rows
    assert rows["mean_rank"].mean() == pytest.approx((len(table) + 1) / 2)
    assert rows["mean_rank_per_seed"].mean() == pytest.approx((len(table) + 1) / 2)
    assert rows["mean_rank"].is_monotonic_increasing


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_holms_correction_keeps_the_order_and_lies_between_none_and_bonferronis(raw):
    adjusted = holm(np.array(raw)).tolist()
    assert sorted(zip(raw, adjusted, strict=True)) == sorted(zip(sorted(raw), sorted(adjusted), strict=True))
    for one, other in zip(raw, adjusted, strict=True):
        assert one <= other <= min(1.0, one * len(raw))


def test_a_method_with_a_hole_is_named_and_left_out_and_changes_nothing_for_the_others():
    full = ranks.rank(given_values(TABLE), "pooled")
    ranking = ranks.rank(given_values(TABLE | {"FedGen": [99, 99]}), "pooled")
    last = ranking.rows.iloc[-1]
    assert (last["method"], last["status"]) == ("FedGen", "left out: lacks 2 of 4 cells")
    assert np.isnan(last["mean_rank"])
    assert ranking.ranked["mean_rank"].tolist() == full.ranked["mean_rank"].tolist()
    assert "Left out: FedGen (lacks 2 of 4 cells)." in ranks.remarks(ranking)


def test_a_method_that_lacks_a_seed_that_others_have_is_left_out():
    found = given_values(TABLE)
    found["Local"][BLOCKS[1]] = found["Local"][BLOCKS[1]][:2]
    assert ranks.rank(found, "pooled").ranked["method"].tolist() == ["AP-FL", "FedAvg"]


def test_where_no_method_has_every_cell_all_are_named_and_nothing_is_ranked(tmp_path):
    cells, metrics = study(TABLE, missing={("FedAvg", 0), ("Local", 1), ("AP-FL", 2)})
    ranking = ranks.rank(ranks.values(cells, metrics, "pooled"), "pooled")
    assert ranking.rows["status"].tolist() == ["left out: lacks 1 of 4 cells"] * 3
    assert ranking.pairs.empty and ranking.friedman is None and not ranks.cliques(ranking)
    assert "fewer than two methods have every cell" in ranks.remarks(ranking)[0]
    assert len(ranks_picture.write(cells, metrics, tmp_path)) == 5
    assert "lacks 1 of 4 cells" in ranks_module.section(cells, metrics).body


def test_a_method_of_which_a_seed_diverged_is_left_out():
    found = given_values(TABLE)
    found["Local"][BLOCKS[1]] = (*found["Local"][BLOCKS[1]][:2], SeedValue(2, "diverged"))
    assert ranks.rank(found, "pooled").ranked["method"].tolist() == ["AP-FL", "FedAvg"]
    # Even where the others have not run that seed yet: those that survived would flatter it.
    for name in ("AP-FL", "FedAvg"):
        found[name][BLOCKS[1]] = found[name][BLOCKS[1]][:2]
    assert ranks.rank(found, "pooled").ranked["method"].tolist() == ["AP-FL", "FedAvg"]


def test_a_cell_that_nobody_has_run_is_named_and_no_hole():
    cells, metrics = study(TABLE, missing={(name, 3) for name in TABLE})
    ranking = ranks.rank(ranks.values(cells, metrics, "own"), "own")
    assert len(ranking.ranked) == 3
    assert ranking.empty == (BLOCKS[3],)
    assert any(
        "Run for no method: EMNIST letters dirichlet-alpha0.1-clients5." in said for said in ranks.remarks(ranking)
    )


def test_wins_ties_and_losses_are_by_the_interval_of_the_paired_difference():
    def seeds(*accuracies):
        return tuple(SeedValue(seed, "ok", value / 100) for seed, value in enumerate(accuracies))

    fedavg = {block: seeds(40, 50, 60) for block in BLOCKS}
    other = {
        BLOCKS[0]: seeds(42, 52.1, 61.9),  # 2 above in each seed, though the seeds are 10 apart
        BLOCKS[1]: seeds(42, 48, 61),  # neither
        BLOCKS[2]: seeds(38, 47.9, 58.1),
        BLOCKS[3]: seeds(40, 50, 60),  # exactly equal
    }
    rows = ranks.rank({"FedAvg": fedavg, "FedProx": other}, "pooled").rows.set_index("method")
    counts = ["wins", "ties", "losses", "open"]
    assert rows.loc["FedProx", counts].tolist() == [1, 2, 1, 0]
    assert rows.loc["FedAvg", counts].isna().all()


def test_one_image_more_in_each_seed_is_no_win():
    ahead = {
        name: {block: tuple(SeedValue(seed, "ok", value, images=300) for seed in SEEDS) for block in BLOCKS}
        for name, value in (("FedAvg", 0.5), ("FedProx", 0.5 + 1 / 300), ("Local", 0.4))
    }
    rows = ranks.rank(ahead, "pooled").rows.set_index("method")
    assert rows.loc["FedProx", ["wins", "ties"]].tolist() == [0, 4]
    assert rows.loc["Local", ["losses", "ties"]].tolist() == [4, 0]


def test_ranks_know_how_many_images_stand_behind_a_number():
    cells, metrics = study(TABLE)
    found = ranks.values(cells, metrics, "own")
    assert {value.images for given in found.values() for there in given.values() for value in there} == {5}


def test_one_seed_decides_nothing():
    found = {name: {BLOCKS[0]: (SeedValue(0, "ok", value),)} for name, value in (("FedAvg", 0.5), ("Local", 0.2))}
    assert ranks.rank(found, "pooled").rows.set_index("method").loc["Local", "open"] == 1


def made(order, differ, told_apart=True):
    """A ranking with these pairs that differ."""
    rows = pd.DataFrame({"method": order, "mean_rank": range(1, len(order) + 1), "status": "ok"})
    pairs = pd.DataFrame([{"better": one, "worse": other, "differ": True} for one, other in differ])
    return ranks.Ranking("pooled", rows, pairs, (9.0, 0.001 if told_apart else 0.4), (BLOCKS[0],), ())


def test_bars_join_neighbours_among_whom_no_pair_differs():
    order = list("abcde")
    assert ranks.cliques(made(order, [("a", "c"), ("a", "d"), ("a", "e"), ("b", "e")])) == [
        ("a", "b"), ("b", "c", "d"), ("c", "d", "e"),
    ]  # fmt: skip
    assert ranks.cliques(made(order, [("a", name) for name in "bcde"])) == [("b", "c", "d", "e")]


def test_no_bar_joins_methods_where_no_test_tells_any_apart():
    assert not ranks.cliques(made(list("abc"), [("a", "c")], told_apart=False)), "Friedman's test does not"
    ranking = ranks.rank(given_values({"a": [50, 60], "b": [55, 65]}), "pooled")
    assert len(ranking.ranked) == 2 and not ranks.cliques(ranking), "two cells tell nothing apart"
    ranking = ranks.rank(given_values(TABLE), "pooled")
    assert ranking.friedman[1] < ranks.ALPHA and not ranking.pairs["differ"].any()
    assert not ranks.cliques(ranking), "four cells cannot tell a pair of three methods apart"


def test_too_few_cells_for_any_pair_to_differ_are_said():
    said = ranks.remarks(ranks.rank(given_values(TABLE), "pooled"))
    assert "With 4 cells no pair of 3 methods can differ at level 0.05, whatever the accuracies." in said


def test_readings_beside_the_papers_column_are_not_ranked():
    cells, metrics = study(TABLE)
    other = cell("AP-FL", dataset=BLOCKS[0][0], setting=BLOCKS[0][1], seeds=SEEDS, reading="soft-labels")
    assert set(ranks.values([*cells, other], metrics, "pooled")) == set(TABLE)


def test_files_and_the_section_of_the_page(tmp_path):
    cells, metrics = study(TABLE)
    paths = ranks_picture.write(cells, metrics, tmp_path)
    assert sorted(path.name for path in paths) == [
        "ranks.csv", "ranks.pdf", "ranks.png", "ranks.svg", "ranks_pairs.csv",
    ]  # fmt: skip
    again = ranks_picture.write(cells, metrics, tmp_path / "again")
    assert all(one.read_bytes() == two.read_bytes() for one, two in zip(paths, again, strict=True))
    rows = pd.read_csv(tmp_path / "ranks.csv")
    assert list(rows.columns) == list(ranks.COLUMNS)
    assert rows.groupby("test")["method"].first().to_dict() == {"own": "AP-FL", "pooled": "AP-FL"}
    page = ranks_module.section(cells, metrics)
    assert page.identifier == "ranks"
    assert "not independent" in page.body
    assert "<svg" in page.body
    assert "open" in page.body


def test_a_study_without_table_2_says_so_and_does_not_fail(tmp_path):
    for path in ranks_picture.write([], Metrics({}, {}), tmp_path):
        assert path.is_file()
    assert "nothing is ranked" in ranks_module.section([], Metrics({}, {})).body
