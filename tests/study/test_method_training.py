"""A method's own local training, and several values of what a method takes: which runs there are, and what they are
called."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from apfl.errors import UserError
from apfl.study.cells import cells, runs
from apfl.study.load import load_study
from apfl.study.study import TRAINING
from tests.helpers.studies import tiny


def study_of(**methods):
    changes = {f"methods__{name.replace('_', '-')}": entry for name, entry in methods.items()}
    return load_study(tiny(**changes, data__photos={"source": "photos", "max_samples": 60}))


def planned(study, method, dataset="digits"):
    """By the name of its folder, the runs of a method on a data set."""
    return {run.variant: run for run in runs(study) if (run.method, run.dataset) == (method, dataset)}


def chain_of(study, method):
    """The folders of a method's run and of those that it starts from, and their local training."""
    by_path = {run.path: run for run in runs(study)}
    (run,) = planned(study, method).values()
    links = [run, *(by_path[run.inputs[name]] for name in ("generator", "run") if name in run.inputs)]
    return [link.variant for link in links], [link.spec["training"] for link in links]


MANY = {"local_epochs": [1, 2], "batch_size": [10, 20], "learning_rate": [0.1, 0.2], "optimizer": ["adam", "sgd"]}
OTHER = {"local_epochs": 3, "batch_size": 20, "learning_rate": 0.01, "optimizer": "sgd"}


def test_local_training_of_one_method_changes_no_run_of_another() -> None:
    plain, changed = study_of(fedprox={}), study_of(fedprox={"training": OTHER})
    training = planned(changed, "fedprox")["fedprox"].spec["training"]
    assert training == planned(plain, "fedprox")["fedprox"].spec["training"] | OTHER
    others = [[json.dumps(asdict(run)) for run in runs(study) if run.method != "fedprox"] for study in (plain, changed)]
    assert others[0] == others[1]


def test_a_data_set_s_own_training_comes_before_the_method_s_and_that_before_the_study_s() -> None:
    entry = {"training": {"learning_rate": 0.01}, "datasets": {"photos": {"training": {"learning_rate": 0.1}}}}
    study = study_of(fedprox=entry)
    rates = [
        planned(study, *place)[place[0]].spec["training"]["learning_rate"]
        for place in (("local", "photos"), ("fedprox", "digits"), ("fedprox", "photos"))
    ]
    assert rates == [0.001, 0.01, 0.1]


@pytest.mark.parametrize("method", ["fedavg-ft", "apfl"])
def test_a_method_with_other_training_starts_from_a_run_of_its_own_which_has_that_too(method) -> None:
    names, training = chain_of(study_of(**{method.replace("-", "_"): {"training": {"learning_rate": 0.01}}}), method)
    assert names[-1] == "fedavg--training.learning_rate-0.01"
    assert {one["learning_rate"] for one in training} == {0.01}


@pytest.mark.parametrize("entry", [{}, {"training": {"learning_rate": 0.01}}])
def test_with_the_training_of_the_method_that_it_starts_from_a_method_shares_its_run(entry) -> None:
    study = study_of(fedavg={"training": {"learning_rate": 0.01}}, apfl=entry)
    names, training = chain_of(study, "apfl")
    assert names[-1] == "fedavg" and {one["learning_rate"] for one in training} == {0.01}
    assert list(planned(study, "fedavg")) == ["fedavg"]


def test_each_of_several_values_is_a_variant_with_a_name_and_a_column_of_its_own() -> None:
    study = study_of(fedprox={"mu": [0.001, 0.01], "training": {"local_epochs": [1, 2]}})
    made = planned(study, "fedprox")
    assert {
        name: (run.spec["parameters"]["mu"], run.spec["training"]["local_epochs"]) for name, run in made.items()
    } == {
        f"fedprox--mu-{mu}--training.local_epochs-{epochs}": (mu, epochs) for mu in (0.001, 0.01) for epochs in (1, 2)
    }
    titles = {cell.title for cell in cells(study, "table2") if cell.method == "fedprox"}
    assert titles == {f"FedProx (mu {mu}, training.local_epochs {n})" for mu in (0.001, 0.01) for n in (1, 2)}


