"""FedGen: the generator's loss by hand, the clients' terms, and its state."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from apfl.engine.networks import CNN
from apfl.engine.work import Step, cross_entropy
from apfl.errors import UserError
from apfl.federation.method import load_method
from apfl.federation.problem import run_work
from apfl.federation.synchronous import run
from apfl.memorization.generator import class_weights
from apfl.registry.trees import ROOT
from apfl.study.cells import runs as planned
from apfl.study.load import load_study
from baselines.fedgen import FedGen, Regularized, diversity, uniform_labels
from tests.helpers.problems import Tiny, equal, parameters, tiny_problem


def rounds(problem, **parameters):
    return [*run(load_method("fedgen", parameters), problem)]


def cross_entropies(problem, teacher, latents, labels) -> np.ndarray:
    """Of the teacher's head on latents, in NumPy."""
    logits = latents @ teacher["head.weight"].numpy().T + teacher["head.bias"].numpy()
    return np.log(np.exp(logits).sum(1)) - logits[np.arange(len(labels)), labels]


def dot(first: list[float], second: list[float]) -> float:
    return sum(a * b for a, b in zip(first, second, strict=True))


def test_the_generators_loss_is_the_weighted_ensemble_and_diversity_computed_by_hand() -> None:
    problem = tiny_problem()
    teachers = [parameters(Tiny(1, 3), seed) for seed in (1, 2, 3)]
    stream = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(7, 8, generator=stream), torch.rand(7, 5, generator=stream)
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 2])
    weights = class_weights(problem.counts)

    def by_hand(weights: np.ndarray) -> float:
        ce = [cross_entropies(problem, teacher, latents.numpy(), labels.numpy()) for teacher in teachers]
        ensemble = sum((weights[k, labels.numpy()] * ce[k]).mean() for k in range(3))
        z, eps = latents.numpy().astype(float), noise.numpy().astype(float)
        pairs = [((eps[i] - eps[j]) ** 2).mean() * np.abs(z[i] - z[j]).mean() for i in range(7) for j in range(7)]
        return 2 * ensemble + 3 * np.exp(-np.mean(pairs))

    method = FedGen(ensemble_weight=2.0, diversity_weight=3.0)
    arguments = (latents, labels, noise)
    whole = method.generator_loss(problem.model, teachers, weights, *arguments).item()
    assert whole == pytest.approx(by_hand(weights.numpy()), rel=1e-5)

    client, label = 2, 1
    assert weights[client, label] > 0
    without = weights.clone()
    without[client, label] = 0
    lost = method.generator_loss(problem.model, teachers, without, *arguments).item()
    assert lost == pytest.approx(by_hand(without.numpy()), rel=1e-5)
    ce = cross_entropies(problem, teachers[client], latents.numpy(), labels.numpy())
    assert whole - lost == pytest.approx(2 * (weights[client, label].item() * ce)[labels == label].sum() / 7, rel=1e-4)


def test_every_latent_is_weighed_by_its_own_label_in_a_naive_loop_and_not_by_the_mean_weight() -> None:
    problem = tiny_problem()
    teachers = [parameters(Tiny(1, 3), seed) for seed in (1, 2, 3)]
    latents = torch.randn(6, 8, generator=torch.Generator().manual_seed(0)).double()
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    weights = class_weights(problem.counts)
    paper, program = 0.0, 0.0
    for client, teacher in enumerate(teachers):
        losses, shares = [], []
        for latent, label in zip(latents.tolist(), labels.tolist(), strict=True):
            rows, biases = teacher["head.weight"].tolist(), teacher["head.bias"].tolist()
            logits = [bias + dot(row, latent) for row, bias in zip(rows, biases, strict=True)]
            losses.append(math.log(sum(map(math.exp, logits))) - logits[label])
            held = problem.counts[:, label].tolist()
            shares.append(held[client] / sum(held))
        paper += dot(losses, shares) / 6
        program += sum(losses) / 6 * sum(shares) / 6  # what [B] times [B, 1] comes to
    ensemble = FedGen(diversity_weight=0.0).generator_loss(
        problem.model, teachers, weights, latents.float(), labels, torch.rand(6, 5)
    )
    assert ensemble.item() == pytest.approx(paper, rel=1e-5)
    assert abs(paper - program) > 1e-3


