"""Whole rounds of methods against loops in plain torch, written from the papers' formulas: torch's own optimisers on a
module, no engine, no streams.

Clients train on all of their data in each step, so that the order of batches does not matter. What each test allows is
the rounding of float32; how far the parameters moved is some thousand times that, and is asked for too.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apfl.clock.schedule import Schedule
from apfl.clock.timeline import plan
from apfl.federation.asynchronous import run_clock
from apfl.federation.method import load_method
from apfl.federation.problem import Problem, run_work
from apfl.federation.synchronous import run
from apfl.memorization.generator import class_weights
from apfl.streams import torch_stream
from baselines.feddf import FedDF
from baselines.fedgen import FedGen
from tests.helpers.problems import quadratics, tiny_problem

Weights = dict[str, Tensor]
OPTIMISERS = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}
RATES = {"adam": 0.01, "sgd": 0.2}
SIZES = (23, 12, 30)


def problem_of(optimizer: str = "adam", **training: object) -> Problem:
    settings = {"rounds": 3, "local_epochs": 4, "batch_size": 64, "learning_rate": RATES[optimizer]}
    return tiny_problem(sizes=SIZES, optimizer=optimizer, **(settings | training))


def module(problem: Problem, weights: Weights) -> nn.Module:
    network = copy.deepcopy(problem.model.network)
    network.load_state_dict(weights)
    return network


def weights_of(network: nn.Module) -> Weights:
    return {name: value.detach().clone() for name, value in network.named_parameters()}


def trained(
    problem: Problem,
    client: int,
    start: Weights,
    steps: int = 4,
    *,
    part: str = "",
    extra: Callable[[nn.Module], Tensor | float] = lambda network: 0.0,
    drift: Weights | None = None,
) -> Weights:
    """Full-batch steps of the study's optimiser on the client's cross-entropy plus ``extra``, for the parameters whose
    names begin with ``part``; ``drift`` is added to each step."""
    network = module(problem, start)
    moving = [value for name, value in network.named_parameters() if name.startswith(part)]
    optimizer = OPTIMISERS[problem.training.optimizer](moving, lr=problem.training.learning_rate)
    batch = problem.images.batch(problem.train[client])
    for _ in range(steps):
        optimizer.zero_grad()
        (F.cross_entropy(network(batch.images), batch.labels) + extra(network)).backward()
        optimizer.step()
        if drift is not None:
            with torch.no_grad():
                for name, value in network.named_parameters():
                    value -= problem.training.learning_rate * drift[name]
    return weights_of(network)


def mean(models: list[Weights], shares: list[float]) -> Weights:
    return {name: sum(share * model[name] for share, model in zip(shares, models, strict=True)) for name in models[0]}


BY_SAMPLES = [size / sum(SIZES) for size in SIZES]
UNIFORM = [1 / 3] * 3


def squared_distance(network: nn.Module, anchor: Weights) -> Tensor:
    return sum((value - anchor[name]).square().sum() for name, value in network.named_parameters())


def gap(first: Weights, second: Weights) -> float:
    return max((first[name] - second[name]).abs().max().item() for name in second)


def assert_same(found: Weights, expected: Weights, start: Weights, tolerance: float = 5e-6) -> None:
    assert gap(found, expected) < tolerance
    assert gap(found, start) > 1000 * tolerance


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("mu", [None, 1.0])
def test_three_rounds_of_fedavg_and_fedprox(mu, optimizer) -> None:
    problem = problem_of(optimizer)
    *_, now = run(load_method("fedavg") if mu is None else load_method("fedprox", {"mu": mu}), problem)
    model = problem.start
    for _ in range(3):
        term = lambda network, anchor=model: (mu or 0.0) / 2 * squared_distance(network, anchor)  # noqa: E731
        model = mean([trained(problem, client, model, extra=term) for client in range(3)], BY_SAMPLES)
    assert_same(now.state["global"], model, problem.start)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_three_rounds_of_scaffold_with_its_control_variates(optimizer) -> None:
    """Option II: c_i+ = c_i - c + (x - y_i) / (K eta); the correction is added to each step of the optimiser."""
    problem = problem_of(optimizer)
    *_, now = run(load_method("scaffold"), problem)
    model, control = problem.start, {name: torch.zeros_like(value) for name, value in problem.start.items()}
    own = [control] * 3
    for _ in range(3):
        drifts = [{name: control[name] - variate[name] for name in control} for variate in own]
        sent = [trained(problem, client, model, drift=drifts[client]) for client in range(3)]
        length = 4 * problem.training.learning_rate
        renewed = [
            {name: (model[name] - y[name]) / length - drift[name] for name in model}
            for y, drift in zip(sent, drifts, strict=True)
        ]
        change = mean([{name: new[name] - old[name] for name in new} for new, old in zip(renewed, own, strict=True)],
                      BY_SAMPLES)  # fmt: skip
        control, own = {name: control[name] + change[name] for name in control}, renewed
        model = mean(sent, BY_SAMPLES)
    assert_same(now.state["global"], model, problem.start)
    zero = {name: torch.zeros_like(value) for name, value in control.items()}
    assert_same(now.state["control"], control, zero, 1e-4 if optimizer == "adam" else 1e-5)
    for client in range(3):
        assert_same(now.state["clients"][str(client)], own[client], zero, 1e-4 if optimizer == "adam" else 1e-5)


def test_three_rounds_of_ditto() -> None:
    problem = problem_of()
    method = load_method("ditto", {"lam": 0.7})
    *_, now = run(method, problem)
    model, personal = problem.start, [problem.start] * 3
    for _ in range(3):
        term = lambda network, anchor=model: 0.35 * squared_distance(network, anchor)  # noqa: E731
        personal = [trained(problem, client, personal[client], extra=term) for client in range(3)]
        model = mean([trained(problem, client, model) for client in range(3)], BY_SAMPLES)
    assert_same(now.state["global"], model, problem.start)
    found = method.client_models(now.state, problem, now.latest)["personalized"]
    for client in range(3):
        assert_same(found[client], personal[client], problem.start)


def test_three_rounds_of_fedrep() -> None:
    problem = problem_of()
    method = load_method("fedrep", {"head_epochs": 3})
    *_, now = run(method, problem)
    body = {name: value for name, value in problem.start.items() if name.startswith("body.")}
    heads = [{name: value for name, value in problem.start.items() if name.startswith("head.")}] * 3
    for _ in range(3):
        tuned = [trained(problem, client, body | heads[client], 3, part="head.") for client in range(3)]
        sent = [trained(problem, client, tuned[client], 4, part="body.") for client in range(3)]
        heads = [{name: model[name] for name in heads[0]} for model in sent]
        body = mean([{name: model[name] for name in body} for model in sent], BY_SAMPLES)
    found = method.client_models(now.state, problem, now.latest)["personalized"]
    for client in range(3):
        assert_same(found[client], body | heads[client], problem.start)


@pytest.mark.parametrize("hessian", ["none", "difference", "exact"])
def test_three_rounds_of_per_fedavg(hessian) -> None:
    """(I - alpha H(w)) g(w - alpha g(w)): the exact product by differentiating through the inner step."""
    problem, alpha, delta = problem_of("sgd"), 0.1, 1e-3
    method = load_method("perfedavg", {"alpha": alpha, "hessian": hessian, "delta": delta})
    *_, now = run(method, problem)

    def gradient(client: int, weights: Weights, graph: bool = False) -> Weights:
        batch = problem.images.batch(problem.train[client])
        weights = weights if graph else {name: value.detach().requires_grad_() for name, value in weights.items()}
        logits = torch.func.functional_call(problem.model.network, weights, (batch.images,))
        loss = F.cross_entropy(logits, batch.labels)
        return dict(zip(weights, torch.autograd.grad(loss, [*weights.values()], create_graph=graph), strict=True))

    def moved(weights: Weights, direction: Weights, length: float) -> Weights:
        return {name: value + length * direction[name] for name, value in weights.items()}

    def direction(client: int, weights: Weights) -> Weights:
        if hessian == "exact":
            leaves = {name: value.clone().requires_grad_() for name, value in weights.items()}
            inner = moved(leaves, gradient(client, leaves, graph=True), -alpha)
            batch = problem.images.batch(problem.train[client])
            logits = torch.func.functional_call(problem.model.network, inner, (batch.images,))
            outer = F.cross_entropy(logits, batch.labels)
            return dict(zip(leaves, torch.autograd.grad(outer, [*leaves.values()]), strict=True))
        outer = gradient(client, moved(weights, gradient(client, weights), -alpha))
        if hessian == "none":
            return outer
        ahead, behind = (gradient(client, moved(weights, outer, sign * delta)) for sign in (1, -1))
        return moved(outer, moved(ahead, behind, -1), -alpha / (2 * delta))

    model = problem.start
    for _ in range(3):
        sent = []
        for client in range(3):
            local = model
            for _ in range(4):
                local = moved(local, direction(client, local), -problem.training.learning_rate)
            sent.append(local)
        model = mean(sent, UNIFORM)
    assert_same(now.state["global"], model, problem.start, 5e-5 if hessian == "difference" else 5e-6)
    personal = method.client_models(now.state, problem, now.latest)["personalized"]
    assert gap(personal[0], moved(model, gradient(0, model), -alpha)) < 5e-5


def test_a_clients_local_training_in_fedgen() -> None:
    """Cross-entropy + a CE(head(G(y', eps)), y') + b KL(softmax(head(G(y, eps))) || p(x)), by torch's Adam."""
    problem = problem_of(local_epochs=3)
    method = FedGen(label_weight=0.8, latent_weight=1.7, decay=0.9)
    state = method.init(problem)
    state |= method.trained_generator(state, problem, 1, [problem.start] * 3, class_weights(problem.counts))
    (work,) = method.client_work(state, problem, 2, [0])
    found = run_work(problem, work, 2).params
    generator = method.generator(problem, state).eval()
    stream = torch_stream(problem.seed, "objective/local/0", round=2, client=0)
    order = torch_stream(problem.seed, "batches/local/0/0", round=2, client=0)
    network = module(problem, problem.start)
    optimizer = torch.optim.Adam(network.parameters(), lr=problem.training.learning_rate)
    rows, held = problem.train[0], torch.arange(3)
    for _ in range(3):
        batch = problem.images.batch(rows[torch.randperm(len(rows), generator=order)])
        eps = torch.rand(len(rows), 32, generator=stream)
        own = torch.cat([eps, F.one_hot(batch.labels, 3).float()], 1)
        labels = held[torch.randint(3, (64,), generator=stream)]
        other = torch.cat([torch.rand(64, 32, generator=stream), F.one_hot(labels, 3).float()], 1)
        logits = network(batch.images)
        target = network.head(generator.layers(own)).softmax(1).detach()
        matching = (target * (target.log() - logits.log_softmax(1))).sum(1).mean()
        teaching = F.cross_entropy(network.head(generator.layers(other)), labels)
        loss = F.cross_entropy(logits, batch.labels) + 0.9 * (0.8 * teaching + 1.7 * matching)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert_same(found, weights_of(network), problem.start)


def test_a_distillation_in_feddf() -> None:
    """Adam on KL(softmax of the mean logits || student) on proxy images, its rate along a cosine, gradients clipped."""
    problem = tiny_problem()
    problem = dataclasses.replace(problem, proxy=problem.images)
    teachers = [{name: (2 + k) * value for name, value in problem.start.items()} for k in range(3)]
    steps, rate = 12, 0.02
    images = problem.images.batch(torch.arange(len(problem.images.labels))).images
    method = FedDF(steps=steps, batch_size=len(images), learning_rate=rate, keep_start=False)
    found = method.distilled(problem, problem.start, teachers, round=1)
    with torch.no_grad():
        target = sum(module(problem, teacher)(images) for teacher in teachers).div(3).softmax(1)
    student = module(problem, problem.start)
    optimizer = torch.optim.Adam(student.parameters(), lr=rate)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 + math.cos(math.pi * step / steps)) / 2
        optimizer.zero_grad()
        F.kl_div(student(images).log_softmax(1), target, reduction="batchmean").backward()
        nn.utils.clip_grad_norm_(student.parameters(), 5.0)
        optimizer.step()
    assert_same(found, weights_of(student), problem.start, 2e-5)


TRACE = ((0, 0.0, 1.0), (1, 0.0, 1.5), (0, 1.0, 2.25), (2, 0.0, 3.0), (0, 2.25, 3.5), (1, 1.5, 4.0), (2, 3.0, 4.5),
         (0, 3.5, 4.75), (1, 4.0, 5.0))  # fmt: skip


@pytest.mark.parametrize(("merge", "buffer"), [("mix", 1), ("delta", 1), ("delta", 3)])
def test_a_timeline_replayed(merge, buffer) -> None:
    """FedAsync, w + alpha s(tau) (y - w), and FedBuff, w + eta mean of s(tau) (y - w_start): clients are quadratics,
    and an upload is trained from the version that was newest when its download began."""
    a, b, rate, mixing = [0.5, 2.0, 1.0], [1.0, -2.0, 4.0], 0.05, 0.4
    problem = quadratics(a, b, start=0.7, rounds=3, local_epochs=5, learning_rate=rate)
    schedule = Schedule(latency="trace", trace=TRACE, merge=merge, mixing=mixing, buffer=buffer,
                        staleness="polynomial", staleness_rate=0.5)  # fmt: skip
    method = load_method("fedavg")
    timeline = plan(schedule, method.clients(problem), problem.training.rounds, problem.seed)
    *_, now = run_clock(method, problem, schedule, timeline)

    versions, since, waiting = [0.7], [0.0], []
    for client, start, arrival in sorted(TRACE, key=lambda row: row[2]):
        begun = max(version for version, time in enumerate(since) if time <= start)
        y = versions[begun]
        for _ in range(5):
            y -= rate * a[client] * (y - b[client])
        waiting.append((begun, y))
        if len(waiting) < buffer:
            continue
        newest, change = versions[-1], 0.0
        for begun, y in waiting:
            discount = (1 + len(versions) - 1 - begun) ** -0.5
            change += discount * (y - (newest if merge == "mix" else versions[begun])) / buffer
        versions.append(newest + mixing * change)
        since.append(arrival)
        waiting = []
    assert now.version == len(versions) - 1 == 9 // buffer
    assert now.state["global"]["head.weight"].item() == pytest.approx(versions[-1], abs=1e-6)
    assert abs(versions[-1] - 0.7) > 0.1
