"""Schedules in a study: what may be said, which runs follow, and that nothing is trained twice."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from apfl.cli import main
from apfl.clock.schedule import LATENCIES, STALENESS, Schedule
from apfl.errors import UserError
from apfl.registry.cards import card, methods
from apfl.registry.trees import ROOT
from apfl.study.cells import cells, runs
from apfl.study.load import load_study, schema
from apfl.study.runs import Run
from apfl.study.schedules import completed, read_trace, timed
from tests.helpers.studies import tiny

SYNC = {"mode": "sync", "latency": "lognormal"}
FEDASYNC = {"latency": "lognormal", "mixing": 0.6, "staleness": "polynomial"}
TRACE = {"latency": "trace", "trace": [[0, 0, 2], [1, 0, 3], [0, 2, 4]]}
ON_BAD = [{"method": "fedavg", "schedule": "bad"}]
ENTRIES = [
    {"method": "fedavg", "schedule": "sync"},
    {"method": "fedavg", "schedule": "fedasync", "title": "FedAsync"},
    {"method": "apfl", "schedule": "sync"},
    {"method": "apfl", "schedule": "fedasync"},
]


def study(**changes: Any) -> dict[str, Any]:
    """The tiny study with a table of convergence; changes as `tiny` takes them."""
    given = {
        "schedules": {"sync": dict(SYNC), "fedasync": dict(FEDASYNC)},
        "tables": {"convergence": {"entries": ENTRIES}},
        "methods": {"fedavg": {}, "apfl": {}},
        "training__rounds": 3,
    }
    return tiny(**given | changes)


def planned(**changes: Any) -> dict[str, Run]:
    return {run.path: run for run in runs(load_study(study(**changes)))}


def test_the_schema_of_a_schedule_is_the_server_s() -> None:
    part = schema()["$defs"]["schedule"]["properties"]
    fields = {entry.name: entry for entry in dataclasses.fields(Schedule)}
    assert list(part) == list(fields)
    for name, entry in fields.items():
        default = list(entry.default) if isinstance(entry.default, tuple) else entry.default
        assert part[name]["default"] == default and type(part[name]["default"]) is type(default), name
    assert part["latency"]["enum"] == list(LATENCIES) and part["staleness"]["enum"] == list(STALENESS)
    given = completed({"plain": {}}, [])["plain"]
    assert given == completed({"full": {name: part[name]["default"] for name in part}}, [])["full"]
    assert Schedule(**given) == Schedule()


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"schedules__sync__mean": -1}, "schedules.sync.mean: -1 is less than"),
    ({"schedules__sync__download": -0.5}, "schedules.sync.download: -0.5 is less than the minimum of 0"),
    ({"schedules__sync__dropout": 1}, "schedules.sync.dropout: 1 is greater than or equal to .*from 0 to below 1"),
    ({"schedules__sync__latency": "gamma"}, "schedules.sync.latency 'gamma': unknown; choose one of constant"),
    ({"schedules__sync__speed": 2}, "schedules.sync: unknown key 'speed'; known: mode"),
    ({"schedules__sync__mixing": 0.5}, "schedules.sync.mode sync: has no mixing"),
    ({"schedules__fedasync__buffer": 6}, "schedules.fedasync.buffer 6: larger than the number of clients, 5"),
    ({"schedules__fedasync__absences": [[7, 0, 1]]}, r"schedules.fedasync.absences: client 7 is not one of \[0, "),
    ({"schedules__bad": TRACE, "tables__dropout": {"clients": 1, "entries": ON_BAD}},
     "schedules.bad.trace: client 1 is not one of"),
    ({"schedules__bad": {"latency": "trace", "trace": [[0, 0, 2], [0, 1, 3]]}, "tables__dropout": {"entries": ON_BAD}},
     "schedules.bad.trace: client 0 from 1.0 to 3.0 is out of order"),
    ({"schedules__bad": {"latency": "trace", "trace": "no.csv"}}, "schedules.bad.trace 'no.csv': no such file"),
    ({"schedules__again": FEDASYNC}, "schedules.again: is the same as 'fedasync'"),
    ({"schedules__a-b": {}}, "schedules: 'a-b' is not a valid name"),
    ({"tables__dropout": {"rates": [0, 1.0], "entries": ENTRIES}}, "tables.dropout.rates.1: 1.0 is greater"),
    ({"tables__convergence__heterogeneity": [-1]}, "tables.convergence.heterogeneity.0: -1 is less"),
    ({"tables__convergence__target": 0}, "tables.convergence.target: 0 is less than or equal .*share"),
    ({"tables__convergence__entries": ENTRIES[1:]}, "convergence.entries.0: the target is a share .*mode sync"),
    ({"tables__convergence__entries": [*ENTRIES, ENTRIES[0]]}, "convergence.entries: two are called 'FedAvg'"),
    ({"tables__convergence__entries": [{"method": "fedavg", "schedule": "slow"}]},
     "convergence.entries.0.schedule 'slow': unknown schedule; choose from sync, fedasync"),
    ({"tables": {"table2": {}}, "figures": {"figure_time": {}}}, "figures.figure_time: shows the runs of tables.conv"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "line"), REFUSED, ids=[str(changes)[:60] for changes, _ in REFUSED])
def test_a_mistake_in_a_schedule_is_answered_in_one_line_and_status_2(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    line: str,
) -> None:
    with pytest.raises(UserError, match=line) as error:
        load_study(study(**changes))
    assert "\n" not in str(error.value) and len(str(error.value)) < 330
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(study(**changes), sort_keys=False))
    with pytest.raises(SystemExit) as ended:
        main(["check", str(path)])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and re.search(line, said) and len(said.splitlines()) == 1


@pytest.mark.parametrize("method", ["fdms", "feddf", "fedgen", "ffgg"])
def test_a_method_that_cannot_run_asynchronously_says_so_when_the_study_is_checked(method: str) -> None:
    parameters = {"aggregator": "krum"} if method == "ffgg" else {}
    extra: dict[str, Any] = {f"methods__{method}": parameters, "data__photos": {"source": "photos"}}
    given = study(**extra, proxy={"digits": "photos"})
    given["tables"]["convergence"]["entries"] = [*ENTRIES, {"method": method, "schedule": "sync"}]
    load_study(given)
    given["tables"]["convergence"]["entries"][-1]["schedule"] = "fedasync"
    with pytest.raises(
        UserError, match=r"convergence.entries.4: .* not a sum over clients, .* 'fedasync', .*mode sync"
    ):
        load_study(given)


@pytest.mark.parametrize("method", ["fedrep", "ffgg", "local"])
def test_a_method_without_a_global_model_is_refused_where_one_is_mixed_unless_it_shares_nothing(method: str) -> None:
    given = study(**{f"methods__{method}": {}})
    given["tables"]["convergence"]["entries"] = [*ENTRIES, {"method": method, "schedule": "fedasync"}]
    if method == "local":
        load_study(given)
    else:
        with pytest.raises(UserError, match=r"entries.4: .* no global model for schedule 'fedasync' to mix; .* delta"):
            load_study(given)
    given["schedules"]["fedasync"]["merge"] = "delta"
    load_study(given)


def test_methods_on_top_of_another_ask_whether_that_one_is_additive() -> None:
    given = study(methods__fdms={}, **{"methods__apfl-fdms": {"module": "apfl", "base": "fdms"}})
    given["tables"]["convergence"]["entries"] = [*ENTRIES, {"method": "apfl-fdms", "schedule": "fedasync"}]
    with pytest.raises(UserError, match=r"entries.4: FL-FDMS's server update"):
        load_study(given)


@pytest.mark.parametrize("module", [name for name, entry in methods().items() if entry.stage == "federate"])
def test_cards_and_server_agree_on_which_methods_are_additive(module: str) -> None:
    from apfl.federation.asynchronous import is_additive
    from apfl.federation.method import load_method

    assert card(module).is_additive({}) == is_additive(load_method(module))


def test_a_robust_rule_makes_ffgg_wait_for_everybody() -> None:
    assert card("ffgg").is_additive({}) and not card("ffgg").is_additive({"aggregator": "median"})


def test_only_what_is_trained_differently_is_trained_again() -> None:
    rates = {"rates": [0, 0.6], "entries": ENTRIES}
    plan = planned(tables__convergence__rounds=[1], tables__dropout=rates)
    folder = "tiny/runs/digits/dirichlet-alpha0.1-clients5"
    federated = {path for path, run in plan.items() if run.stage == "federate"}
    assert federated == {
        f"{folder}/{variant}/seed0"
        for variant in (
            "fedavg",  # synchronous at every heterogeneity, and without dropout
            "fedavg--fedasync",  # at heterogeneity 0, and at dropout rate 0
            "fedavg--fedasync--heterogeneity-0.5",
            "fedavg--fedasync--heterogeneity-1",
            "fedavg--sync--dropout-0.6",
            "fedavg--fedasync--dropout-0.6",
        )
    }
    assert Counter(run.stage for run in plan.values()) == {"federate": 6, "memorize": 6, "personalize": 6}
    assert "schedule" not in plan[f"{folder}/fedavg/seed0"].spec
    slow = plan[f"{folder}/fedavg--fedasync--heterogeneity-1/seed0"].spec
    assert slow["schedule"]["heterogeneity"] == 1.0 and slow["schedule"]["mixing"] == 0.6
    assert slow["training"]["save_rounds"] == [1, 3]
    derived = plan[f"{folder}/apfl--fedasync--dropout-0.6/seed0"]
    assert derived.inputs["run"] == f"{folder}/fedavg--fedasync--dropout-0.6/seed0"
    assert plan[derived.inputs["generator"]].inputs["run"] == derived.inputs["run"]


def test_the_servers_speed_is_known_to_cells_and_retrains_nothing() -> None:
    fast = study(tables__convergence__server_speed=20)
    assert {cell.timing.server_speed for cell in cells(load_study(fast), "convergence")} == {20.0}
    assert runs(load_study(fast)) == runs(load_study(study()))


def test_the_synchronous_runs_are_those_of_the_other_tables() -> None:
    alone = planned(tables={"table2": {"clients": [5], "alphas": ["0.1"]}})
    both = planned(tables={"table2": {"clients": [5], "alphas": ["0.1"]}, "convergence": {"entries": ENTRIES}})
    assert set(alone) < set(both) and all(both[path].spec == run.spec for path, run in alone.items())


def test_figures_of_time_run_nothing_of_their_own() -> None:
    figures = {"figure_time": {}, "figure_staleness": {}, "figure_timeline": {}}
    assert set(planned(figures=figures)) == set(planned())


def test_cells_know_their_schedule_their_rounds_and_the_federated_runs_behind_them() -> None:
    found = cells(load_study(study(seeds=[0, 1])), "convergence")
    assert [cell.title for cell in found[:4]] == ["FedAvg", "FedAsync", "AP-FL", "AP-FL (fedasync)"]
    assert [cell.axis["heterogeneity"] for cell in found] == [0] * 4 + [0.5] * 4 + [1] * 4
    last = found[-1]
    assert last.timing.values["heterogeneity"] == 1.0 and last.timing.name == "fedasync" and last.rounds == (3,)
    assert last.origins[1].endswith("/fedavg--fedasync--heterogeneity-1/seed1")
    assert found[0].rounds == (1, 2, 3), "evaluated after each; AP-FL is carried out after the last alone"
    assert found[0].origins == found[0].runs == found[4].runs, "one run, whatever its clients' speeds"


def test_the_timeline_shows_each_schedule_once_where_clients_differ_or_drop_out_most() -> None:
    rates = {"rates": [0.2, 0.6], "entries": ENTRIES[:2]}
    found = cells(
        load_study(study(tables__dropout=rates, figures={"figure_timeline": {"rounds": 2}})), "figure_timeline"
    )
    assert [(cell.timing.name, cell.axis.get("heterogeneity"), cell.axis.get("rate")) for cell in found] == [
        ("sync", 1.0, None), ("fedasync", 1.0, None), ("sync", None, 0.6), ("fedasync", None, 0.6)]  # fmt: skip
    assert {cell.axis["shown"] for cell in found} == {2}


def test_a_trace_is_the_same_at_every_heterogeneity() -> None:
    schedules = completed({"measured": TRACE}, [])
    assert timed(schedules, "measured", heterogeneity=1).parts == ("measured",)
    assert timed(schedules, "measured", dropout=0.5).parts == ("measured", "dropout-0.5")


def write_trace(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_trace_is_read_from_beside_the_study_or_from_under_data_root(tmp_path: Path) -> None:
    given = study(schedules__measured={"latency": "trace", "trace": "speeds.csv"})
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(given))
    with pytest.raises(UserError, match=r"schedules.measured.trace 'speeds.csv': no such file"):
        load_study(path)
    write_trace(tmp_path / "speeds.csv", "client,start,arrival\n0,0,2\n1,0,3\n\n0,2,4\n")
    rows = [[0, 0.0, 2.0], [1, 0.0, 3.0], [0, 2.0, 4.0]]
    assert load_study(path).schedules["measured"]["trace"] == rows
    assert load_study(given | {"data_root": str(tmp_path)}).schedules["measured"]["trace"] == rows
    assert load_study(given, folders=[tmp_path]).schedules["measured"]["trace"] == rows
    again = given | {"schedules": load_study(path).schedules}
    assert load_study(again).schedules == load_study(path).schedules, "what is written down can be read again"


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("", 1, "client,start,arrival"),
        ("client,start,arrival\n", 1, "with rows below"),
        ("client,start,arrival\n0,0,1\nx,0,1\n", 3, "not a client and two times"),
        ("client,start,arrival\n0,0,1\n\n0,1\n", 4, "not a client and two times"),
        ("client,start,arrival\n0,0,nan\n", 2, "not a client and two times"),
        ("client,start,arrival\n-1,0,1\n", 2, "not a client and two times"),
        ("client,start,arrival\n0,-1,1\n", 2, "out of order"),
        ("client,start,arrival\n0,2,1\n", 2, "out of order"),
        ("client,start,arrival\n0,0,2\n1,0,1\n0,1,3\n", 4, "client 0 from 1 to 3 is out of order"),
    ],
)
def test_a_mistake_in_a_trace_names_the_file_and_the_line(tmp_path: Path, text: str, line: int, problem: str) -> None:
    with pytest.raises(UserError, match=rf"speeds\.csv: line {line}: .*{problem}") as error:
        read_trace(write_trace(tmp_path / "speeds.csv", text))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "speeds"), [("demo", 3), ("cpu", 2), ("paper", 3)])
def test_the_studies_of_the_project_compare_both_servers(name: str, speeds: int, monkeypatch) -> None:
    for variable in ("APFL_DATA_ROOT", "APFL_SEMANTICS_ROOT"):
        monkeypatch.setenv(variable, "anywhere")
    loaded = load_study(ROOT / f"config/{name}.yaml")
    for table, axis, levels in (("convergence", "heterogeneity", speeds), ("dropout", "rate", 2)):
        found = cells(loaded, table)
        assert {cell.timing.values["mode"] for cell in found} == {"sync", "async"}
        assert len({cell.axis[axis] for cell in found}) >= levels
        assert {"FedAvg", "AP-FL"} <= {cell.title for cell in found}
