"""Virtual time to a target, bytes and staleness: every number here was worked out by hand from three clients' trace."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from apfl.clock.schedule import Schedule
from apfl.clock.timeline import plan, speed_factor
from apfl.errors import UserError
from apfl.federation.asynchronous import run_clock
from apfl.federation.method import load_method
from apfl.paper.figures import courses, files
from apfl.paper.figures import curves as figures
from apfl.paper.numbers import virtual
from apfl.paper.numbers.metrics import collect
from apfl.paper.tables import asynchrony
from apfl.paper.tables import formats as render
from apfl.paper.tables.holes import holes
from apfl.paper.verdict import measures
from apfl.stages.federate import timeline_record
from apfl.storage.files import read_json, write_json
from apfl.study.schedules import Timing
from tests.helpers.paper_runs import both, cell, write_run
from tests.helpers.problems import tiny_problem

SETTING = "dirichlet-alpha0.1-clients3"
# Client 0 takes 2 units of time, client 1 takes 3, client 2 takes 5; docs/asynchrony.md draws it.
TRACE = [[0, start, start + 2] for start in (0, 2, 4, 6)] + [[1, start, start + 3] for start in (0, 3, 6, 9)]
TRACE += [[2, start, start + 5] for start in (0, 5, 10, 15)]
ASYNC = Schedule(latency="trace", trace=TRACE)
SYNC = Schedule(mode="sync", latency="trace", trace=TRACE)


def on_schedule(title, name, schedule, *, method="fedavg", level=1.0, output="convergence", axis="heterogeneity"):
    """A cell of two seeds and four rounds on a schedule."""
    made = cell(title, output=output, setting=SETTING, axis={"alpha": "0.1", axis: level, "shown": 4}, method=method)
    runs = tuple(f"study/runs/cifar10/{SETTING}/{method}--{name}--{level:g}/seed{seed}" for seed in made.seeds)
    return replace(
        made, runs=runs, origins=runs, timing=Timing(name, asdict(schedule)), rounds=(1, 2, 3, 4), model="global"
    )


def write_rounds(results, run, accuracies, *, module="fedavg", payload=1_000_000):
    """A run with these accuracies after its rounds, 1 to 4; None where it was not evaluated."""
    rows = [row for number, value in enumerate(accuracies, 1) if value for row in both(value, round=number)]
    write_run(results, run, rows, module=module)
    path = results / run / "run.json"
    write_json(path, read_json(path) | {"payload": payload})


def the_study(results):
    """Synchronous and asynchronous FedAvg, two seeds, four rounds."""
    sync, fast = on_schedule("FedAvg", "sync", SYNC), on_schedule("FedAsync", "fedasync", ASYNC)
    for run, accuracies in zip(sync.runs, ([0.2, 0.4, 0.7, 0.8], [0.1, 0.7, 0.7, 0.8]), strict=True):
        write_rounds(results, run, accuracies)
    for run, accuracies in zip(fast.runs, ([0.3, 0.65, 0.7, 0.5], [0.3, 0.3, 0.62, 0.5]), strict=True):
        write_rounds(results, run, accuracies)
    return [sync, fast]


def metrics_of(results, cells, partial=False):
    return collect(results, [run for one in cells for run in (*one.runs, *one.origins)], partial)


def test_rounds_end_when_their_uploads_have_arrived_and_are_merged() -> None:
    # Synchronously with the slowest client; asynchronously with the 3rd, 6th, 9th and 12th upload.
    assert virtual.round_times(plan(SYNC, [0, 1, 2], 4, seed=0), 3, 4).tolist() == [0, 5, 10, 15, 20]
    assert virtual.round_times(plan(ASYNC, [0, 1, 2], 4, seed=0), 3, 4).tolist() == [0, 4, 6, 10, 20]


@pytest.mark.parametrize(
    "schedule",
    [
        Schedule(latency="exponential", heterogeneity=1.0, buffer=2, merge="delta"),
        Schedule(latency="lognormal", dropout=0.6),
        Schedule(latency="lognormal", max_staleness=0),
        Schedule(latency="uniform", dropout=0.99),
        Schedule(mode="sync", latency="exponential", dropout=0.5),
    ],
)
def test_the_times_of_rounds_are_those_that_the_server_writes_down(schedule: Schedule) -> None:
    problem = tiny_problem(rounds=4)
    timeline = plan(schedule, problem.participants, 4, problem.seed)
    told = [now.time for now in run_clock(load_method("fedavg"), problem, schedule, timeline)]
    assert virtual.round_times(timeline, len(problem.participants), 4).tolist() == told


def test_bytes_are_downloads_begun_before_and_uploads_arrived() -> None:
    asynchronous, synchronous = (plan(schedule, [0, 1, 2], 4, seed=0) for schedule in (ASYNC, SYNC))
    # At time 4 five downloads were begun (0 and 2; 0 and 3; 0) and three uploads had arrived (2 and 4; 3; none).
    assert virtual.transfers(asynchronous, [0, 4, 6, 10, 20]).tolist() == [0, 5 + 3, 7 + 6, 10 + 9, 12 + 12]
    assert virtual.transfers(synchronous, [0, 5, 10, 15, 20]).tolist() == [0, 6, 12, 18, 24]


def test_a_lost_upload_moves_no_bytes_and_a_discarded_one_does() -> None:
    away = plan(dataclasses.replace(ASYNC, absences=((2, 1.0, 6.0),)), [0, 1, 2], 4, seed=0)
    # Of client 2's four uploads the first two overlap its absence, which ends at 6.
    assert virtual.transfers(away, [20]).tolist() == [12 + 10]
    stale = plan(dataclasses.replace(ASYNC, max_staleness=1), [0, 1, 2], 4, seed=0)
    assert {one.fate for one in stale.arrivals} == {"merged", "discarded"}
    assert virtual.transfers(stale, [20]).tolist() == [24]


def test_time_to_target_is_the_first_evaluated_round_at_or_above_and_the_speed_up_is_seed_by_seed(
    tmp_path: Path,
) -> None:
    cells = the_study(tmp_path)
    table = asynchrony.build("convergence", cells, metrics_of(tmp_path, cells), share=0.75)
    rows = table.rows[table.rows["test"] == "pooled"].set_index("column")
    # The target is 0.75 * 0.8 = 0.6: synchronously after round 3 (time 15) and 2 (10), asynchronously 2 (6) and 3 (10).
    assert rows["time_mean"].tolist() == [12.5, 8.0]
    assert rows["time_std"].tolist() == pytest.approx([5 / 2**0.5, 4 / 2**0.5])
    assert rows.loc["FedAsync", ["speedup_mean", "speedup_std"]].tolist() == pytest.approx([1.75, 1.5 / 2**0.5])
    assert rows["compared_with"].tolist() == ["", "FedAvg"] and set(rows["status"]) == {"ok"}
    (group,) = table.panels[0].sections[0].groups
    assert group.label == "heterogeneity 1"
    lines = {line.name: [entry.text for entry in line.entries] for line in group.lines}
    assert lines["pooled test, time"] == ["12.50 ± 3.54", "8.00 ± 2.83"]
    assert lines["own test, speed-up"] == ["reference", "1.75 ± 1.06"]
    assert [entry.bold for entry in group.lines[0].entries] == [False, True], "the shortest time is the best"


def test_a_seed_that_does_not_reach_the_target_leaves_no_number(tmp_path: Path) -> None:
    cells = the_study(tmp_path)
    table = asynchrony.build("convergence", cells, metrics_of(tmp_path, cells), share=0.85)
    row = table.rows[(table.rows["test"] == "own") & (table.rows["column"] == "FedAsync")].iloc[0]
    # 0.68 is reached by the first seed after round 3, by the second never.
    assert row["status"] == "not reached" and (row["seeds_reached"], row["seeds"]) == (1, 2)
    assert row[["time_mean", "time_std", "speedup_mean", "speedup_std"]].isna().all()
    texts = [entry.text for line in table.panels[0].sections[0].groups[0].lines for entry in line.entries]
    assert "not reached in 1 of 2 seeds" in texts and "–" in texts
    render.write(table, tmp_path)
    assert holes(tmp_path / "convergence.csv") == [], "it has been run, and that is its answer"


def test_a_method_seen_after_few_rounds_is_credited_with_no_earlier_one_even_if_others_made_it_evaluate_more(
    tmp_path: Path,
) -> None:
    cells = the_study(tmp_path)
    derived = replace(on_schedule("AP-FL", "fedasync", ASYNC, method="apfl"), origins=cells[1].runs, rounds=(2, 4))
    for run in derived.runs:
        write_rounds(tmp_path, run, [0.9, 0.5, None, 0.9], module="apfl")
    cells.append(derived)
    table = asynchrony.build("convergence", cells, metrics_of(tmp_path, cells), share=0.75)
    row = table.rows[table.rows["column"] == "AP-FL"].iloc[0]
    assert row["time_mean"] == 20.0 and row["compared_with"] == "FedAvg"
    assert row["speedup_mean"] == pytest.approx((15 / 20 + 10 / 20) / 2)
    assert (
        "Accuracy is evaluated after rounds 1 to 4." in table.notes and "AP-FL: after rounds 2, 4 only." in table.notes
    )
    points = virtual.along(derived, metrics_of(tmp_path, cells), "pooled", "bytes")
    assert points["x"].tolist() == [13.0, 24.0], "the payload is that of the federated run"


CYCLES = {"server": 3.0, "clients": {"0": 1.0, "1": 2.0, "2": 0.5}}


def derived_cell(results, cycles=CYCLES, accuracy=0.9):
    """AP-FL on the asynchronous run of `the_study`, evaluated after rounds 2 and 4; the generator has 500 kB."""
    on = on_schedule("AP-FL", "fedasync", ASYNC, method="apfl")
    made = replace(on, origins=the_study(results)[1].runs, rounds=(2, 4))
    for run in made.runs:
        write_rounds(results, run, [None, accuracy, None, accuracy], module="apfl")
        path, cost = results / run / "run.json", {"cycles": {"2": cycles, "4": cycles}} if cycles else {}
        write_json(path, read_json(path) | {"generator_bytes": 500_000} | cost)
    return made


@pytest.mark.parametrize("speed", [1.0, 4.0])
def test_personalised_models_are_there_when_the_server_and_then_the_slowest_client_are_done(tmp_path, speed) -> None:
    cells = [*the_study(tmp_path), derived_cell(tmp_path)]
    cells = [replace(cell, timing=replace(cell.timing, server_speed=speed)) for cell in cells]
    metrics = metrics_of(tmp_path, cells)
    # An average client trains for (2 + 3 + 5) / 3 in a cycle; client 1 needs twice its 3, the others less than that.
    server, clients = 3 * (10 / 3) / speed, 6.0
    table = asynchrony.build("convergence", cells, metrics, share=0.75)
    row = table.rows[table.rows["column"] == "AP-FL"].iloc[0]
    assert row[["server_time", "client_time"]].tolist() == pytest.approx([server, clients])
    assert row["time_mean"] == pytest.approx(6 + server + clients), "round 2 ends at time 6"
    assert row["speedup_mean"] == pytest.approx((15 + 10) / 2 / row["time_mean"])
    points = virtual.along(cells[2], metrics, "pooled", "time")
    assert points["x"].tolist() == pytest.approx([6 + server + clients, 20 + server + clients])
    assert any(f"({server:.1f} in the last round, at {speed:g} times the pace" in note for note in table.notes)
    federated = table.rows[table.rows["column"] == "FedAsync"].iloc[0]
    assert federated["time_mean"] == 8.0 and federated[["server_time", "client_time"]].isna().all()


def test_the_note_on_what_personalising_takes_holds_for_all_data_sets(tmp_path) -> None:
    made = [*the_study(tmp_path), derived_cell(tmp_path)]
    metrics = metrics_of(tmp_path, made)
    server = {"cifar10": 1.0, "digits": 5.0}  # in units of time, as that of an average client's training is 10 / 3
    cells = [
        replace(cell, dataset=name, timing=replace(cell.timing, server_speed=10 / one))
        for name, one in server.items()
        for cell in made
    ]
    table = asynchrony.build("convergence", cells, metrics, share=0.75)
    assert any("(1.0 to 5.0 in the last round" in note for note in table.notes)


@pytest.mark.parametrize(("accuracy", "ended"), [(0.9, 6), (0.3, 20)])
def test_speed_counts_what_personalising_takes_whether_the_target_is_reached_or_not(
    tmp_path, monkeypatch, accuracy, ended
) -> None:
    cells = [*the_study(tmp_path), derived_cell(tmp_path, accuracy=accuracy)]
    monkeypatch.setattr(measures, "cells", lambda study, output: cells)
    found = measures.speed(None, metrics_of(tmp_path, cells), cells[2], "pooled", "non_dropout")
    # The reference reaches its own accuracy in the last round, at 20, when ours ends, too; round 2 ended at 6;
    # personalising takes 10 and then 6.
    assert found.values.tolist() == pytest.approx([100 * math.log(20 / (ended + 10 + 6))] * 2)
    assert found.bounds.tolist() == [accuracy < 0.6] * 2


def test_a_drawn_schedule_charges_its_mean_each_client_its_speed_and_one_download(tmp_path) -> None:
    schedule = Schedule(latency="exponential", mean=2.0, heterogeneity=1.0, download=0.25)
    made = replace(derived_cell(tmp_path), timing=Timing("fedasync", asdict(schedule)))
    parts = virtual.personal_times(made, 1, made.runs[1], metrics_of(tmp_path, [made]))
    slowest = max(2 * speed_factor(schedule, 1, client) * CYCLES["clients"][str(client)] for client in range(3))
    assert parts == {number: pytest.approx((6.0, 0.25 + slowest)) for number in (2, 4)}


def test_bytes_of_personalised_models_hold_one_generator_for_each_client(tmp_path) -> None:
    made = derived_cell(tmp_path)
    metrics = metrics_of(tmp_path, [made])
    # 13 and 24 transfers of 1 MB, as without; three generators of half a megabyte once, not one for each round.
    assert virtual.along(made, metrics, "pooled", "bytes")["x"].tolist() == [13 + 1.5, 24 + 1.5]


def test_runs_that_recorded_no_cost_count_as_if_there_were_none_and_that_is_said(tmp_path) -> None:
    cells = [*the_study(tmp_path), derived_cell(tmp_path, cycles=None)]
    table = asynchrony.build("convergence", cells, metrics_of(tmp_path, cells), share=0.75)
    row = table.rows[table.rows["column"] == "AP-FL"].iloc[0]
    assert row["time_mean"] == 6.0 and row[["server_time", "client_time"]].isna().all()
    assert "The cost of personalising was not recorded for AP-FL and counts as zero." in table.notes


def test_an_asynchronous_run_is_compared_with_the_synchronous_run_of_its_method(tmp_path: Path) -> None:
    cells = the_study(tmp_path)
    cells += [
        on_schedule("PersA-FL", "sync", SYNC, method="persafl"),
        on_schedule("One by one", "fedasync", ASYNC, method="persafl"),
    ]
    for made in cells[2:]:
        for run in made.runs:
            write_rounds(tmp_path, run, [0.1, 0.1, 0.1, 0.9], module="persafl")
    rows = asynchrony.build("convergence", cells, metrics_of(tmp_path, cells), share=0.75).rows
    assert rows["compared_with"].tolist()[:4] == ["", "FedAvg", "FedAvg", "PersA-FL"]


def test_runs_that_are_missing_or_diverged_are_said(tmp_path: Path) -> None:
    cells = [*the_study(tmp_path), on_schedule("FedBuff", "fedbuff", ASYNC), on_schedule("Wild", "wild", ASYNC)]
    write_rounds(tmp_path, cells[2].runs[0], [0.7, 0.7, 0.7, 0.7])
    for run in cells[3].runs:
        write_run(tmp_path, run, both(0.9), status="diverged", module="wild")
    table = asynchrony.build("convergence", cells, metrics_of(tmp_path, cells, partial=True), share=0.75)
    rows = table.rows.set_index(["column", "test"])
    assert rows.loc[("Wild", "pooled"), "status"] == "diverged"
    assert rows.loc[("FedBuff", "pooled"), ["time_mean", "seeds", "seeds_planned"]].tolist() == [4.0, 1, 2]
    texts = [entry.text for entry in table.panels[0].sections[0].groups[0].lines[0].entries]
    assert texts[2:] == ["4.00 (1/2)", "diverged"]
    render.write(table, tmp_path)
    assert holes(tmp_path / "convergence.csv") == [
        f"convergence, cifar10, {SETTING}, 1, non_dropout, {column}, {test}: {what}"
        for test in ("pooled", "own")
        for column, what in (("FedBuff", "1 of 2 seeds"), ("Wild", "diverged"))
    ]


def test_a_run_made_under_another_course_of_events_is_refused(tmp_path: Path) -> None:
    cells = the_study(tmp_path)
    path = tmp_path / cells[1].runs[0] / "run.json"
    record = {**read_json(path), "timeline": timeline_record(plan(ASYNC, [0, 1, 2], 4, seed=0))}
    write_json(path, record)
    asynchrony.build("convergence", cells, metrics_of(tmp_path, cells))
    record["timeline"]["rows"][3][3] += 0.5
    write_json(path, record)
    with pytest.raises(UserError, match=r"fedasync--1/seed0: was made with another timeline"):
        asynchrony.build("convergence", cells, metrics_of(tmp_path, cells))


def test_the_table_of_dropout_has_the_last_accuracies_and_what_was_lost(tmp_path: Path) -> None:
    rates = {0.0: (), 0.6: ((2, 1.0, 6.0),)}
    cells = [
        on_schedule(
            title, name, dataclasses.replace(schedule, absences=away), output="dropout", axis="rate", level=rate
        )
        for rate, away in rates.items()
        for title, name, schedule in (("FedAvg", "sync", SYNC), ("FedAsync", "fedasync", ASYNC))
    ]
    for number, made in enumerate(cells):
        for seed, run in enumerate(made.runs):
            write_rounds(tmp_path, run, [0.9, 0.9, 0.9, 0.5 + 0.1 * number + 0.02 * seed])
    table = asynchrony.build("dropout", cells, metrics_of(tmp_path, cells))
    rows = table.rows[table.rows["test"] == "own"]
    assert rows["reproduced_mean"].tolist() == pytest.approx([51, 61, 71, 81])
    assert rows["reproduced_std"].tolist() == pytest.approx([2**0.5] * 4)
    # Synchronously client 2 is away in rounds 1 and 2 as well: two of twelve.
    assert rows["lost_percent"].tolist() == pytest.approx([0, 0, 100 / 6, 100 / 6])
    assert "Uploads lost: 0 % at rate 0, 17 % at rate 0.6." in table.notes
    assert [group.label for group in table.panels[0].sections[0].groups] == ["dropout rate 0", "dropout rate 0.6"]
    render.write(table, tmp_path)
    assert holes(tmp_path / "dropout.csv") == []
    for kind in render.FORMATS:
        assert "81.00" in (tmp_path / f"dropout.{kind}").read_text()


def test_figure_time_has_a_row_for_each_heterogeneity_and_x_is_the_mean_over_seeds(tmp_path: Path) -> None:
    cells = [replace(one, output="figure_time") for one in the_study(tmp_path)]
    time, data = figures.data("figure_time", cells, metrics_of(tmp_path, cells), "pooled")
    assert (
        time.title == "CIFAR-10, \N{GREEK SMALL LETTER ALPHA} = 0.1, heterogeneity 1"
        and data.xlabel == "data moved (MB)"
    )
    assert [item.name for item in time.curves] == ["FedAvg", "FedAsync"]
    assert time.curves[1].points["x"].tolist() == [4, 6, 10, 20]
    assert time.curves[1].points["mean"].tolist() == pytest.approx([30, 47.5, 66, 50])
    assert data.curves[0].points["x"].tolist() == [6, 12, 18, 24]
    assert data.curves[1].points["x"].tolist() == [8, 13, 19, 24]
    written = files.write("figure_time", cells, metrics_of(tmp_path, cells), tmp_path)
    assert {path.name for path in written} == {
        "figure_time.csv", *(f"figure_time{test}.{kind}" for test in ("", "_own") for kind in ("svg", "pdf", "png"))
    }  # fmt: skip


def test_staleness_is_counted_over_seeds_and_synchronous_schedules_have_none() -> None:
    cells = [on_schedule("FedAvg", "sync", SYNC), on_schedule("FedAsync", "fedasync", ASYNC)]
    counts = courses.histogram(cells)
    # The worked timeline's staleness: 0, 1, 1, 3, 1, 3, 0, 1, 4, 1, 1, 0; two seeds alike.
    assert counts[["staleness", "uploads"]].values.tolist() == [[0, 6], [1, 12], [3, 4], [4, 2]]
    assert counts["percent"].tolist() == pytest.approx([25, 50, 100 / 6, 100 / 12])
    assert courses.histogram(cells[:1]).empty


def test_what_was_too_stale_is_counted_apart() -> None:
    strict = on_schedule("FedAsync", "strict", dataclasses.replace(ASYNC, max_staleness=1))
    counts = courses.histogram([strict])
    assert counts["uploads"].sum() == 24 and set(counts["fate"]) == {"merged", "discarded"}
    assert (counts.loc[counts["fate"] == "discarded", "staleness"] > 1).all()


def test_the_timeline_has_a_bar_for_every_cycle_and_tells_fates_apart(tmp_path: Path) -> None:
    schedule = dataclasses.replace(ASYNC, max_staleness=1, absences=((2, 1.0, 6.0),))
    cells = [replace(on_schedule("FedAsync", "fedasync", schedule), output="figure_timeline")]
    figure, events = courses.draw_timelines(cells)
    (axes,) = figure.axes
    bars = sorted((bar.get_y() + bar.get_height() / 2, bar.get_x(), bar.get_width()) for bar in axes.patches)
    assert bars == [(client, start, end - start) for client, start, end in sorted(TRACE)]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["client 0", "client 1", "client 2", "merges"]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["merged", "discarded: too stale", "lost: the client dropped out"]
    assert len(events) == 24 and set(events["fate"]) == {"merged", "lost", "discarded"}
    metrics = metrics_of(tmp_path, cells, partial=True)
    first = files.write("figure_timeline", cells, metrics, tmp_path / "one")
    again = files.write("figure_timeline", cells, metrics, tmp_path / "two")
    assert [path.name for path in first] == [f"figure_timeline.{kind}" for kind in ("svg", "pdf", "png", "csv")]
    assert all(one.read_bytes() == two.read_bytes() for one, two in zip(first, again, strict=True))


def test_a_study_without_asynchronous_schedules_gets_a_picture_that_says_so() -> None:
    figure, counts = courses.draw_staleness([on_schedule("FedAvg", "sync", SYNC)])
    assert counts.empty and "no asynchronous schedule" in figure.texts[0].get_text()
