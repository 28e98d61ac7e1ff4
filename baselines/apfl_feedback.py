"""AP-FL with feedback: the generator is trained in every round, and what the friends learn goes back into the global
model.

The paper trains the generator after federated training (section 4.1) but also draws it inside the round (Figure 3): the
server memorizes, broadcasts, clients personalize, and the server aggregates again. This is the second reading. In each
round the server averages the clients' models, goes on training its generator on them (Eq. 9), each client trains a
friend from the new average, and the next global model is

    theta <- (1 - feedback) mean_k theta_k + feedback mean_k theta^f_k,

both means weighted by the clients' numbers of samples (Eq. 2). With ``feedback`` 0 its global model is FedAvg's, bit
for bit. Where the server draws the clients of a round, generator and global model learn from those; a client keeps its
friend until it is drawn again, and one that was never drawn is a dropout client. The rest is as in `baselines.apfl`,
whose reference this card shares:

    @article{wan2025asynchronous,
      title = {Asynchronous personalized federated learning through global memorization},
      author = {Wan, Fan and Li, Yuchen and Qiu, Xueqi and Sun, Rui and Zhang, Leyuan and Miao, Xingyu and
                Zhang, Tianyu and Duan, Haoran and Long, Yang},
      journal = {arXiv preprint arXiv:2503.00407}, year = {2025}}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from apfl.federation import BaseModels, Models, Params, Problem, Result, State, UserError, weighted_mean
from apfl.memorization.friends import interpolate, localize
from apfl.memorization.generator import GeneratorConfig, Memory, build_memory, class_weights, memorize
from baselines.apfl import APFL
from baselines.fedavg import FedAvg


@dataclass(frozen=True)
class APFLFeedback(FedAvg):
    """
    :param beta: interpolation weight of Eq. 10; 0.01 for CIFAR and 0.1 for EMNIST and Fashion-MNIST in the paper.
    :param feedback: weight of the friends' mean in the next global model (not published).
    :param friend_distribution: classes of the friends: ``own`` (the text), ``uniform`` or ``global``.
    :param friend_epochs: passes over a friend's synthetic images per round (not published).
    :param samples_per_class: synthetic images per class, in the generator's epochs and for the friends.
    :param generator_epochs: epochs of the generator per round (not published).
    :param noise_dimension: dimension of z; the paper calls 20 to 100 best.
    :param ce_weight: lambda of Eq. 9 (0.5 in the paper).
    :param diversity: the diversity term: ``paper`` (Eq. 8), ``ratio`` or ``exp``.
    :param width: channels of the generator.
    """

    beta: float = 0.01
    feedback: float = 0.5
    friend_distribution: str = "own"
    friend_epochs: int = 1
    samples_per_class: int = 600
    generator_epochs: int = 1
    noise_dimension: int = 100
    ce_weight: float = 0.5
    diversity: str = "paper"
    width: int = 64

    title: ClassVar[str] = "AP-FL (feedback)"
    model: ClassVar[str] = "personalized"
    needs: ClassVar[tuple[str, ...]] = ("semantics",)
    additive: ClassVar[bool] = False
    search: ClassVar[Mapping[str, Any]] = {
        "feedback": {"low": 0.05, "high": 1.0, "scale": "log"},
        "friend_epochs": {"low": 1, "high": 10, "scale": "log"},
        "generator_epochs": {"low": 1, "high": 10, "scale": "log"},
        "ce_weight": {"low": 0.1, "high": 0.95},
        "beta": {"low": 0.0, "high": 1.0},
    }

    def __post_init__(self) -> None:
        if not 0 <= self.feedback <= 1:
            raise UserError(f"apfl_feedback.feedback {self.feedback}: must be from 0 to 1")
        _ = (self.config, self.friends)  # both check their own fields

    @property
    def config(self) -> GeneratorConfig:
        return GeneratorConfig(
            noise_dimension=self.noise_dimension,
            samples_per_class=self.samples_per_class,
            ce_weight=self.ce_weight,
            diversity=self.diversity,
            epochs=self.generator_epochs,
            width=self.width,
        )

    @property
    def friends(self) -> APFL:
        return APFL(
            beta=self.beta,
            friend_distribution=self.friend_distribution,
            friend_epochs=self.friend_epochs,
            samples_per_class=self.samples_per_class,
        )

    def init(self, problem: Problem) -> State:
        memory = build_memory(self.config, problem.semantics, problem.images.pixels.shape[-1], problem.seed)  # type: ignore[arg-type]
        return {"global": problem.start, "generator": dict(memory.generator.state_dict()), "friends": {}}

    def server_update(self, state: State, problem: Problem, round: int, results: Sequence[Result]) -> State:
        state = super().server_update(state, problem, round, results)
        sent = {result.client: result.params for result in results if problem.size(result.client)}
        if not sent:
            return state
        memory = self.memory(state, problem)
        weights = class_weights(problem.counts[list(sent)])
        memorize(memory, problem.model, list(sent.values()), weights, problem.engine, problem.seed, round)
        base = BaseModels(state["global"], sent)
        friends = self.friends.friends(problem, base, sent, round, memory)
        sizes = [problem.weight(client) for client in friends]
        return {
            "global": interpolate(weighted_mean(list(friends.values()), sizes), state["global"], self.feedback),
            "generator": {name: value.clone() for name, value in memory.generator.state_dict().items()},
            "friends": state.get("friends", {}) | {str(client): friend for client, friend in friends.items()},
        }

    def memory(self, state: State, problem: Problem) -> Memory:
        """The generator as the state has it."""
        memory = build_memory(self.config, problem.semantics, problem.images.pixels.shape[-1], problem.seed)  # type: ignore[arg-type]
        memory.generator.load_state_dict(state["generator"])
        return memory

    def client_models(self, state: State, problem: Problem, latest: Mapping[int, Params]) -> dict[str, Models]:
        """Eq. 12: participants mix their local model with their friend, dropout clients the localized global model."""
        friends = {int(client): friend for client, friend in state.get("friends", {}).items()}
        if not friends:
            return {"global": state["global"]}
        memory, base, last = (
            self.memory(state, problem),
            BaseModels(state["global"], dict(latest)),
            problem.training.rounds,
        )
        localized = localize(problem, problem.newcomers, state["global"], last)
        own = {client: latest[client] for client in friends} | localized
        friends |= self.friends.friends(problem, base, localized, last, memory)
        personalized = {client: interpolate(own[client], friends[client], self.beta) for client in own}
        return {"global": state["global"], "local": dict(latest), "friend": friends, "personalized": personalized}


METHOD = APFLFeedback