def test_the_shipped_studies_give_the_official_settings_of_each_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """What its GENERATORCONFIGS and RUNCONFIGS say; where they say nothing, MNIST's."""
    for name in ("APFL_DATA_ROOT", "APFL_SEMANTICS_ROOT"):
        monkeypatch.setenv(name, "elsewhere")  # planning reads no file of either
    mnist = {"hidden": 256, "noise_dimension": 32, "latent_weight": 10.0, "learning_rate": 3e-4}
    cifar, letters = {"hidden": 512, "noise_dimension": 64}, {"latent_weight": 1.0, "learning_rate": 1e-4}
    official = {"cifar10": cifar, "cifar100": cifar, "emnist": letters, "emnist_letters_a_to_l": letters}
    seen = set()
    for name in ("cpu", "paper"):
        study = load_study(ROOT / "config" / f"{name}.yaml")
        for run_ in planned(study):
            if run_.method == "fedgen":
                seen.add(run_.dataset)
                expected = mnist | official.get(run_.dataset, {})
                assert {key: run_.spec["parameters"][key] for key in mnist} == expected, (name, run_.dataset)
    assert seen == {*official, "fashion_mnist"}


def test_diversity_is_bounded_and_rewards_latents_that_follow_the_noise() -> None:
    noise = torch.rand(16, 4, generator=torch.Generator().manual_seed(0))
    assert diversity(torch.zeros(16, 8), noise).item() == 1
    assert 0 < diversity(100 * noise, noise) < diversity(noise, noise) < 1


@pytest.mark.parametrize("position", [0, 1, 2])
def test_every_clients_model_teaches_the_generator(position) -> None:
    problem = tiny_problem()
    method = FedGen(generator_steps=1)
    state = method.init(problem)
    teachers = [parameters(Tiny(1, 3), seed) for seed in (1, 2, 3)]
    before = method.trained_generator(state, problem, 1, teachers, class_weights(problem.counts))
    teachers[position] = parameters(Tiny(1, 3), 4)
    after = method.trained_generator(state, problem, 1, teachers, class_weights(problem.counts))
    assert not equal(before["generator"], after["generator"])


def test_the_generator_learns_what_the_clients_agree_on() -> None:
    problem = tiny_problem(rounds=6, local_epochs=4)
    method = FedGen(generator_steps=200, learning_rate=1e-2)
    *_, now = run(method, problem)
    generator = method.generator(problem, now.state).eval()
    labels = torch.arange(3).repeat(50)
    latents = generator(labels, generator.noise(150, torch.Generator().manual_seed(0)))
    agreed = problem.model.classify(now.state["global"], latents).argmax(1)
    assert (agreed == labels).float().mean() > 0.9


def test_the_first_round_is_fedavg_and_later_ones_are_not() -> None:
    problem = tiny_problem(rounds=2)
    fedavg = [*run(load_method("fedavg"), problem)]
    fedgen = rounds(problem)
    assert equal(fedavg[1].state["global"], fedgen[1].state["global"])
    assert not equal(fedavg[2].state["global"], fedgen[2].state["global"])


