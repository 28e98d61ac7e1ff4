"""AP-FL: asynchronous personalized federated learning through global memorization, on the rounds of any base method.

    @article{wan2025asynchronous,
      title = {Asynchronous personalized federated learning through global memorization},
      author = {Wan, Fan and Li, Yuchen and Qiu, Xueqi and Sun, Rui and Zhang, Leyuan and Miao, Xingyu and
                Zhang, Tianyu and Duan, Haoran and Long, Yang},
      journal = {arXiv preprint arXiv:2503.00407}, year = {2025}}

The server trains a semantic generator on the client models (`apfl.memorization.generator`). Each client trains a friend
model on synthetic images that follow its own label distribution, and interpolates between its local model and the
friend (Eq. 10); a dropout client takes the localized global model in place of the local one (Eq. 12).

Where the paper is silent: the friend starts from the global model and is trained on hard labels with the optimiser of
local training; it gets ``samples_per_class`` images for each class of its label distribution, in the proportions of
that distribution. In Eq. 10 beta weighs the local model although the text calls it the confidence in the friend: the
equation is the default, ``beta_weighs="friend"`` the text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, ClassVar

from torch import Tensor

from apfl.federation import BaseModels, Derived, Models, Params, Problem, UserError, Work, check_fields, run_all
from apfl.memorization.friends import (
    friend_work,
    interpolate,
    label_counts,
    label_distribution,
    localize,
    synthetic_images,
)
from apfl.memorization.generator import Memory, passes, teachers_of

STARTS: Mapping[str, Callable[[Problem, BaseModels, Params], Params]] = {
    "global": lambda problem, base, local: base.global_model,
    "local": lambda problem, base, local: local,
    "scratch": lambda problem, base, local: problem.start,
}

IMAGES_AT_A_TIME = 2 << 30
"""Bytes of synthetic images that friends are trained on at once."""
BETAS = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)


@dataclass(frozen=True)
class APFL(Derived):
    """
    :param beta: interpolation weight of Eq. 10 and 12; 0.01 for CIFAR and 0.1 for EMNIST and Fashion-MNIST in the
        paper.
    :param beta_weighs: the model that beta weighs: ``local`` (the equation) or ``friend`` (the text's "confidence
        coefficient for the friend model").
    :param friend_labels: ``hard`` labels (the generator's condition) or ``soft`` ones (the probabilities of the Eq.
        7-weighted teachers).
    :param friend_distribution: classes on which the friend is trained: ``own`` (P_k, the text), ``uniform`` over all
        classes, or ``global``.
    :param friend_start: model from which the friend starts: ``global``, ``local``, or ``scratch`` for the initial one.
    :param friend_epochs: passes over the synthetic images (not published); 0 for the local epochs of one round.
    :param samples_per_class: synthetic images per class of the friend's label distribution (600 in the paper).
    :param steps_as_with: take as many steps as ``friend_epochs`` passes over this many samples per class would; 0 for
        ``friend_epochs`` passes whatever the number of samples.
    :param sweep_beta: also evaluate Eq. 10 at each of `BETAS`, as models beta0.01, beta0.1 and so on; nothing more is
        trained.
    """

    beta: float = 0.01
    beta_weighs: str = "local"
    friend_labels: str = "hard"
    friend_distribution: str = "own"
    friend_start: str = "global"
    friend_epochs: int = 0
    samples_per_class: int = 600
    steps_as_with: int = 0
    sweep_beta: bool = False

    title: ClassVar[str] = "AP-FL"
    needs: ClassVar[tuple[str, ...]] = ("generator",)
    search: ClassVar[Mapping[str, Any]] = {
        "epochs": {"low": 5, "high": 80, "scale": "log"},
        "learning_rate": {"low": 1e-4, "high": 1e-2, "scale": "log"},
        "width": [32, 64, 128],
        "ce_weight": {"low": 0.1, "high": 0.95},
        "teacher": ["clients", "global"],
        "beta": {"low": 0.0, "high": 1.0},
        "friend_epochs": {"low": 1, "high": 40, "scale": "log"},
        "friend_labels": ["hard", "soft"],
        "friend_start": ["global", "local", "scratch"],
    }

    def __post_init__(self) -> None:
        if not 0 <= self.beta <= 1:
            raise UserError(f"apfl.beta {self.beta}: must be from 0 to 1")
        least = {"samples_per_class": 1, "friend_epochs": 0, "steps_as_with": 0}
        known = {"beta_weighs": ("local", "friend"), "friend_labels": ("hard", "soft"), "friend_start": STARTS}
        known |= {"friend_distribution": ("own", "uniform", "global")}
        check_fields(self, "apfl", at_least=least, one_of=known)

    def personalize(self, problem: Problem, base: BaseModels, round: int, generator: Memory) -> dict[str, Models]:  # type: ignore[override]
        heard = [client for client in problem.participants if client in base.local_models]
        locals_ = {client: base.local_models[client] for client in heard}
        # Eq. 12 for whoever is there: a client of which the server never heard is a dropout client to it.
        missing = [client for client in problem.clients if client not in locals_]
        localized = localize(problem, missing, base.global_model, round)
        own = locals_ | localized
        friends = self.friends(problem, base, own, round, generator)

        def mixed(beta: float) -> Models:
            weight = beta if self.beta_weighs == "local" else 1 - beta
            return {client: interpolate(own[client], friends[client], weight) for client in friends}

        sweep = {f"beta{beta}": mixed(beta) for beta in (BETAS if self.sweep_beta else ())}
        return {"local": locals_, "localized": localized, "friend": friends, "personalized": mixed(self.beta)} | sweep

    def friends(
        self, problem: Problem, base: BaseModels, own: Mapping[int, Params], round: int, memory: Memory
    ) -> dict[int, Params]:
        """theta^f of each client in ``own``; one without data has no label distribution, and keeps the parameters it
        starts from."""
        starts = {client: STARTS[self.friend_start](problem, base, own[client]) for client in sorted(own)}
        work = (self._friend(problem, base, client, start, round, memory) for client, start in starts.items())
        pieces = ((piece, round) for piece in work if piece is not None)
        # Some clients at a time, as their synthetic images are there together where they are trained as one stack.
        image = 4 * problem.images.pixels[0].numel()
        most = max(1, IMAGES_AT_A_TIME // (image * self.samples_per_class * problem.classes))
        friends: dict[int, Params] = {}
        for _ in range(0, len(starts), most):
            friends |= {result.client: result.params for result in run_all(problem, islice(pieces, most))}
        return starts | friends

    def effort(self, problem: Problem, base: BaseModels) -> dict[int, tuple[int, int]]:
        """By client, how many images it trains on, each as often as it is seen, and how many it has the generator
        make: its friend's, and its own for the localized global model where it sent none."""
        effort = {}
        for client in problem.clients:
            heard = client in problem.participants and client in base.local_models
            own = 0 if heard else problem.training.local_epochs * problem.size(client)
            images = int(self._label_counts(problem, client).sum())
            effort[client] = (self._passes(problem) * images + own, images)
        return effort

    def _passes(self, problem: Problem) -> int:
        epochs = self.friend_epochs or problem.training.local_epochs
        return passes(epochs, self.samples_per_class, self.steps_as_with)

    def _label_counts(self, problem: Problem, client: int) -> Tensor:
        """Synthetic images of each class that the client's friend is trained on: [classes]."""
        distribution = label_distribution(problem, client, self.friend_distribution)
        classes = int((distribution > 0).sum())
        return label_counts(distribution, self.samples_per_class * classes) if classes else distribution.long()

    def _friend(
        self, problem: Problem, base: BaseModels, client: int, start: Params, round: int, memory: Memory
    ) -> Work | None:
        counts = self._label_counts(problem, client)
        if not counts.any():
            return None
        config = replace(memory.config, teacher="clients")
        teachers = teachers_of(problem, base, config) if self.friend_labels == "soft" else None
        samples = synthetic_images(problem, memory, client, counts, round, teachers)
        return friend_work(problem, client, start, samples, self._passes(problem))


METHOD = APFL
