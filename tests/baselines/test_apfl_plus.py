"""AP-FL+: the memory of features adds up, and its friends are the best readers of what it generates."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import nn

from apfl.engine.networks import CNN, Model, build_network, initial_parameters
from apfl.engine.work import Diverged
from apfl.errors import UserError
from apfl.federation.method import BaseModels, load_method
from apfl.federation.problem import Problem
from apfl.federation.synchronous import run
from baselines.apfl_plus import APFLPlus, remember
from tests.helpers.problems import distance, equal, tiny_problem

HEAD = {"head.weight", "head.bias"}


def base_of(problem: Problem, method: str = "fedavg") -> BaseModels:
    *_, now = run(load_method(method), problem)
    return BaseModels(now.state["global"], now.latest)


def made(problem: Problem, base: BaseModels, **parameters):
    return load_method("apfl_plus", parameters).personalize(problem, base, 2)


def shared_among(problem: Problem, *parts: torch.Tensor) -> Problem:
    """The problem with these training parts."""
    counts = torch.stack([problem.images.labels[part].bincount(minlength=problem.classes) for part in parts])
    clients = {"test": (problem.test[0],) * len(parts), "dropout": (False,) * len(parts)}
    return dataclasses.replace(problem, train=parts, counts=counts, **clients)


def test_the_friend_is_the_base_method_up_to_its_head() -> None:
    problem = tiny_problem()
    base = base_of(problem)
    for role, models in made(problem, base, beta=0.4).items():
        for client, model in models.items():
            assert {name for name in model if not torch.equal(model[name], base.global_model[name])} == HEAD, role
            assert model.keys() == base.global_model.keys() and client in problem.clients


def test_the_friend_does_not_depend_on_how_the_images_are_shared_among_clients() -> None:
    problem = tiny_problem(sizes=(23, 12, 30))
    base = base_of(problem)
    pooled = torch.cat(problem.train)
    mixed = pooled[torch.randperm(len(pooled), generator=torch.Generator().manual_seed(1))]
    by_class = pooled[problem.images.labels[pooled].argsort()]
    (friend, *others) = (
        made(other, dataclasses.replace(base, local_models=dict.fromkeys(other.clients, base.global_model)))["friend"][
            0
        ]
        for other in (
            problem,
            shared_among(problem, pooled),
            *(shared_among(problem, *part.split(11)) for part in (mixed, by_class)),
        )
    )
    assert distance(friend, base.global_model) > 1
    assert all(distance(friend, other) < 1e-3 * friend["head.weight"].abs().max() for other in others)


def test_the_friends_head_is_linear_discriminant_analysis_on_all_images() -> None:
    problem = tiny_problem(sizes=(40, 55, 61))
    base = base_of(problem)
    rows = torch.cat(problem.train)
    features = problem.model.features(base.global_model, problem.images.batch(rows).images).detach()
    reference = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.2, priors=[1 / 3] * 3)
    reference.fit(features.double().numpy(), problem.images.labels[rows].numpy())
    friend = made(problem, base, shrinkage=0.2)["friend"][0]
    logits = problem.model.classify(friend, features)
    expected = torch.from_numpy(reference.predict_log_proba(features.double().numpy())).float()
    # scikit-learn shrinks each class's covariance by itself and weighs them by the priors.
    assert (logits.argmax(1) == expected.argmax(1)).float().mean() > 0.97
    exact = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=None, priors=None)
    exact.fit(features.double().numpy(), problem.images.labels[rows].numpy())
    memory = APFLPlus.memory(problem, base.global_model, problem.clients)
    means, covariance = memory.gaussians(0.0)
    assert torch.allclose(means, torch.from_numpy(exact.means_), atol=1e-5)
    assert torch.allclose(covariance, torch.from_numpy(exact.covariance_), atol=1e-5)


def test_the_head_is_the_best_for_what_the_memory_generates() -> None:
    """The logits are log densities of the Gaussians, times the prior, up to a term that all classes share."""
    problem = tiny_problem()
    base = base_of(problem)
    memory = APFLPlus.memory(problem, base.global_model, problem.clients)
    prior = torch.tensor([0.2, 0.5, 0.3])
    model = APFLPlus(shrinkage=0.3, smoothing=1e-9).read(base.global_model, memory, prior)
    means, covariance = memory.gaussians(0.3)
    features = torch.randn(7, 8, generator=torch.Generator().manual_seed(0)).double()
    densities = [torch.distributions.MultivariateNormal(mean, covariance).log_prob(features) for mean in means]
    expected = torch.stack(densities, 1) + prior.log()
    logits = problem.model.classify(model, features.float()).double()
    assert torch.allclose(logits.log_softmax(1), expected.log_softmax(1), atol=1e-2)


def test_beta_zero_is_the_friend_and_beta_one_prefers_the_clients_own_classes() -> None:
    problem = tiny_problem()
    base = base_of(problem)
    zero, one = made(problem, base, beta=0.0), made(problem, base, beta=1.0)
    for client in problem.clients:
        assert equal(zero["personalized"][client], zero["friend"][client])
        moved = one["personalized"][client]["head.bias"] - one["friend"][client]["head.bias"]
        lacking = problem.counts[client] == 0
        assert lacking.sum() == 1 and moved[lacking] < moved[~lacking].min() - 3
        assert torch.equal(one["personalized"][client]["head.weight"], one["friend"][client]["head.weight"])


def test_a_dropout_clients_data_reach_no_other_client_and_serve_its_own_friend() -> None:
    problem = tiny_problem(sizes=(13, 11, 7), dropout=(1,))
    base = base_of(problem)
    pixels = problem.images.pixels.clone()
    pixels[problem.train[1]] = 255 - pixels[problem.train[1]]
    changed = dataclasses.replace(problem, images=dataclasses.replace(problem.images, pixels=pixels))
    before, after = made(problem, base), made(changed, base)
    for role in ("friend", "personalized"):
        assert all(equal(before[role][client], after[role][client]) for client in (0, 2))
        assert distance(before[role][1], after[role][1]) > 1e-3
    everyone = made(dataclasses.replace(problem, dropout=(False,) * 3), replace_locals(base, problem))
    assert distance(before["friend"][1], everyone["friend"][1]) < 1e-3
    assert distance(before["friend"][0], everyone["friend"][0]) > 1e-3


def replace_locals(base: BaseModels, problem: Problem) -> BaseModels:
    """The base as if every client had been heard."""
    return dataclasses.replace(base, local_models=dict.fromkeys(problem.clients, base.global_model))


def test_a_client_that_was_never_heard_is_a_dropout_client() -> None:
    problem = tiny_problem()
    base = base_of(problem)
    two = dataclasses.replace(base, local_models={client: base.local_models[client] for client in (0, 2)})
    dropped = dataclasses.replace(problem, dropout=(False, True, False))
    friends = [made(one, two)["friend"] for one in (problem, dropped)]
    assert all(equal(friends[0][client], friends[1][client]) for client in problem.clients)
    assert not equal(friends[0][0], made(problem, base)["friend"][0])


def test_a_client_that_alone_holds_a_class_adds_it_to_its_friend_and_to_no_other() -> None:
    problem = tiny_problem(sizes=(30, 30, 30), dropout=(1,))
    kept = [part[problem.images.labels[part] != 0] for part in (problem.train[0], problem.train[2])]
    lacking = shared_among(problem, kept[0], problem.train[1], kept[1])
    lacking = dataclasses.replace(lacking, dropout=problem.dropout)
    friends = made(lacking, base_of(lacking))["friend"]
    assert lacking.counts[:, 0].tolist() == [0, 15, 0]
    rows = problem.train[1]
    known, taken = (
        problem.model(friends[client], problem.images.batch(rows).images).argmax(1)[problem.images.labels[rows] == 0]
        for client in (1, 0)
    )
    assert (known == 0).all() and not (taken == 0).any()
    features = 10 * torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    unknown, *others = problem.model.classify(friends[0], features).T
    share = 0.01 / 3 / (0.99 / 2 + 0.01 / 3)
    assert torch.allclose(unknown, sum(others) / 2 + math.log(share), atol=1e-2)


@pytest.mark.parametrize("sizes", [(0, 0), (1, 0), (1, 1), (9, 0, 1)])
def test_it_survives_clients_without_images_and_with_one(sizes) -> None:
    problem = tiny_problem(sizes=sizes)
    base = replace_locals(BaseModels(problem.start, {}), problem)
    models = made(problem, base)
    for model in (*models["friend"].values(), *models["personalized"].values()):
        assert all(torch.isfinite(value).all() for value in model.values())
        assert equal(model, problem.start) == (sum(sizes) == 0)


def test_a_share_of_a_memory_is_what_the_card_says() -> None:
    problem = tiny_problem(channels=3, classes=10, network=CNN(3, 10))
    start = initial_parameters({"name": "cnn"}, 3, 10, seed=0)
    memory = remember(problem, start, problem.train[0])
    width = memory.products.shape[0]
    sent = memory.counts.numel() + memory.sums.numel() + width * (width + 1) // 2
    assert sent == 136_458
    assert round(1000 * sent / sum(value.numel() for value in start.values())) == 155
    assert torch.equal(memory.products, memory.products.T)


@pytest.mark.parametrize("base", ["fedprox", "scaffold"])
def test_it_caps_onto_another_base_method_and_another_network_in_both_precisions(base) -> None:
    network = build_network({"name": "resnet", "width": 8}, 1, 3)
    for bf16 in (False, True):
        problem = tiny_problem(sizes=(6, 5), network=network, rounds=1, local_epochs=1, bf16=bf16)
        models = made(problem, base_of(problem, base))
        assert all(torch.isfinite(value).all() for value in models["personalized"][0].values())
        assert all(value.dtype == torch.float32 for value in models["friend"][1].values())


def test_features_that_are_not_finite_stop_it() -> None:
    problem = tiny_problem()
    base = base_of(problem)
    unfit = dataclasses.replace(problem, images=dataclasses.replace(problem.images, mean=torch.full((1,), torch.nan)))
    with pytest.raises(Diverged, match="the feature memory"):
        made(unfit, base)


def test_a_head_without_bias_is_refused() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.AvgPool2d(8), nn.Flatten())
            self.head = nn.Linear(16, 3, bias=False)

        def forward(self, images):
            return self.head(self.body(images))

    problem = tiny_problem(network=Bare())
    assert isinstance(problem.model, Model)
    with pytest.raises(UserError, match=r"no head\.bias"):
        made(problem, BaseModels(problem.start, {}))


@pytest.mark.parametrize("change", [{"beta": -0.1}, {"shrinkage": 0.0}, {"smoothing": 1.5}])
def test_settings_out_of_range_are_refused(change) -> None:
    with pytest.raises(UserError, match=f"apfl_plus.{next(iter(change))}"):
        load_method("apfl_plus", change)