def test_the_name_of_a_variant_does_not_depend_on_which_other_values_there_are() -> None:
    few, many = (set(planned(study_of(fedprox={"mu": mu}), "fedprox")) for mu in ([0.1, 0.2], [0.05, 0.2, 0.1]))
    assert few < many


def test_several_values_for_one_data_set_are_variants_there_alone() -> None:
    study = study_of(fedprox={"datasets": {"photos": {"mu": [0.1, 0.2]}}})
    assert list(planned(study, "fedprox")) == ["fedprox"]
    assert list(planned(study, "fedprox", "photos")) == ["fedprox--mu-0.1", "fedprox--mu-0.2"]


def test_figures_and_methods_that_start_from_it_have_the_first_of_several_values() -> None:
    values = tiny(
        methods__fedavg={"training": {"learning_rate": [0.1, 0.2]}},
        figures__figure4={"panels": {"digits": "dirichlet-alpha0.1"}, "clients": 3},
    )
    study = load_study(values)
    names, training = chain_of(study, "apfl")
    assert names[-1] == "fedavg--training.learning_rate-0.1"
    assert {one["learning_rate"] for one in training} == {0.1}
    shown = [cell for cell in cells(study, "figure4") if cell.method == "fedavg"]
    assert [cell.title for cell in shown] == ["FedAvg (training.learning_rate 0.1)"]


def test_many_values_and_texts_that_cannot_be_names_are_named_by_a_digest() -> None:
    everything = planned(study_of(fedprox={"training": MANY}), "fedprox")
    assert len(everything) == 16 and all(name.startswith("fedprox--values-") for name in everything)
    private = planned(study_of(ffgg={"private": ["head.", "body.0.,head."]}), "ffgg")
    assert len(private) == 2 and all("," not in name for name in private)


@pytest.mark.parametrize(
    ("entry", "line"),
    [
        ({"training": {"rounds": 3}}, "methods.fedprox.training: unknown key 'rounds'; known: local_epochs"),
        ({"training": {"learning_rate": 0}}, "methods.fedprox.training.learning_rate: 0 is less than or equal to"),
        ({"training": {"optimizer": "lion"}}, "methods.fedprox.training.optimizer: 'lion' is not valid; give adam or"),
        ({"training": {"learning_rate": "1e-3"}}, "methods.fedprox.training.learning_rate"),
        ({"training": {"local_epochs": [1, 0]}}, "methods.fedprox.training.local_epochs.1: 0 is less than"),
        ({"mu": [0.1]}, "methods.fedprox.mu: .*too short"),
        ({"mu": [0.1, 0.1]}, "methods.fedprox.mu: .*non-unique"),
        ({"mu": [0.1, "a"]}, "methods.fedprox: mu 'a' is not of type float"),
        ({"datasets": {"photos": {"mu": [0.1, True]}}}, "methods.fedprox.datasets.photos: mu True is not of type"),
    ],
)
def test_a_mistake_is_named_in_one_line(entry, line) -> None:
    with pytest.raises(UserError, match=line) as caught:
        study_of(fedprox=entry)
    assert "\n" not in str(caught.value)


def test_ap_fl_s_parameters_for_all_have_no_local_training() -> None:
    with pytest.raises(UserError, match=r"apfl.parameters: unknown hyper-parameter 'training.learning_rate'"):
        load_study(tiny(**{"apfl__parameters": {"training.learning_rate": 0.1}}))


def test_what_a_method_may_have_otherwise_is_part_of_the_study_s_training() -> None:
    known = load_study(tiny()).training
    assert all(name.removeprefix("training.") in known for name in TRAINING)
