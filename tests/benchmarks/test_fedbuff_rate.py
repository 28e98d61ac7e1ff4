"""docs/measurements/fedbuff.csv: FedBuff's default rate against others and against synchronous training."""

from __future__ import annotations

import pandas as pd
import pytest

from benchmarks import fedbuff_rate
from tests.helpers.problems import tiny_problem

FRAME = pd.read_csv(fedbuff_rate.FILE)
LONG = pd.read_csv(fedbuff_rate.LONG_FILE)
LAST = FRAME[FRAME["rounds"] == fedbuff_rate.TRAINING["rounds"]]
MEANS = LAST.groupby("server")["pooled"].mean()


def test_fedbuff_at_its_default_rate_is_within_five_points_of_as_many_clients_a_synchronous_round() -> None:
    assert abs(MEANS["FedBuff, default rate"] - MEANS["FedAvg, three clients a round"]) < 5


def test_in_a_longer_run_fedbuff_at_its_default_rate_is_in_no_seed_five_points_below_that_reference() -> None:
    last = LONG[LONG["rounds"] == fedbuff_rate.LONG["rounds"]].pivot(index="seed", columns="server", values="pooled")
    assert list(last.index) == list(fedbuff_rate.SEEDS) and set(last) == set(fedbuff_rate.LONG_SERVERS)
    assert (last["FedBuff, default rate"] > last["FedAvg, three clients a round"] - 5).all()


def test_a_longer_run_begins_as_the_shorter_one() -> None:
    keys = ["seed", "server", "rounds"]
    both = LONG.merge(FRAME, on=keys, suffixes=("", "_short"))
    assert len(both) == len(fedbuff_rate.SEEDS) * len(fedbuff_rate.LONG_SERVERS) * fedbuff_rate.TRAINING["rounds"]
    assert (both["pooled"] == both["pooled_short"]).all()


def test_fedbuff_at_rate_one_loses_what_the_default_keeps() -> None:
    assert MEANS["FedBuff, rate 1"] < MEANS["FedBuff, default rate"] - 5


def test_the_file_holds_what_the_benchmark_runs() -> None:
    assert list(dict.fromkeys(FRAME["server"])) == list(fedbuff_rate.SERVERS)
    assert len(FRAME) == len(fedbuff_rate.SERVERS) * len(fedbuff_rate.SEEDS) * fedbuff_rate.TRAINING["rounds"]
    for server, rows in FRAME.groupby("server"):
        assert set(rows["rate"]) == {fedbuff_rate.SERVERS[server].rate(fedbuff_rate.CLIENTS)}, server
        assert sorted(set(rows["seed"])) == list(fedbuff_rate.SEEDS)


@pytest.mark.parametrize("server", fedbuff_rate.SERVERS)
def test_every_server_of_the_benchmark_trains_as_much(server) -> None:
    problem = tiny_problem(sizes=(5,) * fedbuff_rate.CLIENTS, rounds=3, local_epochs=1)
    rows = list(fedbuff_rate.course(problem, server))
    assert [row["rounds"] for row in rows] == [1, 2, 3]
    assert rows[-1]["merges"] == 30 // rows[-1]["clients_a_merge"] and 0 <= rows[-1]["pooled"] <= 100
