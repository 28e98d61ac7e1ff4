"""FFGG (fine-tuning followed by global gradient): some layers are shared, and the others are private to each client.

    @article{mishchenko2023partially,
      title = {Partially personalized federated learning: Breaking the curse of data heterogeneity},
      author = {Mishchenko, Konstantin and Islamov, Rustem and Gorbunov, Eduard and Horv{\\'a}th, Samuel},
      journal = {arXiv preprint arXiv:2305.18285}, year = {2023}}

Clients minimise 1/M sum_m f_m(w, theta_m) over the shared w and their own theta_m. In a round (Algorithm 1), client m
tunes theta_m with w fixed and sends the gradient of f_m(w, theta_m) in w, exact on all of its data; the server moves w
by ``gamma`` times the mean of these gradients, or a robust mean. Where the private part is rich enough for one w to let
every client fit its data, all of them vanish: robust means have nothing left to distort.

The defaults follow the authors' notebooks (github.com/Rustem-Islamov/FL_representations, least squares on synthetic
data). There theta_m is drawn anew in each round, normally, and tuned by 100 gradient steps (200 in the notebook on
Byzantine clients); the asynchronous notebook starts it from one w0 and takes 10 steps; robust rules see means of
buckets of two updates, dealt at random. Here the drawn tensors have the size (root mean square) of the network's
initial ones, as unit normals would drown its features, and tuning steps are those of the study's local optimiser on its
batches. The notebooks' ``gamma`` is 1 / L, with L the smoothness in w, which is unknown for a network: 0.1 was chosen
among 0.01 to 1 on the digits of config/demo.yaml. One gradient step a round is little where rounds are few.

``{shared_update: local, gamma: 1.0, private_start: kept, tuning_epochs: 5}`` is a variant of this suite: w takes as
many local steps a round as in other methods, theta_m fixed, and theta_m goes on from where it was.

Some clients may be simulated Byzantine ones; the server knows how many, not which. The personalized model of an honest
client is the shared part with its last private one, and Byzantine clients are not evaluated. A dropout client tunes a
private part of its own from the initial one.

Where the server draws the clients of a round, the Byzantine ones are drawn like others, and the aggregator must
withstand a round in which all of them are there. A client keeps its private part until it is drawn again; one that was
never drawn is evaluated as a dropout client.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from apfl.federation import (
    ATTACKS,
    CentredClipping,
    Gradient,
    Krum,
    Mean,
    Median,
    Method,
    Models,
    Optimizer,
    Params,
    Phase,
    Problem,
    Result,
    Rule,
    Split,
    State,
    TrimmedMean,
    Work,
    attackers,
    bucketed,
    check_fields,
    difference,
    flatten,
    join,
    newcomers,
    numpy_stream,
    require,
    torch_stream,
    unflatten,
)

RULES: Mapping[str, Callable[[FFGG], Rule]] = {
    "mean": lambda method: Mean(),
    "median": lambda method: Median(),
    "trimmed_mean": lambda method: TrimmedMean(),
    "krum": lambda method: Krum(),
    "centred_clipping": lambda method: CentredClipping(method.clipping_radius, method.clipping_iterations),
}


@dataclass(frozen=True)
class FFGG(Method):
    """
    :param private: prefixes of the private parameters' names, separated by commas; by default the last linear layer.
    :param private_start: the private part from which tuning starts: one ``drawn`` anew in each round, the ``initial``
        one, or the one ``kept`` from the previous round.
    :param tuning_steps: steps that tune the private part before each update of w, the shared part; 100 or 200 in the
        notebooks.
    :param tuning_epochs: passes over the client's data instead of these steps; 0 for the steps.
    :param shared_update: how a client updates the shared part: ``gradient`` (its exact gradient) or ``local`` (local
        training).
    :param gamma: the server's step size: with ``gradient``, the learning rate of the shared part; with ``local``, 1
        takes the mean of the clients' shared parts.
    :param aggregator: how the server combines the updates: ``mean``, ``median``, ``trimmed_mean``, ``krum`` or
        ``centred_clipping``.
    :param bucket_size: s, the number of updates averaged before a robust rule sees them (2 in the notebooks); 1 for
        none.
    :param byzantine: number of simulated Byzantine clients, which the aggregator withstands.
    :param attack: attack of the Byzantine clients: ``sign_flip``, ``gaussian`` or ``label_flip``.
    :param attack_strength: factor of the flipped update, or standard deviation of the noise.
    :param clipping_radius: radius of centred clipping; 0 for the median distance from the centre in each iteration.
    :param clipping_iterations: iterations of centred clipping; 1 in its authors' code.
    """

    private: str = "head."
    private_start: str = "drawn"
    tuning_steps: int = 100
    tuning_epochs: int = 0
    shared_update: str = "gradient"
    gamma: float = 0.1
    aggregator: str = "mean"
    bucket_size: int = 2
    byzantine: int = 0
    attack: str = "sign_flip"
    attack_strength: float = 10.0
    clipping_radius: float = 0.0
    clipping_iterations: int = 1

    title: ClassVar[str] = "FFGG"
    search: ClassVar[Mapping[str, Any]] = {
        "gamma": {"low": 1e-2, "high": 1.0, "scale": "log"},
        "tuning_steps": [10, 30, 100, 300],
    }
    model: ClassVar[str] = "personalized"
    # Robust rules need to see the clients together.
    additive: ClassVar[Mapping[str, str]] = {"aggregator": "mean"}
    shares_global: ClassVar[bool] = False

    def __post_init__(self) -> None:
        known: dict[str, Iterable[str]] = {
            "private_start": ("drawn", "initial", "kept"),
            "shared_update": ("gradient", "local"),
        }
        whole = ("tuning_steps", "bucket_size", "clipping_iterations")
        others = ("tuning_epochs", "byzantine", "attack_strength", "clipping_radius")
        least = dict.fromkeys(whole, 1) | dict.fromkeys(others, 0)
        known |= {"aggregator": RULES, "attack": ATTACKS}
        check_fields(self, "ffgg", at_least=least, positive=("gamma",), one_of=known)

    @property
    def split(self) -> Split:
        return Split.parse(self.private)

    @property
    def rule(self) -> Rule:
        return RULES[self.aggregator](self)

    def init(self, problem: Problem) -> State:
        self.split.check(problem.start, "ffgg.private")
        senders = len(set(self.senders(problem)) & set(self.clients_of_round(problem, 1)))
        most = self.rule.most(self.rows(senders))
        require(
            self.byzantine <= most,
            f"ffgg.byzantine {self.byzantine}: {self.aggregator} is defined for at most {most} among {senders} clients "
            f"with data in buckets of {self.size}; lower it or bucket_size, or choose another aggregator",
        )
        state = self.split.initial_state(problem, self.clients(problem))
        still = {name: torch.zeros_like(value) for name, value in state["shared"].items()}
        return state | ({"update": still} if self.rule.remembers else {})

    def weight(self, problem: Problem, client: int) -> float:
        """The server's mean is plain: clients with samples count alike."""
        return float(problem.size(client) > 0)

    def client_work(self, state: State, problem: Problem, round: int, clients: Sequence[int]) -> list[Work]:
        hostile = self.attackers(problem)
        phases = (self.tuning(problem), self.update_of_shared(problem))
        samples = ATTACKS[self.attack].samples(problem.images, problem.classes)
        work = [Work(client, self.start(state, problem, round, client), phases) for client in clients]
        return [
            replace(one, samples=samples, indices=problem.train[one.client]) if one.client in hostile else one
            for one in work
        ]

    def server_update(self, state: State, problem: Problem, round: int, results: Sequence[Result]) -> State:
        sent = [result for result in results if problem.size(result.client)]
        if not sent:
            return state
        updates = torch.stack([self.sent_update(problem, result, round) for result in sent])
        if self.size > 1:
            updates = bucketed(
                updates, self.size, numpy_stream(problem.seed, "buckets", round=round).permutation(len(sent))
            )
        shared, byzantine = state["shared"], min(self.byzantine, self.rule.most(len(updates)))
        centre = flatten(state["update"]) if self.rule.remembers else torch.zeros_like(updates[0])
        update = self.rule(updates, byzantine, centre)
        kept = state["clients"] | {str(one.client): self.split.private(one.params) for one in sent}
        moved = {"shared": unflatten(flatten(shared) - self.gamma * update, shared), "clients": kept}
        return moved | ({"update": unflatten(update, shared)} if self.rule.remembers else {})

    def client_models(self, state: State, problem: Problem, latest: Mapping[int, Params]) -> dict[str, Models]:
        hostile = self.attackers(problem)
        tuning = self.tuning(problem, least=problem.training.local_epochs)
        personal = {client: join(state, client) for client in self.clients(problem)}
        personal |= newcomers(problem, state, self.split, tuning)
        return {"personalized": {client: model for client, model in personal.items() if client not in hostile}}

    def senders(self, problem: Problem) -> list[int]:
        """The clients that have anything to send."""
        return [client for client in self.clients(problem) if problem.size(client)]

    def attackers(self, problem: Problem) -> frozenset[int]:
        """The Byzantine clients."""
        return attackers(problem.seed, self.senders(problem), self.byzantine)

    @property
    def size(self) -> int:
        """Updates in a bucket; the mean needs none."""
        return 1 if self.aggregator == "mean" else self.bucket_size

    def rows(self, clients: int) -> int:
        """What the rule sees of so many clients."""
        return -(-clients // self.size)

    def start(self, state: State, problem: Problem, round: int, client: int) -> Params:
        """The shared part, with the private one from which the client tunes."""
        if self.private_start == "kept":
            return join(state, client)
        private = self.split.private(problem.start)
        if self.private_start == "drawn":
            stream = torch_stream(problem.seed, "ffgg-private", round=round, client=client)
            private = {name: drawn_like(value, stream) for name, value in private.items()}
        return state["shared"] | private  # type: ignore[no-any-return]

    def tuning(self, problem: Problem, least: int = 0) -> Phase:
        """Training of the private part, for so many steps, or passes and at least ``least`` of them."""
        length: dict[str, Any] = (
            {"epochs": max(self.tuning_epochs, least)} if self.tuning_epochs else {"steps": self.tuning_steps}
        )
        return problem.phase(trainable=self.split.is_private, **length)

    def update_of_shared(self, problem: Problem) -> Phase:
        """Training of the shared part, or one step of length one along its exact gradient."""
        if self.shared_update == "local":
            return problem.phase(trainable=self.split.is_shared)
        step = {"optimizer": Optimizer("sgd", 1.0), "steps": 1, "batch_size": 0, "shuffle": False}
        return problem.phase(Gradient(problem.loss), trainable=self.split.is_shared, **step)

    def sent_update(self, problem: Problem, result: Result, round: int) -> Tensor:
        """What the client sends: Delta [d], or what its attack makes of it."""
        update = flatten(self.split.shared(difference(result.work.start, result.params)))
        if result.client not in self.attackers(problem):
            return update
        stream = torch_stream(problem.seed, "byzantine", round=round, client=result.client)
        return ATTACKS[self.attack].update(update, self.attack_strength, stream)


def drawn_like(value: Tensor, stream: torch.Generator) -> Tensor:
    """Normal numbers of the shape of ``value`` and, on average, of its root mean square; drawn on the CPU."""
    noise = torch.randn(value.shape, generator=stream, dtype=value.dtype)
    return noise.to(value.device) * value.square().mean().sqrt()


METHOD = FFGG
