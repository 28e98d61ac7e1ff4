"""Accuracies of models on the test part and on the validation part, against a count of right answers."""

from __future__ import annotations

import pytest
import torch

from apfl.federation.evaluation import evaluate
from tests.helpers.problems import held_out, tiny_problem


def right(problem, params, indices) -> float:
    batch = problem.images.batch(indices)
    return (problem.model(params, batch.images).argmax(1) == batch.labels).double().mean().item()


def test_each_accuracy_is_the_share_of_right_answers_on_its_own_images() -> None:
    problem = held_out(tiny_problem(sizes=(40, 25, 60)))
    found = {(row["client"], row["test"]): row for row in evaluate(problem, {"global": problem.start}, 1)}
    for client in problem.clients:
        images = {
            "own": problem.test[client],
            "pooled": torch.cat(problem.test),
            "validation-own": problem.validation[client],
            "validation-pooled": torch.cat(problem.validation),
        }
        for test, indices in images.items():
            row = found.pop((client, test))
            assert row["samples"] == len(indices) > 0
            assert row["accuracy"] == pytest.approx(right(problem, problem.start, indices))
    assert not found


def test_without_a_validation_part_there_is_no_accuracy_on_it() -> None:
    rows = evaluate(tiny_problem(), {"global": tiny_problem().start}, 1)
    assert {row["test"] for row in rows} == {"pooled", "own"}


def test_test_images_do_not_enter_the_accuracy_on_validation_images() -> None:
    problem = held_out(tiny_problem(sizes=(40, 25, 60)))
    before = evaluate(problem, {"global": problem.start}, 1)
    problem.images.pixels[torch.cat(problem.test)] = 255 - problem.images.pixels[torch.cat(problem.test)]
    after = evaluate(problem, {"global": problem.start}, 1)
    moved = {one["test"] for one, other in zip(before, after, strict=True) if one["loss"] != other["loss"]}
    assert moved == {"own", "pooled"}
