"""Least squares with a shared and a private part: every client can fit its data exactly, but not with one model."""

from __future__ import annotations

import torch
from torch import nn

from apfl.engine.images import SyntheticImages
from apfl.engine.networks import Model, Params
from apfl.engine.settings import TrainingConfig
from apfl.engine.work import Step
from apfl.federation.problem import Problem
from apfl.streams import torch_stream

SHARED, PRIVATE = 4, 2


class Sum(nn.Module):
    """<body, first features> + <head, last features>."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(SHARED, 1, bias=False)
        self.head = nn.Linear(PRIVATE, 1, bias=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return (self.body(features[:, :SHARED]) + self.head(features[:, SHARED:])).squeeze(1)


def squared_error(model: Model, params: Params, step: Step) -> torch.Tensor:
    return 0.5 * (model(params, step.batch.images) - step.batch.labels).square().mean()


def least_squares(clients: int = 10, each: int = 40, **training: object) -> Problem:
    """y = <w, x> + <theta_m, x'> without noise: w is common, theta_m the client's own. A pass is one exact step of
    SGD."""
    stream = torch_stream(0, "least-squares")
    features = torch.randn(clients * each, SHARED + PRIVATE, generator=stream)
    shared = torch.randn(SHARED, generator=stream)
    private = torch.randn(clients, PRIVATE, generator=stream).repeat_interleave(each, 0)
    targets = features[:, :SHARED] @ shared + (features[:, SHARED:] * private).sum(1)
    parts = torch.arange(clients * each).split(each)
    settings = {"rounds": 60, "local_epochs": 5, "batch_size": each, "learning_rate": 0.3, "optimizer": "sgd"}
    return Problem(
        model=Model(Sum()),
        images=SyntheticImages(features, targets),
        train=parts,
        test=parts,
        counts=torch.full((clients, 1), each),
        dropout=(False,) * clients,
        unseen=torch.zeros(1, dtype=torch.bool),
        training=TrainingConfig(**(settings | training)),
        seed=0,
        start={"body.weight": torch.zeros(1, SHARED), "head.weight": torch.zeros(1, PRIVATE)},
        loss=squared_error,
    )


def client_loss(problem: Problem, client: int, params: Params) -> float:
    """f_m at a model, on all of the client's data."""
    batch = problem.images.batch(problem.train[client])
    return squared_error(problem.model, params, Step((batch,), torch.Generator())).item()


def hessian_and_minimiser(problem: Problem, client: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A and w* of f(w) = 1/2 (w - w*)' A (w - w*), over body and head together, float64."""
    batch = problem.images.batch(problem.train[client])
    features, targets = batch.images.double(), batch.labels.double()
    hessian = features.T @ features / len(targets)
    return hessian, torch.linalg.solve(hessian, features.T @ targets / len(targets))


def vector(params: Params) -> torch.Tensor:
    """Body and head as one vector, float64."""
    return torch.cat([params["body.weight"], params["head.weight"]], dim=1).double().flatten()


def model_of(values: torch.Tensor) -> Params:
    """The inverse of `vector`."""
    row = values.float()[None]
    return {"body.weight": row[:, :SHARED].clone(), "head.weight": row[:, SHARED:].clone()}
