"""AP-FL+, which is not in the paper: the server memorizes features instead of pixels, and friends are computed from
that memory.

    @article{wan2025asynchronous,
      title = {Asynchronous personalized federated learning through global memorization},
      author = {Wan, Fan and Li, Yuchen and Qiu, Xueqi and Sun, Rui and Zhang, Leyuan and Miao, Xingyu and
                Zhang, Tianyu and Duan, Haoran and Long, Yang},
      journal = {arXiv preprint arXiv:2503.00407}, year = {2025}}
    @inproceedings{luo2021fear,
      title = {No fear of heterogeneity: Classifier calibration for federated learning with non-{IID} data},
      author = {Luo, Mi and Chen, Fei and Hu, Dapeng and Zhang, Yifan and Liang, Jian and Feng, Jiashi},
      booktitle = {NeurIPS}, year = {2021}}
    @inproceedings{fani2024accelerating,
      title = {Accelerating heterogeneous federated learning with closed-form classifiers},
      author = {Fan{\\`i}, Eros and Camoriano, Raffaello and Caputo, Barbara and Ciccone, Marco},
      booktitle = {ICML}, year = {2024}}

This is neither a method of the paper nor a reading of it. It keeps the stages of AP-FL: rounds of any base method, a
generator of all seen classes on the server, friend models that learn from the generator alone, and Eq. 10. What is
memorized is other: the generator is one Gaussian for each class in the space that the head of the final global model
reads, with a covariance that all classes share. It is not learnt from models; the clients send its sufficient
statistics, which add up over clients (the statistics of Luo et al., who train the head on samples, and closed-form
heads as of Fani et al.). A friend is the global model with the head that is best for what such a generator draws, for
all classes alike: linear discriminant analysis, in closed form, where the limit of endlessly many samples would lead.
So the friend's head does not depend on how the images are shared among clients, only its body does.

With the label distribution P_k of a client for the prior, only the biases change. That is the local model of Eq. 10,
so that beta moves the personalised model from the friend to it. A dropout client gets the memory and adds its own
statistics to it on its side; the server learns nothing of them. There is no zero-shot synthesis: the log density of a
class without statistics is the mean of the others', so that it is never chosen.

After the last round each participant sends one number a class, C d sums and d (d + 1) / 2 products for d features: for
the paper's CNN and ten classes 136,458 numbers, 15.5 % of a model. They say more of the data than a model does: the
sums of a class of one image are that image's features.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from apfl.federation import BaseModels, Derived, Diverged, Models, Params, Problem, UserError, require
from apfl.memorization.friends import interpolate

BATCH = 500


@dataclass(frozen=True)
class FeatureMemory:
    """Sufficient statistics of Gaussian classes with one covariance, in float64: ``counts`` [C], ``sums`` [C, d] of
    the features of each class, and ``products`` [d, d], the sum of f f^T over all images. They add up."""

    counts: Tensor
    sums: Tensor
    products: Tensor

    def __add__(self, other: FeatureMemory) -> FeatureMemory:
        return FeatureMemory(self.counts + other.counts, self.sums + other.sums, self.products + other.products)

    def gaussians(self, shrinkage: float) -> tuple[Tensor, Tensor]:
        """Means [C, d] and the shared covariance [d, d].

        The covariance is shrunk towards a multiple of the identity of the same trace. A class without images has the
        mean of those that have some. Where no two images of a class differ, the covariance is the identity.
        """
        known = self.counts > 0
        means = self.sums / self.counts.clamp_min(1)[:, None]
        means[~known] = means[known].mean(0)
        within = self.products - (means[known].T * self.counts[known]) @ means[known]
        within = (within + within.T) / (2 * self.counts.sum())
        identity = torch.eye(len(within), dtype=within.dtype, device=within.device)
        spread = within.diagonal().mean()
        # Of equal images rounding leaves a spread of some 1e-16 of their squares.
        if spread <= 1e-9 * self.products.diagonal().mean() / self.counts.sum():
            return means, identity
        return means, torch.lerp(within, spread * identity, shrinkage)


def remember(problem: Problem, model: Params, indices: Tensor) -> FeatureMemory:
    """The statistics of the images at ``indices`` in the feature space of ``model``: what a client sends."""
    width = model["head.weight"].shape[1]
    size: dict[str, Any] = {"dtype": torch.float64, "device": problem.engine.device}
    memory = FeatureMemory(
        torch.zeros(problem.classes, **size),
        torch.zeros(problem.classes, width, **size),
        torch.zeros(width, width, **size),
    )
    for rows in indices.split(BATCH):
        batch = problem.images.batch(rows)
        with torch.no_grad(), problem.engine.autocast():
            features = problem.model.features(model, batch.images)
        features, labels = features.double(), F.one_hot(batch.labels, problem.classes).double()
        memory = memory + FeatureMemory(labels.sum(0), labels.T @ features, features.T @ features)
    return memory


@dataclass(frozen=True)
class APFLPlus(Derived):
    """
    :param beta: weight in Eq. 10 of the head with the client's own prior P_k; with 0, the friend is left as it is.
    :param shrinkage: how far the covariance is shrunk towards a multiple of the identity; above 0, at most 1.
    :param smoothing: share of a prior that is spread over all classes, seen or not; above 0, at most 1.
    """

    beta: float = 0.1
    shrinkage: float = 0.01
    smoothing: float = 0.01

    title: ClassVar[str] = "AP-FL+"
    search: ClassVar[Mapping[str, Any]] = {
        "beta": {"low": 0.0, "high": 1.0},
        "shrinkage": {"low": 1e-4, "high": 1.0, "scale": "log"},
        "smoothing": {"low": 1e-4, "high": 1.0, "scale": "log"},
    }

    def __post_init__(self) -> None:
        require(0 <= self.beta <= 1, f"apfl_plus.beta {self.beta}: must be from 0 to 1")
        for name in ("shrinkage", "smoothing"):
            require(0 < getattr(self, name) <= 1, f"apfl_plus.{name} {getattr(self, name)}: must be above 0, at most 1")

    def personalize(self, problem: Problem, base: BaseModels, round: int, generator: Any = None) -> dict[str, Models]:
        model = base.global_model
        if missing := {"head.weight", "head.bias"} - model.keys():
            raise UserError(f"apfl_plus: the network has no {sorted(missing)[0]}; its head must be a linear layer")
        heard = [client for client in problem.participants if client in base.local_models]
        memory = self.memory(problem, model, heard)
        if not memory.products.isfinite().all():
            raise Diverged(round, "the feature memory")
        friends, personalized = {}, {}
        for client in problem.clients:
            # A client of which the server never heard is a dropout client to it.
            known = memory if client in heard else memory + remember(problem, model, problem.train[client])
            friends[client] = self.read(model, known, known.counts > 0)
            own = self.read(model, known, problem.counts[client])
            personalized[client] = interpolate(own, friends[client], self.beta)
        return {"friend": friends, "personalized": personalized}

    @staticmethod
    def memory(problem: Problem, model: Params, clients: Iterable[int]) -> FeatureMemory:
        """What the server remembers: the sum of what the clients send."""
        nothing = remember(problem, model, problem.train[0][:0])
        return reduce(
            FeatureMemory.__add__, (remember(problem, model, problem.train[client]) for client in clients), nothing
        )

    def read(self, model: Params, memory: FeatureMemory, prior: Tensor) -> Params:
        """The model with the head that classifies best what the memory generates, for a ``prior`` [C], unnormalised.

        Logits are log densities up to a common term: w_c = S^-1 m_c, b_c = log prior_c - m_c^T S^-1 m_c / 2. Of an
        empty memory there is nothing to read, and of an empty prior nothing to prefer.
        """
        if not memory.counts.sum():
            return model
        means, covariance = memory.gaussians(self.shrinkage)
        prior = prior.double() if prior.sum() else torch.ones_like(memory.counts)
        prior = torch.lerp(prior / prior.sum(), torch.full_like(memory.counts, 1 / len(prior)), self.smoothing)
        weight = torch.linalg.solve(covariance, means.T).T
        half_norm = (weight * means).sum(1) / 2
        half_norm[memory.counts == 0] = half_norm[memory.counts > 0].mean()
        bias = prior.log() - half_norm
        head = model["head.weight"]
        return model | {"head.weight": weight.to(head.dtype), "head.bias": bias.to(head.dtype)}


METHOD = APFLPlus
