"""What every method in ``baselines/`` must keep to; a new file there is tested without an edit here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from problems import tiny_problem
from torch import Tensor, nn

from apfl.evaluation import evaluate
from apfl.federation import Method, Problem, Round, State, load_method, run, run_work
from apfl.registry import methods
from apfl.stages.federate import flatten, unflatten
from apfl.training import Diverged, Images, Work

CARDS = methods()
FEDERATED = [name for name, card in CARDS.items() if card.stage == "federate"]
OF_THE_PAPER_ITSELF = {"local", "fedavg_ft"}
"""Baselines without a publication of their own."""

QUICK: dict[str, Any] = {
    "samples_per_class": 10,
    "width": 4,
    "noise_dimension": 5,
    "generator_steps": 4,
    "steps": 6,
    "evaluate_every": 2,
    "tuning_steps": 6,
}
"""Values that keep the hyper-parameters of these names small."""

VARIANTS = [(name, {}) for name in FEDERATED] + [
    ("scaffold", {"option": "I"}),
    ("scaffold", {"optimizer": "sgd", "sgd_learning_rate": 0.05}),
    ("scaffold", {"weights": "uniform", "server_learning_rate": 0.5}),
    ("feddf", {"weights": "uniform"}),
    ("feddf", {"keep_start": False, "ensemble": "probabilities"}),
    ("persafl", {"form": "me"}),
    ("pfedme", {"warm": False, "mu": 0.0, "weights": "uniform"}),
    ("ffgg", {"private_start": "initial", "aggregator": "median"}),
    ("ffgg", {"shared_update": "local", "gamma": 1.0, "private_start": "kept", "tuning_epochs": 2}),
]

every_method = pytest.mark.parametrize(
    ("name", "parameters"), VARIANTS, ids=["-".join([name, *map(str, given.values())]) for name, given in VARIANTS]
)


class Convolutional(nn.Module):
    """A small network with a convolution, whose arithmetic may depend on the memory layout of its parameters."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        layers = (nn.Conv2d(channels, 8, 5, stride=3), nn.ReLU(), nn.AvgPool2d(3), nn.Flatten(), nn.Linear(72, 8))
        self.body = nn.Sequential(*layers, nn.Tanh())
        self.head = nn.Linear(8, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))


def problem_of(**changes: Any) -> Problem:
    """A small problem with everything that a method may need."""
    problem = tiny_problem(**({"sizes": (13, 7, 11), "channels": 3, "network": Convolutional(3, 3)} | changes))
    stream = torch.Generator().manual_seed(5)
    pixels = torch.randint(0, 255, (20, 32, 32, 3), generator=stream).to(torch.uint8)
    proxy = Images(pixels, torch.zeros(20, dtype=torch.long), torch.full((3,), 127.0), torch.full((3,), 74.0))
    return dataclasses.replace(problem, proxy=proxy, semantics=torch.randn(3, 6, generator=stream))


def method_of(name: str, parameters: dict[str, Any]) -> Method:
    quick = {field: value for field, value in QUICK.items() if field in CARDS[name].fields}
    return load_method(name, quick | parameters)


def same(first: dict[str, Tensor], second: dict[str, Tensor], but: str = "\0") -> bool:
    """Bit equality of two flattened states, apart from keys that contain ``but``."""
    keys = [{key for key in one if but not in f"/{key}"} for one in (first, second)]
    return keys[0] == keys[1] and all(torch.equal(first[key], second[key]) for key in keys[0])


def flat(now: Round) -> dict[str, Tensor]:
    """A round as a checkpoint holds it."""
    latest = {str(client): params for client, params in now.latest.items()}
    return flatten({"state": now.state, "latest": latest})


@pytest.mark.parametrize("name", CARDS)
def test_a_card_has_a_reference_and_explains_each_hyper_parameter(name) -> None:
    card = CARDS[name]
    assert name in OF_THE_PAPER_ITSELF or all(part in card.docstring for part in ("@", "title", "author", "year"))
    assert [field for field, given in card.fields.items() if len(given.doc) < 10] == []
    assert card.title in {other.title for other in CARDS.values()} and card.summary.endswith(".")
    assert [other.title for other in CARDS.values()].count(card.title) == 1


@every_method
@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
def test_it_trains_and_stays_finite_in_both_precisions(name, parameters, bf16) -> None:
    method, problem = method_of(name, parameters), problem_of(bf16=bf16)
    *_, now = run(method, problem)
    models = method.client_models(now.state, problem, now.latest)
    assert method.model in models
    shown = models[method.model]
    for client in method.clients(problem):
        params = shown.get(client, shown)
        assert params.keys() == problem.start.keys()
        assert all(torch.isfinite(value).all() for value in params.values())
        assert max((params[key] - problem.start[key]).abs().max() for key in params) > 1e-3
    assert all(value.isfinite().all() for value in flat(now).values())