def test_a_clients_loss_is_cross_entropy_and_the_two_terms_computed_by_hand() -> None:
    problem = tiny_problem()
    method = FedGen()
    generator = method.generator(problem, method.init(problem)).eval()
    held, batch = torch.tensor([0, 2]), problem.images.batch(problem.train[0][:5])
    loss = Regularized(generator, held, 3.0, 2.0, 4)(
        problem.model, problem.start, Step((batch,), torch.Generator().manual_seed(7))
    )
    stream = torch.Generator().manual_seed(7)
    head = lambda latents: problem.model.classify(problem.start, latents)  # noqa: E731
    target = head(generator(batch.labels, torch.rand(5, 32, generator=stream))).softmax(1)
    labels = held[torch.randint(2, (4,), generator=stream)]
    teaching = torch.nn.functional.cross_entropy(head(generator(labels, torch.rand(4, 32, generator=stream))), labels)
    p = problem.model(problem.start, batch.images).softmax(1)
    matching = (target * (target / p).log()).sum(1).mean()
    expected = cross_entropy(problem.model, problem.start, Step((batch,), stream)) + 3 * teaching + 2 * matching
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_clients_terms_fade_and_the_kl_target_is_a_constant() -> None:
    problem = tiny_problem()
    method = FedGen(label_weight=10.0, latent_weight=1.0, decay=0.5)
    state = method.init(problem)
    for moments in state["optimizer"].values():  # as after the generator's first steps
        moments["step"] = torch.ones(())
    weights = [method.client_work(state, problem, number, [0])[0].phases[0].objective.loss for number in (2, 3, 4, 200)]
    assert [loss.label_weight for loss in weights] == [5.0, 2.5, 1.25, 1e-4]
    assert [loss.latent_weight for loss in weights] == [0.5, 0.25, 0.125, 1e-4]
    params = {name: value.clone().requires_grad_() for name, value in problem.start.items()}
    batch = problem.images.batch(problem.train[0][:5])
    only_kl = dataclasses.replace(weights[0], label_weight=0.0, latent_weight=1.0)
    step = lambda: Step((batch,), torch.Generator().manual_seed(7))  # noqa: E731
    value = only_kl(problem.model, params, step()) - cross_entropy(problem.model, params, step())
    (gradient,) = torch.autograd.grad(value, [params["head.bias"]])
    noise = torch.rand(5, 32, generator=torch.Generator().manual_seed(7))
    target = problem.model.classify(problem.start, only_kl.generator(batch.labels, noise)).softmax(1)
    p = problem.model(problem.start, batch.images).softmax(1)
    assert torch.allclose(gradient, (p - target).mean(0), atol=1e-6)


def test_labels_are_drawn_from_the_classes_that_participants_hold() -> None:
    problem = tiny_problem(sizes=(20, 9, 8), classes=4, dropout=(2,))
    counts = problem.counts.clone()
    counts[:2, 1] = 0
    held = FedGen.held_classes(dataclasses.replace(problem, counts=counts))
    assert held.tolist() == [0, 2, 3]
    drawn = uniform_labels(held, 600, torch.Generator().manual_seed(0))
    assert torch.bincount(drawn, minlength=4).tolist() == pytest.approx([200, 0, 200, 200], abs=60)


@pytest.mark.parametrize(("classes", "channels"), [(26, 1), (100, 3)])
def test_it_trains_the_papers_network_for_other_numbers_of_classes_and_channels(classes, channels) -> None:
    problem = tiny_problem(
        sizes=(30, 12),
        classes=classes,
        channels=channels,
        network=CNN(channels, classes),
        local_epochs=1,
        batch_size=25,
    )
    state = rounds(problem, generator_steps=2)[-1].state
    assert state["generator"]["layers.0.weight"].shape == (256, 32 + classes)
    assert state["generator"]["layers.3.weight"].shape == (512, 256)
    assert all(torch.isfinite(value).all() for value in state["global"].values())


def test_adam_and_batch_statistics_go_on_from_the_state() -> None:
    problem = tiny_problem(rounds=2)
    first, second = (now.state for now in rounds(problem, generator_steps=7)[1:])
    steps = [state["optimizer"]["layers.0.weight"]["step"].item() for state in (first, second)]
    tracked = [state["generator"]["layers.1.num_batches_tracked"].item() for state in (first, second)]
    assert steps == tracked == [7, 14]


def test_clients_use_the_generators_kept_statistics_and_leave_it_as_it_is() -> None:
    problem = tiny_problem()
    method = FedGen()
    state = rounds(problem)[1].state
    (work,) = method.client_work(state, problem, 2, [0])
    generator = work.phases[0].objective.loss.generator
    run_work(problem, work, 2)
    assert not generator.training
    assert equal(dict(generator.state_dict()), state["generator"])


def test_the_generators_learning_rate_fades() -> None:
    problem = tiny_problem()
    method = FedGen(decay=1e-6)
    state = method.init(problem)
    weights = class_weights(problem.counts)
    trained = [method.trained_generator(state, problem, number, [problem.start] * 3, weights) for number in (1, 3)]
    moved = [
        (one["generator"]["layers.3.weight"] - state["generator"]["layers.3.weight"]).abs().max() for one in trained
    ]
    assert moved[0] > 1e-3 and moved[1] < 1e-9


@pytest.mark.parametrize("change", [{"hidden": 0}, {"label_weight": -1.0}, {"learning_rate": 0.0}])
def test_settings_out_of_range_are_refused(change) -> None:
    with pytest.raises(UserError, match=f"fedgen.{next(iter(change))}"):
        load_method("fedgen", change)
