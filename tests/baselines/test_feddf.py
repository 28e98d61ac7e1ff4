"""FedDF: distillation at its fixed points, against automatic differentiation, and away from test data."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
import torch.nn.functional as F

from apfl.engine.images import Images
from apfl.engine.networks import CNN, initial_parameters
from apfl.engine.optimizers import Adam
from apfl.errors import UserError
from apfl.federation.method import load_method
from apfl.federation.synchronous import run
from baselines.feddf import FedDF
from tests.helpers.problems import Tiny, distance, equal, held_out, parameters, tiny_problem


def with_proxy(problem, count: int = 40):
    """The problem with noise for proxy images."""
    stream = torch.Generator().manual_seed(3)
    pixels = torch.randint(0, 255, (count, *problem.images.pixels.shape[1:]), generator=stream).to(torch.uint8)
    channels = pixels.shape[-1]
    proxy = Images(pixels, torch.full((count,), -1), torch.full((channels,), 127.0), torch.full((channels,), 74.0))
    return dataclasses.replace(problem, proxy=proxy)


def final(problem, method="feddf", **parameters):
    return [*run(load_method(method, parameters), problem)][-1]


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("network", [Tiny(1, 3), CNN(1, 3)], ids=["tiny", "cnn"])
def test_with_identical_teachers_the_student_does_not_move(network, bf16) -> None:
    problem = with_proxy(tiny_problem(network=network, bf16=bf16))
    teacher = problem.start if isinstance(network, Tiny) else initial_parameters({"name": "cnn"}, 1, 3, seed=1)
    for ensemble in ("logits", "probabilities"):
        method = FedDF(steps=7, batch_size=16, ensemble=ensemble, keep_start=False)
        assert equal(method.distilled(problem, teacher, [teacher] * 3, round=1), teacher)
        other = parameters(network, 5)
        assert not equal(method.distilled(problem, teacher, [teacher, other], round=1), teacher)


def test_with_one_client_it_is_fedavg_bit_for_bit() -> None:
    whole = with_proxy(tiny_problem(sizes=(25,), rounds=3))
    for problem in (whole, held_out(whole)):
        assert equal(final(problem, steps=20).state["global"], final(problem, "fedavg").state["global"])


@pytest.mark.parametrize("ensemble", ["logits", "probabilities"])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_a_step_follows_the_gradient_of_the_forward_kl_from_the_ensemble(temperature, ensemble) -> None:
    problem = with_proxy(tiny_problem())
    teachers = [parameters(Tiny(1, 3), seed) for seed in (1, 2, 3)]
    student = {name: value.clone().requires_grad_() for name, value in problem.start.items()}
    images = problem.proxy.batch(torch.arange(9)).images
    method = FedDF(temperature=temperature, ensemble=ensemble)
    gradients = method.gradients(problem.model, student, teachers, images)
    scaled = torch.stack([problem.model(teacher, images) for teacher in teachers]) / temperature
    target = scaled.mean(0).softmax(1) if ensemble == "logits" else scaled.softmax(2).mean(0)
    loss = (target * (target.log() - F.log_softmax(problem.model(student, images) / temperature, 1))).sum(1).mean()
    expected = torch.autograd.grad(loss, list(student.values()))
    assert max(value.abs().max() for value in expected) > 1e-3
    for gradient, wanted in zip(gradients, expected, strict=True):
        assert torch.allclose(gradient, wanted, atol=1e-6)


def test_the_student_comes_near_to_the_ensemble_on_the_proxy_images() -> None:
    problem = with_proxy(tiny_problem())
    teachers = [parameters(Tiny(1, 3), seed) for seed in (1, 2, 3)]
    images = problem.proxy.batch(torch.arange(40)).images
    target = torch.stack([problem.model(teacher, images) for teacher in teachers]).mean(0).softmax(1)

    def divergence(params) -> float:
        return F.kl_div(problem.model(params, images).log_softmax(1), target, reduction="batchmean").item()

    student = FedDF(steps=600, learning_rate=1e-2).distilled(problem, problem.start, teachers, 1)
    assert divergence(student) < 0.05 * divergence(problem.start)


def test_the_student_starts_from_the_uniform_mean_or_the_weighted_one() -> None:
    problem = with_proxy(tiny_problem(rounds=1))
    sent = final(problem, steps=0).latest
    for weights, shares in (("uniform", (1, 1, 1)), ("samples", (23, 12, 30))):
        mean = final(problem, steps=0, weights=weights).state["global"]
        total = sum(shares)
        by_hand = {name: sum(shares[k] * sent[k][name] for k in range(3)) / total for name in mean}
        assert distance(mean, by_hand) < 1e-6


def test_clients_train_on_what_fedavg_trains_on_and_never_on_the_validation_part() -> None:
    problem = held_out(with_proxy(tiny_problem(sizes=(40, 9, 1, 0), rounds=1)))
    pixels = problem.images.pixels.clone()
    pixels[torch.cat(problem.validation)] = 0
    changed = dataclasses.replace(problem, images=dataclasses.replace(problem.images, pixels=pixels))
    sent = final(problem, steps=2, keep_start=False).latest
    assert len(problem.validation[0]) == 4
    for other in (final(changed, steps=2, keep_start=False).latest, final(problem, "fedavg").latest):
        assert all(equal(sent[client], other[client]) for client in sent)


def test_neither_test_images_nor_dropouts_nor_proxy_labels_reach_the_server() -> None:
    problem = held_out(with_proxy(tiny_problem(sizes=(30, 30, 40), dropout=(2,))))
    options = {"steps": 150, "evaluate_every": 3}
    before = final(problem, **options, keep_start=False).state["global"]
    kept = final(problem, **options).state["global"]
    images = problem.images
    hidden = torch.cat([*problem.test, problem.train[2], problem.validation[2]])
    labels, pixels = images.labels.clone(), images.pixels.clone()
    labels[hidden] = (labels[hidden] + 1) % 3
    pixels[hidden] = 255 - pixels[hidden]
    changed = dataclasses.replace(problem, images=dataclasses.replace(images, labels=labels, pixels=pixels))
    changed = dataclasses.replace(changed, proxy=dataclasses.replace(problem.proxy, labels=torch.arange(40)))
    assert equal(before, final(changed, **options, keep_start=False).state["global"])
    assert equal(kept, final(changed, **options).state["global"])


def test_the_student_is_measured_on_the_participants_part_alone(monkeypatch) -> None:
    problem = held_out(with_proxy(tiny_problem(sizes=(30, 30, 40), dropout=(2,), rounds=1)))
    measured_on = []
    monkeypatch.setattr(FedDF, "accuracy", staticmethod(lambda *arguments: measured_on.append(arguments[2]) or 0.0))
    final(problem, steps=1, keep_start=False)
    (indices,) = measured_on
    assert indices.tolist() == [*problem.validation[0].tolist(), *problem.validation[1].tolist()] and len(indices) == 6


def test_accuracy_is_the_share_of_images_classified_rightly() -> None:
    problem = tiny_problem()
    batch = problem.images.batch(problem.train[2])
    right = problem.model(problem.start, batch.images).argmax(1) == batch.labels
    assert FedDF.accuracy(problem, problem.start, problem.train[2]) == right.float().mean().item()
    assert 0 < right.sum() < len(right)


def measured(monkeypatch, accuracies, **parameters):
    """The student of one round whose validation accuracies are these, and after how many steps it was measured."""
    problem = held_out(with_proxy(tiny_problem()))
    teachers = [parameters_of(1), parameters_of(2)]
    seen = []
    given = iter(accuracies)

    def accuracy(problem, params, indices) -> float:
        seen.append({name: value.detach().clone() for name, value in params.items()})
        return next(given)

    monkeypatch.setattr(FedDF, "accuracy", staticmethod(accuracy))
    return FedDF(**({"keep_start": False} | parameters)).distilled(problem, problem.start, teachers, round=1), seen


def parameters_of(seed: int):
    return parameters(Tiny(1, 3), seed)


def test_the_best_student_on_the_validation_part_is_taken(monkeypatch) -> None:
    student, seen = measured(monkeypatch, [0.1, 0.6, 0.6, 0.4], steps=8, evaluate_every=2)
    assert len(seen) == 4 and equal(student, seen[1])
    assert not equal(seen[1], seen[2])


@pytest.mark.parametrize(("start", "wins"), [(0.6, True), (0.59, False)])
def test_the_start_stays_if_no_student_is_better(monkeypatch, start, wins) -> None:
    student, seen = measured(monkeypatch, [0.1, 0.6, 0.4, start], steps=6, evaluate_every=2, keep_start=True)
    assert equal(student, seen[3] if wins else seen[1])
    assert equal(seen[3], tiny_problem().start)


def test_distillation_stops_when_patience_is_over(monkeypatch) -> None:
    student, seen = measured(monkeypatch, [0.3] * 50, steps=100, evaluate_every=2, patience=6)
    assert len(seen) == 4 and equal(student, seen[0])


def test_without_a_validation_part_the_last_student_is_taken() -> None:
    problem = with_proxy(tiny_problem())
    teachers = [parameters_of(1), parameters_of(2)]
    short, long = (FedDF(steps=n).distilled(problem, problem.start, teachers, 1) for n in (1, 40))
    assert distance(long, problem.start) > 5 * distance(short, problem.start) > 0


def test_the_learning_rate_falls_to_zero_along_a_cosine(monkeypatch) -> None:
    _, seen = measured(monkeypatch, [0.5] * 50, steps=50, evaluate_every=1, patience=100)
    moved = [distance(first, second) for first, second in itertools.pairwise(seen)]
    assert moved[-1] < 0.02 * moved[0]
    assert moved[24] == pytest.approx(moved[0] / 2, rel=0.5)


def test_gradients_are_clipped(monkeypatch) -> None:
    norms = []
    original = Adam.step

    def remember(self, gradients) -> None:
        norms.append(sum(gradient.square().sum() for gradient in gradients).sqrt().item())
        original(self, gradients)

    monkeypatch.setattr(Adam, "step", remember)
    problem = with_proxy(tiny_problem())
    far = {name: 100 * value for name, value in parameters_of(1).items()}
    student = {name: 100 * value for name, value in problem.start.items()}
    FedDF(steps=3, temperature=1e-2).distilled(problem, student, [far], round=1)
    assert norms == pytest.approx([5.0] * 3, rel=1e-3)


@pytest.mark.parametrize("change", [{"steps": -1}, {"temperature": 0.0}, {"weights": "all"}, {"ensemble": "votes"}])
def test_settings_out_of_range_are_refused(change) -> None:
    with pytest.raises(UserError, match=f"feddf.{next(iter(change))}"):
        load_method("feddf", change)
