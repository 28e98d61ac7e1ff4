"""What a study plans: nothing twice, and for every number of the paper the runs behind it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from apfl.errors import UserError
from apfl.registry.trees import ROOT
from apfl.storage.files import canonical_json
from apfl.study.cells import Cell, artefacts, cells, runs
from apfl.study.load import load_study
from apfl.study.outputs import OUTPUTS
from apfl.study.readings import READINGS, options_of
from apfl.study.runs import Run
from tests.helpers.studies import tiny

FULL = {
    "tables": {
        "table1": {"dataset": "digits"},
        "table2": {"clients": [3, 5], "alphas": ["0.05", "0.1"]},
        "table3": {},
        "table4": {"semantics": ["minilm", "shuffled"]},
    },
    "figures": {
        "figure4": {"panels": {"digits": "dirichlet-alpha0.1"}, "rounds": [1, 2]},
        "figure5": {"noise_dimension": [20, 100], "samples_per_class": [10, 50]},
    },
}


def planned(**changes: Any) -> dict[str, Run]:
    return {run.path: run for run in runs(load_study(tiny(**changes)))}


def stages(plan: dict[str, Run]) -> Counter[str]:
    return Counter(run.stage if run.stage != "federate" else run.method for run in plan.values())


def test_fedavg_is_trained_once_for_itself_for_fine_tuning_and_for_every_ablation_of_ap_fl() -> None:
    plan = planned(**FULL, seeds=[0, 1], training__rounds=3)
    settings = {run.setting for run in plan.values()}
    assert len(settings) == 6
    counts = stages(plan)
    assert counts["fedavg"] == counts["local"] == 2 * 6
    readers = Counter(run.inputs["run"] for run in plan.values() if run.stage == "personalize")
    shared = "tiny/runs/digits/dirichlet-alpha0.1-clients5/fedavg/seed0"
    assert readers[shared] == 1 + 1 + 1 + 1, "fine-tuning, AP-FL, another noise dimension, another number of samples"


def test_a_generator_is_shared_by_all_that_ask_for_the_same_parameters() -> None:
    plan = planned(**FULL, apfl__readings=["literal", "soft-labels", "diversity-exp"])
    generators = [run for run in plan.values() if run.stage == "memorize"]
    users = Counter(run.inputs["generator"] for run in plan.values() if "generator" in run.inputs)
    assert {run.path for run in generators} == set(users)
    here = [run for run in generators if run.setting == "dirichlet-alpha0.1-clients3"]
    assert len(here) == 2, "one for the readings of the friend, one for the reading of the generator"
    assert sorted(users[run.path] for run in here) == [1, 2]


def test_a_variation_that_is_the_study_s_own_value_is_the_study_s_own_run() -> None:
    plan = planned(**FULL)
    variants = {run.variant for run in plan.values() if run.setting == "dirichlet-alpha0.1-clients5"}
    assert {"apfl", "apfl--noise_dimension-100", "apfl--samples_per_class-50"} <= variants
    assert not variants & {"apfl--noise_dimension-20", "apfl--samples_per_class-10"}
    fifty = plan["tiny/runs/digits/dirichlet-alpha0.1-clients5/apfl--samples_per_class-50/seed0"]
    assert fifty.spec["parameters"]["samples_per_class"] == 50
    assert plan[fifty.inputs["generator"]].spec["parameters"]["samples_per_class"] == 50


def test_a_derived_method_is_carried_out_at_the_rounds_of_figure_4_and_elsewhere_after_the_last() -> None:
    plan = planned(**FULL, training__rounds=3)
    panel, other = ("tiny/runs/digits/dirichlet-alpha0.1-clients5", "tiny/runs/digits/dirichlet-alpha0.05-clients5")
    for path, rounds in ((panel, [1, 2, 3]), (other, [3])):
        derived = plan[f"{path}/apfl/seed0"]
        assert derived.spec["rounds"] == plan[derived.inputs["generator"]].spec["rounds"] == rounds
        assert plan[f"{path}/fedavg/seed0"].spec["training"]["save_rounds"] == rounds
    assert plan[f"{panel}/local/seed0"].spec["training"]["save_rounds"] == [], "nothing starts from Local"


def test_evaluation_is_at_every_nth_round_the_last_and_where_a_figure_looks() -> None:
    plan = planned(**FULL, training__rounds=7, training__evaluate_every=3)
    panel, other = ("tiny/runs/digits/dirichlet-alpha0.1-clients5", "tiny/runs/digits/dirichlet-alpha0.05-clients5")
    assert plan[f"{panel}/fedavg/seed0"].spec["training"]["evaluate_rounds"] == [1, 2, 3, 6, 7]
    assert plan[f"{other}/fedavg/seed0"].spec["training"]["evaluate_rounds"] == [3, 6, 7]


def test_inputs_are_runs_or_artefacts_of_the_plan_and_come_before_what_reads_them() -> None:
    study = load_study(tiny(**FULL))
    known = {entry.path for entry in artefacts(study)}
    for entry in artefacts(study):
        assert set(entry.inputs.values()) <= known
    for run in runs(study):
        assert set(run.inputs.values()) <= known, run.path
        known.add(run.path)


def test_every_cell_has_one_planned_run_a_seed_and_table_1_a_partition() -> None:
    study = load_study(tiny(**FULL, seeds=[3, 5]))
    plan = {run.path: run for run in runs(study)}
    for output in [name for name in OUTPUTS if name != "table1"]:
        for cell in cells(study, output):
            assert cell.seeds == (3, 5) == tuple(plan[path].seed for path in cell.runs)
            assert {plan[path].setting for path in cell.runs} == {cell.setting}
    (table1,) = cells(study, "table1")
    assert table1.runs == ("tiny/partitions/digits/pathological-classes2-clients10-missing20/seed3.npz",)
    assert table1.runs[0] in {entry.path for entry in artefacts(study)}
    with pytest.raises(UserError, match="choose one of table1"):
        cells(study, "table5")


def axes(study: dict[str, Any], output: str) -> list[tuple[str, dict[str, Any]]]:
    return [(cell.title, dict(cell.axis)) for cell in cells(load_study(study), output)]


def test_the_cells_are_those_of_the_paper() -> None:
    study = tiny(**FULL)
    assert ("AP-FL", {"clients": 5, "alpha": "0.05"}) in axes(study, "table2")
    assert axes(study, "table3")[:3] == [(title, {"missing": 10}) for title in ("Local", "FedAvg-FT", "AP-FL")]
    assert axes(study, "table4") == [("AP-FL", {"missing": 20, "semantics": name}) for name in ("minilm", "shuffled")]
    assert [title for title, _ in axes(study, "figure4")] == ["Local", "FedAvg", "FedAvg-FT", "AP-FL"]
    values = [tuple(axis.items()) for _, axis in axes(study, "figure5")]
    assert values == [((name, value),) for name, chosen in FULL["figures"]["figure5"].items() for value in chosen]


def role_of(output: str, method: str) -> set[str]:
    return {cell.model for cell in cells(load_study(tiny(**FULL)), output) if cell.method == method}


def test_each_cell_shows_the_model_that_the_paper_shows() -> None:
    assert role_of("table2", "fedavg") == {"global"} and role_of("table2", "local") == {"local"}
    assert role_of("table3", "fedavg-ft") == {"localized"} and role_of("table3", "apfl") == {"personalized"}
    assert role_of("table4", "apfl") == role_of("figure5", "apfl") == {"friend"}


def the_cells(study: dict[str, Any], output: str, **wanted: Any) -> list[Cell]:
    found = cells(load_study(study), output)
    return [cell for cell in found if all(getattr(cell, name) == value for name, value in wanted.items())]


def test_the_dropout_setting_has_two_of_ten_classes_a_client_and_a_fifth_of_more() -> None:
    letters = {"source": "parquet"}
    study = tiny(
        data_root="x", data__ocr_letters=letters, data__emnist_letters_a_to_l=letters, data__cifar100=letters, **FULL
    )
    for name, classes in (("digits", 2), ("ocr_letters", 6), ("emnist_letters_a_to_l", 3), ("cifar100", 20)):
        settings = [cell.setting for cell in the_cells(study, "table3", dataset=name, method="local")]
        assert settings == [f"pathological-classes{classes}-clients10-missing{missing}" for missing in (10, 20)]


def test_a_partition_instead_of_alphas_is_the_dash_of_table_2() -> None:
    study = tiny(tables__table2__partitions={"digits": "pathological-classes5"}, tables__table2__alphas=["0.1"])
    found = the_cells(study, "table2", method="fedavg")
    assert [(cell.setting, cell.axis["alpha"]) for cell in found] == [("pathological-classes5-clients3", "-")]


def test_readings_and_semantics_have_folders_of_their_own_and_change_what_they_say() -> None:
    study = tiny(**FULL, apfl__readings=["literal", "soft-labels"])
    literal, soft = the_cells(study, "table3", method="apfl")[:2]
    assert (literal.reading, soft.reading) == ("literal", "soft-labels")
    assert soft.runs[0].endswith("/apfl--reading-soft-labels/seed0") and literal.runs[0].endswith("/apfl/seed0")
    plan = {run.path: run for run in runs(load_study(study))}
    labels = [plan[cell.runs[0]].spec["parameters"]["friend_labels"] for cell in (literal, soft)]
    assert labels == ["hard", "soft"]
    shuffled = the_cells(study, "table4", semantics="shuffled", reading="literal")[0]
    assert plan[shuffled.runs[0]].spec["semantics"] == "shuffled"
    assert shuffled.runs[0].endswith("/apfl--semantics-shuffled/seed0")


def test_parameters_of_a_data_set_and_of_a_method_go_before_those_of_all() -> None:
    plan = planned(
        **{"apfl__parameters": {"beta": 0.3, "width": 8}, "apfl__datasets": {"digits": {"beta": 0.2, "epochs": 2}}},
        **{"methods__apfl-own": {"module": "apfl", "beta": 0.1}},
    )
    folder = "tiny/runs/digits/dirichlet-alpha0.1-clients3"
    assert plan[f"{folder}/apfl/seed0"].spec["parameters"]["beta"] == 0.2
    assert plan[f"{folder}/apfl-own/seed0"].spec["parameters"]["beta"] == 0.1
    generators = [run.spec["parameters"] for run in plan.values() if run.stage == "memorize"]
    assert len(generators) == 1, "beta is none of the generator's"
    assert (generators[0]["width"], generators[0]["epochs"]) == (8, 2)


def test_training_of_a_data_set_goes_before_that_of_all() -> None:
    plan = planned(training__datasets={"digits": {"rounds": 4, "evaluate_every": 2}})
    training = plan["tiny/runs/digits/dirichlet-alpha0.1-clients3/fedavg/seed0"].spec["training"]
    assert training["rounds"] == 4 and training["evaluate_rounds"] == [2, 4] and training["learning_rate"] == 0.001


def test_another_base_has_its_own_generator_and_leaves_the_first_alone() -> None:
    before = planned()
    after = planned(**{"methods__fedprox": {}, "methods__apfl-fedprox": {"module": "apfl", "base": "fedprox"}})
    assert stages(after) - stages(before) == {"fedprox": 1, "memorize": 1, "personalize": 1}
    assert all(after[path] == run for path, run in before.items())
    assert after["tiny/runs/digits/dirichlet-alpha0.1-clients3/fedprox/seed0"].spec["training"]["save_rounds"] == [1]


def test_a_new_method_adds_its_own_runs_and_changes_no_other() -> None:
    before, after = planned(**FULL), planned(**FULL, methods__fedprox={})
    assert {run.method for path, run in after.items() if path not in before} == {"fedprox"}
    assert all(after[path] == run for path, run in before.items())


def test_the_order_of_keys_changes_no_specification() -> None:
    def backwards(value: Any) -> Any:
        return {key: backwards(value[key]) for key in reversed(value)} if isinstance(value, dict) else value

    study = tiny(**FULL)
    one, other = (runs(load_study(version)) for version in (study, backwards(study)))
    assert {run.path: canonical_json(run.spec) for run in one} == {run.path: canonical_json(run.spec) for run in other}


def test_the_demo_has_a_cell_for_every_table_and_figure_and_both_controls_of_semantics() -> None:
    study = load_study(ROOT / "config/demo.yaml")
    assert all(cells(study, output) for output in OUTPUTS if output not in ("selection", "tuning"))
    compared = {cell.semantics for cell in cells(study, "table4")}
    assert {"minilm", "onehot", "random", "shuffled"} <= compared and len(study.seeds) == 2


def test_the_paper_s_study_is_the_full_grid_with_the_published_hyper_parameters() -> None:
    study = load_study(ROOT / "config/paper.yaml")
    table2 = cells(study, "table2")
    grid = {(cell.dataset, cell.axis["clients"], cell.axis["alpha"]) for cell in table2}
    alphas = {(name, clients, alpha) for name in ("cifar10", "cifar100", "emnist") for clients in (5, 10)
              for alpha in ("0.01", "0.05", "0.1")}  # fmt: skip
    assert grid == alphas | {("fashion_mnist", clients, "-") for clients in (5, 10)}
    assert {"Local", "FedAvg", "FedProx", "SCAFFOLD", "FedGen", "FedDF", "AP-FL"} <= {cell.title for cell in table2}
    assert {cell.axis["semantics"] for cell in cells(study, "table4")} >= {"w2v", "bert", "clip"}
    assert len(study.seeds) == 3
    training = study.training
    assert (training["batch_size"], training["optimizer"], training["local_epochs"]) == (50, "adam", 20)
    assert training["learning_rate"] == 2e-4
    plan = {run.path: run for run in runs(study)}
    for cell in table2:
        if cell.title == "AP-FL":
            run = plan[cell.runs[0]]
            assert run.spec["parameters"]["beta"] == (0.01 if cell.dataset.startswith("cifar") else 0.1)
            generator = plan[run.inputs["generator"]].spec
            assert generator["parameters"]["samples_per_class"] == 600 and generator["parameters"]["ce_weight"] == 0.5
            assert generator["semantics"] == "clip"


def test_the_multiverse_has_every_reading_and_each_option_with_labels_that_suit_the_pooled_test(monkeypatch) -> None:
    for variable in ("APFL_DATA_ROOT", "APFL_SEMANTICS_ROOT"):
        monkeypatch.setenv(variable, "anywhere")
    study = load_study(ROOT / "config" / "multiverse.yaml")
    shown = {cell.reading for cell in cells(study, "figure_multiverse")}
    assert set(READINGS) - {"equal-steps"} | {""} <= shown
    options = [tuple(options_of(name).items()) for name in shown if name]
    assert len(set(options)) == len(options) > 2 * len(READINGS)
    federated = {run.path for run in runs(study) if run.stage == "federate"}
    places = len(study.seeds) * 2 * 3  # data sets and alphas
    assert len(federated) == 2 * places, "all readings share FedAvg's run; feedback is a federated method"


def test_thinned_training_parts_are_in_the_name_of_every_partition_and_run_and_nothing_else_changes() -> None:
    plain, thin = (load_study(tiny(**FULL, **changes)) for changes in ({}, {"data__digits__train_samples": 200}))
    for before, after in zip([*artefacts(plain), *runs(plain)], [*artefacts(thin), *runs(thin)], strict=True):
        spec = dict(after.spec)
        if "setting" in spec:
            assert "-train200/" in after.path and spec["setting"].endswith("-train200")
            spec["setting"] = spec["setting"].removesuffix("-train200")
        assert (after.path.replace("-train200", ""), spec) == (before.path, before.spec)
        assert {name: path.replace("-train200", "") for name, path in after.inputs.items()} == before.inputs
    assert {cell.setting.endswith("-train200") for name in OUTPUTS for cell in cells(thin, name)} == {True}


def test_clients_of_a_round_and_momentum_are_said_of_a_run_only_where_the_study_gives_them() -> None:
    usual = [run.spec["training"] for run in runs(load_study(tiny()))]
    assert not any({"clients_per_round", "client_sampling", "momentum"} & spec.keys() for spec in usual)
    with_momentum = load_study(tiny(training__optimizer="sgd", training__momentum=0.9))
    assert {run.spec["training"]["momentum"] for run in runs(with_momentum) if "training" in run.spec} == {0.9}
    asked = tiny(training__clients_per_round=2, training__datasets={"digits": {"client_sampling": "size"}})
    drawn = [run.spec["training"] for run in runs(load_study(asked))]
    assert all((spec["clients_per_round"], spec["client_sampling"]) == (2, "size") for spec in drawn)
