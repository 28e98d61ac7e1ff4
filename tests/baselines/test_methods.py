"""What every method in ``baselines/`` must keep to; a new file there is tested without an edit here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch

from apfl.engine.work import Diverged, Work
from apfl.federation.evaluation import evaluate
from apfl.federation.method import Method, State
from apfl.federation.problem import Problem, run_work
from apfl.federation.synchronous import Round, run
from apfl.storage.tensors import flatten, unflatten
from tests.helpers.every_method import (
    CARDS,
    every_method,
    flat,
    method_of,
    problem_of,
    same,
)

OF_THE_PAPER_ITSELF = {"local", "fedavg_ft"}
"""Baselines without a publication of their own."""


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
