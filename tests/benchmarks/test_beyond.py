"""docs/beyond.md shows what docs/measurements/beyond.csv holds, and the search touches no test image."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch

from apfl.federation.method import BaseModels, load_method
from apfl.federation.synchronous import run
from apfl.memorization.generator import class_weights, ensemble_log_probabilities
from apfl.registry.trees import ROOT
from benchmarks import beyond, beyond_tables
from benchmarks.beyond_variants import Trial, centred, distilled, ensembles, head_of
from tests.helpers.problems import equal, tiny_problem

PAGE = (ROOT / "docs" / "beyond.md").read_text()


@pytest.mark.parametrize(
    ("name", "table"), [("confirmation", beyond_tables.confirmation_table), ("search", beyond_tables.search_table)]
)
def test_the_tables_of_the_page_are_made_from_the_committed_file(name, table) -> None:
    assert beyond_tables.shown(PAGE, name) == table()


def test_no_number_of_the_page_stands_outside_its_tables_but_those_that_are_asserted() -> None:
    prose = re.sub(r"^\|.*\|$|`[^`]*`|\(.*?\)", "", PAGE, flags=re.MULTILINE)
    assert not re.findall(r"\d+\.\d+ (?:points|%|percent)", prose.replace("15.5 %", ""))


def test_the_search_saw_validation_parts_of_its_seeds_and_the_confirmation_others() -> None:
    frame = beyond_tables.measurements()
    seeds = {part: sorted(group["seed"].unique()) for part, group in frame.groupby("part")}
    assert seeds == {"validation": list(beyond.SEARCH), "test": list(beyond.CONFIRM)}
    assert set(frame["alpha"]) == set(beyond.ALPHAS)
    assert not frame.duplicated(["part", "alpha", "seed", "variant", "base"]).any()


def test_apfl_plus_beats_fedavg_in_every_cell_and_ap_fl_in_none() -> None:
    frame = beyond_tables.measurements().query("base == 'FedAvg'")
    for part in ("validation", "test"):
        gains = {name: group["gain"] for name, group in frame[frame["part"] == part].groupby("variant")}
        assert len(gains["AP-FL+"]) == 6 and (gains["AP-FL+"] > 0).all() and (gains["AP-FL+, friend"] > 0).all()
        assert len(gains["AP-FL, literal"]) == 6 and (gains["AP-FL, literal"] < 0).all()


def test_what_the_page_says_of_the_other_variants() -> None:
    frame = beyond_tables.measurements().query("part == 'validation'")
    rows = {key: group.set_index(["alpha", "seed"])["gain"] for key, group in frame.groupby(["variant", "base"])}
    plus, low = rows["AP-FL+, friend", "FedAvg"], "0.01"
    assert (rows["AP-FL+, friend on the untrained network", "none"][low] > 0).all()
    assert (rows["AP-FL+, friend on the untrained network", "none"] < plus - 3).all()
    assert (rows["head of AP-FL+ on generated images", "FedAvg"][low] < 0).all()
    assert all(
        (gain[low] < 0).all() for (name, base), gain in rows.items() if "ensemble: " in name and base == "FedAvg"
    )
    assert all((gain < 0).all() for (name, _), gain in rows.items() if "distilled" in name)
    adjusted = rows["logit adjustment", "logit adjustment"]
    assert (rows["ensemble: Eq. 7", "logit adjustment"] > adjusted + 1).all()
    first = plus[:, 0]
    for name in ("ridge", "samples"):
        assert ((plus - rows[f"head: {name}", "FedAvg"]).abs() < 7).all()
        assert (rows[f"head: {name}", "FedAvg"] > 0).all()
    for name in ("head of AP-FL+ fed back in every round", *(name for name, _ in rows if "replay" in name)):
        assert (rows[name, name][:, 0] < first / 2 + 1).all(), name
    own, made = (
        rows[name, name][:, 0]
        for name in (
            "adjusted, replay of own images",
            "adjusted, replay of generated images (teacher: global)",
        )
    )
    assert ((own - made).abs() < 1).all()
    assert abs(rows["not-true distillation", "not-true distillation"]["0.05", 0] - first["0.05"]) < 1
    assert rows["not-true distillation", "not-true distillation"][low, 0] < 1


def test_the_validation_parts_are_a_tenth_of_the_training_parts_and_the_test_parts_are_out_of_reach() -> None:
    problem = tiny_problem(sizes=(40, 30, 21))
    held = beyond.hold_out(problem)
    for client in problem.clients:
        both = torch.cat([held.train[client], held.test[client]]).sort().values
        assert torch.equal(both, problem.train[client])
        assert len(held.test[client]) == round(0.1 * len(problem.train[client]))
        labels = problem.images.labels[held.train[client]]
        assert torch.equal(held.counts[client], labels.bincount(minlength=problem.classes))


def test_a_trial_without_additions_is_fedavg() -> None:
    problem = tiny_problem()
    (*_, plain), (*_, trial) = (run(method, problem) for method in (load_method("fedavg"), Trial()))
    assert equal(plain.state["global"], trial.state["global"])


@pytest.mark.parametrize(
    "change", [{"adjust": 0.1}, {"not_true": 1.0}, {"feedback": True}, *({"replay": name} for name in ("own", "noise"))]
)
def test_each_addition_changes_the_rounds(change) -> None:
    problem = tiny_problem()
    (*_, plain), (*_, trial) = (run(method, problem) for method in (load_method("fedavg"), Trial(**change)))
    assert not equal(plain.state["global"], trial.state["global"])
    assert all(torch.isfinite(value).all() for value in trial.state["global"].values())


def test_a_generators_images_are_replayed() -> None:
    problem = dataclasses.replace(tiny_problem(channels=3, rounds=2), semantics=torch.eye(3))
    for teacher in ("clients", "global"):
        *_, now = run(Trial(replay=teacher), problem)
        assert all(torch.isfinite(value).all() for value in now.state["global"].values())
        assert now.state["generator"]


def test_centring_a_head_changes_no_probability() -> None:
    problem = tiny_problem()
    images = problem.images.batch(problem.train[0]).images
    before, after = (problem.model(model, images).softmax(1) for model in (problem.start, centred(problem.start)))
    assert torch.allclose(before, after, atol=1e-6)


def base_of(problem) -> BaseModels:
    *_, now = run(load_method("fedavg"), problem)
    return BaseModels(now.state["global"], now.latest)


def test_the_first_ensemble_is_equation_7_and_one_teacher_teaches_itself_nothing() -> None:
    problem = tiny_problem()
    base = base_of(problem)
    images = problem.images.batch(torch.cat(problem.test)).images
    models = list(base.local_models.values())
    expected = ensemble_log_probabilities(problem.model, models, class_weights(problem.counts), images)
    assert torch.equal(ensembles(problem, base)["Eq. 7"](images), expected)
    alone = dataclasses.replace(base, local_models={0: base.global_model})
    whole = dataclasses.replace(problem, counts=torch.ones_like(problem.counts))
    student = distilled(whole, alone, "real", steps=5)
    logits = [problem.model(model, images).softmax(1) for model in (student, base.global_model)]
    assert torch.allclose(*logits, atol=0.05)
    assert not torch.allclose(problem.model(distilled(problem, base, "noise", steps=20), images).softmax(1), logits[1])


@pytest.mark.parametrize("kind", ["nearest mean", "diagonal", "ridge", "samples"])
def test_the_other_heads_learn_separable_features(kind) -> None:
    problem = tiny_problem()
    labels = torch.arange(3).repeat_interleave(20)
    features = torch.zeros(60, 8).double()
    features[torch.arange(60), labels] = 3.0
    features += 0.1 * torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    head = head_of(kind, problem, problem.start, features, labels)
    assert (problem.model.classify(head, features.float()).argmax(1) == labels).all()