@every_method
def test_its_card_says_whether_it_has_a_global_model(name, parameters) -> None:
    method, problem = method_of(name, parameters), problem_of()
    models = method.client_models(method.init(problem), problem, {})
    assert ("global" in models) == CARDS[name].shares_global


@every_method
def test_it_survives_clients_without_samples_and_with_one(name, parameters) -> None:
    method, problem = method_of(name, parameters), problem_of(sizes=(9, 0, 1))
    *_, now = run(method, problem)
    assert all(value.isfinite().all() for value in flat(now).values())
    rows = evaluate(problem, method.client_models(now.state, problem, now.latest), now.round)
    assert {row["client"] for row in rows if row["model"] == method.model} >= {0, 2}


@every_method
def test_it_survives_being_alone(name, parameters) -> None:
    *_, now = run(method_of(name, parameters), problem_of(sizes=(9,)))
    assert now.latest.keys() == {0} and all(value.isfinite().all() for value in flat(now).values())


@every_method
def test_the_order_of_the_clients_changes_no_bit(name, parameters) -> None:
    method, problem = method_of(name, parameters), problem_of()
    assert same(*(flatten(played(method, problem, order)) for order in (tuple, lambda clients: clients[::-1])))


def played(method: Method, problem: Problem, arrange: Callable[[tuple[int, ...]], tuple[int, ...]]) -> State:
    """Two rounds in which the clients train in the arranged order; the server hears them in their own."""
    state, clients = method.init(problem), method.clients(problem)
    for number in (1, 2):
        order = [_key(work) for work in method.client_work(state, problem, number, clients)]
        work = method.client_work(state, problem, number, arrange(clients))
        results = {_key(piece): run_work(problem, piece, number) for piece in work}
        assert len(results) == len(work)
        state = method.server_update(state, problem, number, [results[key] for key in order])
    return state


def _key(work: Work) -> tuple[int, str]:
    return work.client, work.role


@every_method
def test_a_run_that_goes_on_from_a_checkpoint_ends_in_the_same_bits(name, parameters) -> None:
    method, problem = method_of(name, parameters), problem_of(rounds=3)
    rounds = [*run(method, problem)]
    for interrupted in rounds[1:3]:
        # Files keep values, not memory layouts.
        tree = unflatten(
            {key: value.clone(memory_format=torch.contiguous_format) for key, value in flat(interrupted).items()}
        )
        latest = {int(client): params for client, params in tree["latest"].items()}
        *_, end = run(method, problem, resume=Round(interrupted.round, tree["state"], latest))
        assert end.round == 3 and same(flat(end), flat(rounds[-1]))
        tables = [
            evaluate(problem, method.client_models(now.state, problem, now.latest), 3) for now in (end, rounds[-1])
        ]
        assert tables[0] == tables[1]


@every_method
def test_it_changes_nothing_that_it_is_given(name, parameters) -> None:
    method, problem = method_of(name, parameters), problem_of()
    given = {"start": problem.start, "counts": problem.counts, "semantics": problem.semantics}
    given |= {"pixels": problem.images.pixels, "labels": problem.images.labels, "proxy": problem.proxy.pixels}
    given |= {"train": dict(enumerate(problem.train)), "test": dict(enumerate(problem.test))}
    rounds = run(method, problem)
    now = next(rounds)
    for following in rounds:
        before = {key: value.clone() for key, value in flatten(given | {"state": now.state}).items()}
        list(run(method, dataclasses.replace(problem, seed=1), resume=now))
        assert same(before, flatten(given | {"state": now.state}))
        assert not any(value.requires_grad for value in flat(following).values())
        now = following


@every_method
def test_dropouts_data_reach_nobody_else(name, parameters) -> None:
    method, problem = method_of(name, parameters), problem_of(sizes=(13, 11, 7), dropout=(1,))
    images, own = problem.images, torch.cat([problem.train[1], problem.test[1]])
    pixels, labels = images.pixels.clone(), images.labels.clone()
    pixels[own], labels[own] = 255 - pixels[own], (labels[own] + 1) % 3
    counts = problem.counts.clone()
    counts[1] = torch.bincount(labels[problem.train[1]], minlength=3)
    changed = dataclasses.replace(
        problem, images=dataclasses.replace(images, pixels=pixels, labels=labels), counts=counts
    )
    (*_, first), (*_, second) = run(method, problem), run(method, changed)
    assert same(flat(first), flat(second), but="/1/")


@every_method
def test_a_loss_that_is_not_finite_stops_it(name, parameters) -> None:
    problem = problem_of()
    unfit = dataclasses.replace(problem, images=dataclasses.replace(problem.images, mean=torch.full((3,), torch.nan)))
    with pytest.raises(Diverged):
        list(run(method_of(name, parameters), unfit))
