"""AP-FL's equations, one by one, and the readings of the paper's text."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch

from apfl.engine import stack as stacked
from apfl.engine.device import Engine
from apfl.engine.networks import Model, build_network
from apfl.errors import UserError
from apfl.federation.aggregation import weighted_mean
from apfl.federation.method import BaseModels, load_method
from apfl.federation.synchronous import run
from apfl.memorization.friends import interpolate, label_counts, label_distribution, localize
from apfl.memorization.generator import (
    DIVERSITIES,
    GeneratorConfig,
    build_memory,
    class_weights,
    discounted,
    diversity_exp,
    diversity_paper,
    diversity_ratio,
    ensemble_log_probabilities,
    epoch_labels,
    memorize,
    teacher_loss,
)
from apfl.study.readings import LITERAL, READINGS, check_distinct, options_of, reading
from baselines.apfl import BETAS
from tests.helpers.problems import Tiny, distance, equal, parameters, same_data, tiny_problem

CONFIG = GeneratorConfig(noise_dimension=4, samples_per_class=8, epochs=2, width=4, batch_size=8, group=4)


def base_of(problem) -> BaseModels:
    *_, now = run(load_method("fedavg"), problem)
    return BaseModels(now.state["global"], now.latest)


def memory_of(problem, base, config=CONFIG):
    memory = build_memory(config, torch.eye(problem.classes), problem.images.pixels.shape[-1], problem.seed)
    teachers = [base.local_models[client] for client in problem.participants]
    weights = class_weights(problem.counts[list(problem.participants)])
    return memorize(memory, problem.model, teachers, weights, problem.engine, problem.seed)


@pytest.fixture(scope="module")
def trained():
    """A federation with a dropout client that alone holds class 4, its base models and a generator."""
    problem = tiny_problem(sizes=(23, 12, 30), classes=5, dropout=(2,))
    counts = problem.counts.clone()
    labels = problem.images.labels.clone()
    for client in (0, 1):
        for part in (problem.train[client], problem.test[client]):
            labels[part] = labels[part] % 4
        counts[client] = torch.bincount(labels[problem.train[client]], minlength=5)
    problem = dataclasses.replace(
        problem,
        images=dataclasses.replace(problem.images, labels=labels),
        counts=counts,
        unseen=torch.tensor([False] * 4 + [True]),
    )
    base = base_of(problem)
    return problem, base, memory_of(problem, base).memory


def test_equation_7_weights_of_each_seen_class_sum_to_one() -> None:
    counts = torch.tensor([[5, 0, 0], [15, 2, 0]])
    weights = class_weights(counts)
    assert torch.equal(weights, torch.tensor([[0.25, 0.0, 0.0], [0.75, 1.0, 0.0]]))
    assert torch.equal(weights.sum(0), torch.tensor([1.0, 1.0, 0.0]))


def test_equation_7_over_all_images_weighs_a_class_by_its_share_of_them() -> None:
    counts = torch.tensor([[5, 0, 0], [15, 2, 0]])
    assert torch.equal(class_weights(counts, "all"), counts / torch.tensor(22.0))
    balanced = torch.tensor([[3, 1, 4], [5, 7, 4]])
    assert torch.allclose(class_weights(balanced, "all"), class_weights(balanced) / 3)


def test_with_equal_steps_friend_and_generator_take_as_many_whatever_the_number_of_samples(trained) -> None:
    problem, base, memory = trained
    for samples in (30, 60, 120):
        method = load_method("apfl", {"samples_per_class": samples, "steps_as_with": 60, "friend_epochs": 4})
        distribution = label_distribution(problem, 0, "own")
        images = samples * int((distribution > 0).sum())
        work = method._friend(problem, base, 0, base.global_model, 1, memory)
        (phase,) = work.phases
        assert phase.epochs * images == 4 * 60 * int((distribution > 0).sum())
        config = GeneratorConfig(samples_per_class=samples, epochs=4, steps_as_with=60)
        assert config.passes * samples == 4 * 60


def test_equations_6_and_7_equal_the_sums_written_out() -> None:
    model, stream = Model(Tiny(1, 3)), torch.Generator().manual_seed(0)
    teachers = [parameters(model.network, seed) for seed in (1, 2)]
    weights = class_weights(torch.tensor([[5, 0, 3], [15, 2, 3]]))
    images, labels = torch.randn(6, 1, 32, 32, generator=stream), torch.tensor([0, 0, 1, 2, 2, 0])
    total = 0.0
    for image, label in zip(images, labels, strict=True):
        one_hot = torch.nn.functional.one_hot(label, 3)
        for k, teacher in enumerate(teachers):
            probabilities = model(teacher, image[None])[0].softmax(0)
            total += weights[k, label] * -(one_hot * probabilities.log()).sum()
    assert torch.allclose(teacher_loss(model, teachers, weights, images, labels), total / 6)


def test_a_teacher_without_the_class_has_no_say() -> None:
    model = Model(Tiny(1, 3))
    first, second, third = (parameters(model.network, seed) for seed in (1, 2, 3))
    weights = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    images, labels = torch.randn(4, 1, 32, 32), torch.tensor([0, 2, 2, 0])
    loss = teacher_loss(model, [first, second], weights, images, labels)
    assert torch.equal(loss, teacher_loss(model, [first, third], weights, images, labels))
    assert not torch.equal(loss, teacher_loss(model, [third, second], weights, images, labels))


def test_equation_8_equals_the_double_loop_written_out() -> None:
    images = torch.randn(2, 5, 3, 4, 4)
    expected = 0.0
    for group in images:
        for i, j in itertools.permutations(range(5), 2):
            expected -= torch.linalg.vector_norm(group[i] - group[j]) / (5 * (5 - 1)) / 2
    assert torch.allclose(diversity_paper(images, torch.randn(2, 5, 4)), expected)


def test_equation_8_rewards_spread_and_has_a_finite_gradient_for_equal_images() -> None:
    images = torch.ones(1, 3, 1, 2, 2, requires_grad=True)
    loss = diversity_paper(images, torch.zeros(1, 3, 2))
    (gradient,) = torch.autograd.grad(loss, images)
    assert loss == 0 and gradient.isfinite().all()
    spread = torch.randn(1, 3, 1, 2, 2)
    assert diversity_paper(2 * spread, torch.zeros(1, 3, 2)) < diversity_paper(spread, torch.zeros(1, 3, 2)) < 0


def test_the_other_diversity_terms_are_bounded_and_reward_spread() -> None:
    images, noise = torch.randn(2, 4, 1, 8, 8), torch.randn(2, 4, 3)
    for term in (diversity_ratio, diversity_exp):
        assert 0 < term(3 * images, noise) < term(images, noise)
    assert diversity_exp(0 * images, noise) == 1


def test_the_generator_is_asked_for_seen_classes_only_and_evenly() -> None:
    weights = torch.tensor([[1.0, 0.0, 0.4], [0.0, 0.0, 0.6]])
    labels = torch.cat([*epoch_labels(weights, CONFIG, torch.Generator().manual_seed(0))])
    assert torch.equal(torch.bincount(labels, minlength=3), torch.tensor([8, 0, 8]))


def test_each_batch_is_made_of_groups_of_one_class() -> None:
    for batch in epoch_labels(torch.ones(1, 5), CONFIG, torch.Generator().manual_seed(0)):
        assert all(len(group.unique()) == 1 for group in batch.view(-1, CONFIG.group))


def test_the_generator_learns_what_its_teachers_know(trained) -> None:
    problem, base, _ = trained
    config = dataclasses.replace(CONFIG, epochs=15, ce_weight=1.0, samples_per_class=16, width=8)
    history = memory_of(problem, base, config).history
    assert history[-1]["classification"] < 0.7 * history[0]["classification"]


def test_the_generator_is_the_same_bits_twice_and_other_bits_from_another_seed(trained) -> None:
    problem, base, memory = trained
    again = memory_of(problem, base).memory.generator.state_dict()
    other = memory_of(dataclasses.replace(problem, seed=1), base).memory.generator.state_dict()
    mine = memory.generator.state_dict()
    assert all(torch.equal(mine[name], again[name]) for name in mine)
    assert any(not torch.equal(mine[name], other[name]) for name in mine)


def test_an_image_does_not_depend_on_the_batch_it_is_made_in_and_images_are_normalised(trained) -> None:
    _, _, memory = trained
    noise, semantics = torch.randn(9, 4), memory.embeddings[[0, 1, 2, 3, 4, 0, 1, 2, 3]]
    with torch.inference_mode():
        assert torch.allclose(
            memory.generator(noise, semantics)[:2], memory.generator(noise[:2], semantics[:2]), atol=1e-5
        )
    seen = memory.sample(torch.tensor([0, 1, 2, 3] * 100), torch.Generator().manual_seed(3), Engine())
    assert abs(seen.mean()) < 0.1 and abs(seen.std() - 1) < 0.1


def test_the_semantic_table_decides_what_an_unseen_class_looks_like(trained) -> None:
    _, _, memory = trained
    labels = torch.full((4,), 4)
    before = memory.sample(labels, torch.Generator().manual_seed(0), Engine())
    embeddings = memory.embeddings.clone()
    embeddings[4] = embeddings[1]
    imitating = dataclasses.replace(memory, embeddings=embeddings)
    as_class_1 = memory.sample(torch.full((4,), 1), torch.Generator().manual_seed(0), Engine())
    assert torch.equal(imitating.sample(labels, torch.Generator().manual_seed(0), Engine()), as_class_1)
    assert not torch.equal(before, as_class_1)


def test_the_ensemble_is_a_distribution_and_one_teacher_is_itself() -> None:
    model = Model(Tiny(1, 3))
    teachers = [parameters(model.network, seed) for seed in (1, 2)]
    images = torch.randn(5, 1, 32, 32)
    both = ensemble_log_probabilities(model, teachers, class_weights(torch.tensor([[1, 2, 0], [1, 0, 4]])), images)
    assert torch.allclose(both.exp().sum(1), torch.ones(5))
    alone = ensemble_log_probabilities(model, teachers[:1], torch.ones(1, 3), images)
    assert torch.allclose(alone, model(teachers[0], images).log_softmax(1), atol=1e-5)


def test_the_ensemble_weighs_each_teachers_word_on_a_class_by_equation_7() -> None:
    model = Model(Tiny(1, 3))
    teachers = [parameters(model.network, seed) for seed in (1, 2)]
    weights, images = class_weights(torch.tensor([[1, 2, 0], [3, 0, 4]])), torch.randn(5, 1, 32, 32)
    first, second = (model(teacher, images).softmax(1) for teacher in teachers)
    votes = torch.stack([0.25 * first[:, 0] + 0.75 * second[:, 0], first[:, 1], second[:, 2]], dim=1)
    expected = votes / votes.sum(1, keepdim=True)
    assert torch.allclose(ensemble_log_probabilities(model, teachers, weights, images).exp(), expected, atol=1e-6)


def test_stale_models_have_less_weight_and_seen_classes_still_sum_to_one() -> None:
    counts = torch.tensor([[10, 0], [10, 5]])
    weights = class_weights(discounted(counts, [0, 3], rate=0.5))
    assert torch.allclose(weights, torch.tensor([[2 / 3, 0.0], [1 / 3, 1.0]]))
    assert torch.equal(class_weights(discounted(counts, [0, 3], rate=0.0)), class_weights(counts))


def test_equation_10_with_beta_one_is_the_local_model_and_with_beta_zero_the_friend() -> None:
    local, friend = parameters(Tiny(1, 3), 1), parameters(Tiny(1, 3), 2)
    assert equal(interpolate(local, friend, 1.0), local)
    assert equal(interpolate(local, friend, 0.0), friend)
    mixed = interpolate(local, friend, 0.25)
    assert all(torch.allclose(mixed[name], 0.25 * local[name] + 0.75 * friend[name]) for name in local)


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_personalized_models_follow_beta_for_every_client(trained, beta) -> None:
    problem, base, memory = trained
    models = load_method("apfl", {"beta": beta, "samples_per_class": 6}).personalize(problem, base, 2, memory)
    own = models["local"] | models["localized"]
    expected = own if beta else models["friend"]
    assert models["personalized"].keys() == {0, 1, 2}
    assert all(equal(models["personalized"][client], expected[client]) for client in expected)


def test_equation_12_takes_the_localized_global_model_for_dropouts_which_is_fedavg_ft(trained) -> None:
    problem, base, memory = trained
    models = load_method("apfl", {"beta": 1.0, "samples_per_class": 6}).personalize(problem, base, 2, memory)
    fine_tuned = load_method("fedavg_ft").personalize(problem, base, 2)["localized"]
    assert equal(models["personalized"][2], fine_tuned[2])
    assert models["localized"].keys() == {2} and models["local"].keys() == {0, 1}
    assert distance(localize(problem, [2], base.global_model, 2)[2], base.global_model) > 1e-3


def test_friends_and_localized_models_are_the_same_trained_as_one_stack(trained, monkeypatch) -> None:
    problem, base, memory = trained
    method = load_method("apfl", {"samples_per_class": 6, "friend_distribution": "uniform"})
    sizes: list[int] = []
    together = stacked.together
    monkeypatch.setattr(stacked, "together", lambda *given: sizes.append(len(given[1])) or together(*given))
    alone = method.personalize(problem, base, 2, memory)
    assert not sizes
    at_once = method.personalize(dataclasses.replace(problem, engine=Engine(stack=8)), base, 2, memory)
    assert sizes == [3], "three friends, each with images of its own; one localized model needs no stack"
    for role in ("friend", "localized"):
        for client, params in alone[role].items():
            assert distance(at_once[role][client], params) < 1e-4 * distance(params, base.global_model)


def test_friends_are_trained_on_some_clients_images_at_a_time(trained, monkeypatch) -> None:
    problem, base, memory = trained
    method = load_method("apfl", {"samples_per_class": 6, "friend_distribution": "uniform"})
    problem = dataclasses.replace(problem, engine=Engine(stack=8))
    whole = method.personalize(problem, base, 2, memory)["friend"]
    sizes: list[int] = []
    together = stacked.together
    monkeypatch.setattr(stacked, "together", lambda *given: sizes.append(len(given[1])) or together(*given))
    image = 4 * problem.images.pixels[0].numel()
    monkeypatch.setattr("baselines.apfl.IMAGES_AT_A_TIME", 2 * image * 6 * problem.classes)
    friends = method.personalize(problem, base, 2, memory)["friend"]
    assert sizes == [2], "two clients' friends, and then the third one alone"
    for client, params in whole.items():
        assert distance(friends[client], params) < 1e-4 * distance(params, base.global_model)


def test_changing_a_dropout_clients_images_changes_no_generator(trained) -> None:
    problem, base, memory = trained
    pixels = problem.images.pixels.clone()
    pixels[problem.train[2]] = 255 - pixels[problem.train[2]]
    changed = dataclasses.replace(problem, images=dataclasses.replace(problem.images, pixels=pixels))
    other_base = base_of(changed)
    mine, other = memory.generator.state_dict(), memory_of(changed, other_base).memory.generator.state_dict()
    assert equal(base.global_model, other_base.global_model)
    assert all(torch.equal(mine[name], other[name]) for name in mine)


def test_friend_labels_follow_the_clients_distribution_by_largest_remainder() -> None:
    assert label_counts(torch.tensor([5, 0, 5, 1]), 12).tolist() == [6, 0, 5, 1]
    assert label_counts(torch.tensor([1, 1, 1]), 10).tolist() == [4, 3, 3]
    assert label_counts(torch.tensor([7.0]), 600).tolist() == [600]


def test_label_distributions_of_the_three_readings(trained) -> None:
    problem, *_ = trained
    assert torch.equal(label_distribution(problem, 2, "own"), problem.counts[2].double())
    assert label_distribution(problem, 2, "uniform").tolist() == [1] * 5
    assert torch.equal(label_distribution(problem, 0, "global"), problem.counts[:2].sum(0).double())
    assert torch.equal(label_distribution(problem, 2, "global"), problem.counts.sum(0).double())


CHANGES = [
    {"friend_labels": "soft"},
    {"friend_distribution": "uniform"},
    {"friend_distribution": "global"},
    {"friend_start": "local"},
    {"friend_start": "scratch"},
    {"friend_epochs": 3},
    {"samples_per_class": 7},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_every_option_of_the_friend_changes_the_friend(trained, change) -> None:
    problem, base, memory = trained
    literal = load_method("apfl", {"samples_per_class": 6}).personalize(problem, base, 2, memory)["friend"]
    other = load_method("apfl", {"samples_per_class": 6} | change).personalize(problem, base, 2, memory)["friend"]
    assert not equal(literal[0], other[0])


def test_beta_may_weigh_the_friend(trained) -> None:
    problem, base, memory = trained
    options = {"samples_per_class": 6, "beta": 0.25}
    equation = load_method("apfl", options).personalize(problem, base, 2, memory)
    text = load_method("apfl", options | {"beta_weighs": "friend"}).personalize(problem, base, 2, memory)
    expected = interpolate(equation["local"][0], equation["friend"][0], 0.75)
    assert equal(text["personalized"][0], expected) and equal(equation["friend"][0], text["friend"][0])


def test_a_client_without_data_keeps_the_global_model_as_its_friend() -> None:
    problem = tiny_problem(sizes=(9, 0, 1))
    base = base_of(problem)
    memory = memory_of(problem, base).memory
    models = load_method("apfl", {"samples_per_class": 6}).personalize(problem, base, 2, memory)
    assert equal(models["friend"][1], base.global_model)


def test_identical_clients_with_scratch_friends_differ_only_by_their_streams() -> None:
    problem = same_data(tiny_problem(sizes=(9, 9)))
    base = base_of(problem)
    memory = memory_of(problem, base).memory
    friends = load_method("apfl", {"samples_per_class": 6}).personalize(problem, base, 2, memory)["friend"]
    assert not equal(friends[0], friends[1])


@pytest.mark.parametrize("diversity", sorted(DIVERSITIES))
def test_every_diversity_term_trains_in_bf16_too(diversity) -> None:
    problem = tiny_problem(sizes=(9, 9), bf16=True)
    done = memory_of(problem, base_of(problem), dataclasses.replace(CONFIG, diversity=diversity))
    assert all(torch.isfinite(torch.tensor(list(entry.values()))).all() for entry in done.history)


@pytest.mark.parametrize(
    ("settings", "field"),
    [({"ce_weight": 1.5}, "ce_weight"), ({"diversity": "l2"}, "diversity"), ({"teacher": "nobody"}, "teacher"),
     ({"group": 3}, "group"), ({"epochs": 0}, "epochs")],
)  # fmt: skip
def test_bad_generator_settings_are_refused(settings, field) -> None:
    with pytest.raises(UserError, match=field):
        GeneratorConfig(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"beta": 2.0},
        {"beta_weighs": "both"},
        {"friend_labels": "fuzzy"},
        {"friend_start": "x"},
        {"samples_per_class": 0},
    ],
)
def test_bad_friend_settings_are_refused(settings) -> None:
    with pytest.raises(UserError, match=next(iter(settings))):
        load_method("apfl", settings)


@pytest.mark.parametrize("name", sorted(READINGS))
def test_every_reading_names_options_that_exist(name) -> None:
    options = READINGS[name]
    config = GeneratorConfig(**options.get("generator", {}))
    method = load_method("apfl", options.get("friend", {}))
    assert options.keys() <= {"generator", "friend"}
    assert options_of(name) == {key: getattr(method, key, None) or getattr(config, key) for key in LITERAL}


def test_readings_are_joined_unless_they_contradict_each_other_or_mean_the_same() -> None:
    joined = reading("soft-labels+uniform-labels+global-teacher")
    assert joined == {**reading("uniform-soft-labels"), **reading("global-teacher")}
    assert options_of("literal") == dict(LITERAL)
    with pytest.raises(UserError, match="contradict each other in friend_start"):
        reading("friend-from-local+friend-from-scratch")
    with pytest.raises(UserError, match=r"apfl.readings 'soft-labels\+nothing': unknown reading 'nothing'"):
        reading("soft-labels+nothing")
    with pytest.raises(UserError, match="has the same options as 'uniform-soft-labels'"):
        check_distinct(["uniform-soft-labels", "soft-labels+uniform-labels"])


def test_the_sweep_of_beta_trains_nothing_and_ends_at_the_interpolations() -> None:
    problem = tiny_problem(sizes=(6, 5), rounds=1, local_epochs=1)
    *_, now = run(load_method("fedavg"), problem)
    models = BaseModels(now.state["global"], now.latest)
    memory = memory_of(problem, models).memory
    plain, swept = (
        load_method("apfl", {"samples_per_class": 4, "beta": 0.5, "sweep_beta": sweep}).personalize(
            problem, models, 1, memory
        )
        for sweep in (False, True)
    )
    assert swept.keys() - plain.keys() == {f"beta{beta}" for beta in BETAS}
    assert all(equal(plain[role][client], swept[role][client]) for role in plain for client in plain[role])
    for beta in BETAS:
        assert equal(swept[f"beta{beta}"][0], interpolate(swept["local"][0], swept["friend"][0], beta))


FEEDBACK = {"samples_per_class": 20, "noise_dimension": 4, "width": 4}


def test_feedback_zero_is_fedavg_and_feedback_one_is_the_friends_mean() -> None:
    problem = dataclasses.replace(tiny_problem(rounds=1), semantics=torch.eye(3))
    *_, fedavg = run(load_method("fedavg"), problem)
    states = {}
    for feedback in (0.0, 1.0):
        *_, now = run(load_method("apfl_feedback", FEEDBACK | {"feedback": feedback}), problem)
        states[feedback] = now.state
    assert equal(states[0.0]["global"], fedavg.state["global"])
    friends = [states[1.0]["friends"][str(client)] for client in problem.clients]
    assert equal(states[1.0]["global"], weighted_mean(friends, [problem.size(client) for client in problem.clients]))


@pytest.mark.parametrize("base", ["fedprox", "scaffold"])
def test_ap_fl_caps_onto_another_base_method_and_another_network(base) -> None:
    network = build_network({"name": "resnet", "width": 8}, 1, 3)
    problem = tiny_problem(sizes=(6, 5), network=network, rounds=1, local_epochs=1)
    *_, now = run(load_method(base), problem)
    models = BaseModels(now.state["global"], now.latest)
    memory = memory_of(problem, models).memory
    made = load_method("apfl", {"samples_per_class": 4}).personalize(problem, models, 1, memory)
    assert made["personalized"].keys() == {0, 1}
    assert all(torch.isfinite(value).all() for value in made["personalized"][0].values())
    assert not equal(made["friend"][0], models.global_model)
