"""The method protocol, and the synchronous server.

A method is four pure functions over an explicit state, on a frozen dataclass of its hyper-parameters:

    init           the state before the first round
    client_work    which clients train what
    server_update  the state after a round, from what the clients sent
    client_models  the model that each client would use

A state is a nested dictionary with string keys and tensors as leaves, so that saving, resuming and moving it between
devices need no help from the method. `run` is the synchronous server; it yields after each round and does nothing
else: its caller evaluates, saves and prints. Methods that start from another method's models, such as
fine-tuning and AP-FL, derive from `Derived` instead.
"""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from apfl.engine.networks import Params
from apfl.engine.work import Result, Work
from apfl.errors import UserError
from apfl.federation.problem import Problem

if TYPE_CHECKING:
    M = TypeVar("M")

State = dict[str, Any]


def streaming(
    server_update: Callable[[M, State, Problem, int, Iterable[Result]], State],
) -> Callable[[M, State, Problem, int, Sequence[Result]], State]:
    """Mark a `Method.server_update` that goes over its results once and keeps none of them.

    It is given each result when it is trained, so that memory holds one model and not one of every client. A method
    that overrides `server_update` without this mark gets a sequence, whatever its base does.
    """
    server_update.streaming = True  # type: ignore[attr-defined]
    return server_update


class Method:
    """A federated method: derive a frozen dataclass whose fields are its hyper-parameters.

    The class variables are read without importing the file: ``title`` heads its column in the tables, ``model`` is
    the role of the model that the tables show, ``needs`` names further inputs (``semantics``, ``proxy``). ``additive``
    says whether the server update is a sum over clients, so that they may come one at a time; where that depends on
    hyper-parameters it holds the values with which it is one. A class that overrides `server_update` is not, unless it
    says so anew. Each client's own state is then under
    ``state["clients"]``; ``exact_sums`` names keys of the state that are added in full, whatever the discount of a
    stale update. ``server_only`` names keys that are never sent to clients. ``shares_global`` says whether there is a
    global model, from which derived methods start. ``search`` says what each hyper-parameter may be where a study
    tunes the method: a list of values, or ``{"low": 1e-4, "high": 1.0, "scale": "log"}``.
    """

    title: ClassVar[str]
    stage: ClassVar[str] = "federate"
    model: ClassVar[str] = "global"
    needs: ClassVar[tuple[str, ...]] = ()
    additive: ClassVar[bool | Mapping[str, Any]] = False
    shares_global: ClassVar[bool] = True
    exact_sums: ClassVar[tuple[str, ...]] = ()
    server_only: ClassVar[tuple[str, ...]] = ()
    search: ClassVar[Mapping[str, Any]] = {}

    def __init_subclass__(cls) -> None:
        def where(name: str) -> int:
            return next(place for place, kind in enumerate(cls.__mro__) if name in vars(kind))

        if where("server_update") < where("additive"):
            cls.additive = False

    def weight(self, problem: Problem, client: int) -> float:
        """How much a client counts in the server's mean: by default by its number of samples (Eq. 2)."""
        return problem.weight(client)

    def clients(self, problem: Problem) -> tuple[int, ...]:
        """The clients that take part."""
        return problem.participants

    def clients_of_round(self, problem: Problem, round: int) -> tuple[int, ...]:
        """Those of them that take part in a round: all but the participants that the server does not draw for it."""
        resting = set(problem.participants) - set(problem.drawn(round)) if problem.draws else set()
        return tuple(client for client in self.clients(problem) if client not in resting)

    def init(self, problem: Problem) -> State:
        """The state before the first round."""
        return {"global": problem.start}

    def client_work(self, state: State, problem: Problem, round: int, clients: Sequence[int]) -> list[Work]:
        """What each of ``clients`` trains in this round."""
        raise TypeError(f"{type(self).__name__} defines no client_work")

    def server_update(self, state: State, problem: Problem, round: int, results: Sequence[Result]) -> State:
        """The state after the round; ``results`` are in the order of the clients, and may be empty. With the mark
        `streaming` they can be gone over only once."""
        raise TypeError(f"{type(self).__name__} defines no server_update")

    def client_models(self, state: State, problem: Problem, latest: Mapping[int, Params]) -> dict[str, Models]:
        """By role, the model of every client, or of each; ``latest`` holds the last local model that each client
        sent. The ``newcomers`` among the problem's clients have taken no part so far."""
        return {"global": state["global"], "local": dict(latest)}


Models = Params | dict[int, Params]
"""One model for all clients, or one each."""


class Derived:
    """A method on top of another one's finished rounds, such as fine-tuning; its base is any federated method.

    ``base`` names the default one; ``needs`` may name the ``generator``. ``search`` may name hyper-parameters of the
    generator too.
    """

    title: ClassVar[str]
    stage: ClassVar[str] = "personalize"
    model: ClassVar[str] = "personalized"
    base: ClassVar[str] = "fedavg"
    needs: ClassVar[tuple[str, ...]] = ()
    search: ClassVar[Mapping[str, Any]] = {}

    def personalize(self, problem: Problem, base: BaseModels, round: int, generator: Any = None) -> dict[str, Models]:
        """By role, the models that the clients make of the base method's state after ``round``."""
        raise TypeError(f"{type(self).__name__} defines no personalize")


@dataclass(frozen=True)
class BaseModels:
    """What a base method leaves after a round: its global model, the last local model of each client that ever sent
    one, and how many versions old each of those is (0 where nothing is said)."""

    global_model: Params
    local_models: dict[int, Params]
    staleness: Mapping[int, int] = field(default_factory=dict)


def load_method(module: str, parameters: Mapping[str, Any] | None = None) -> Any:
    """The method of ``baselines/{module}.py`` with these hyper-parameters."""
    try:
        kind = importlib.import_module(f"baselines.{module}").METHOD
    except ModuleNotFoundError as error:
        if error.name == f"baselines.{module}":
            raise UserError(
                f"method {module!r}: there is no baselines/{module}.py; `apfl methods` lists those that exist"
            ) from None
        raise UserError(f"baselines/{module}.py: needs {error.name}, which is not installed; install it") from None
    except (Exception, SystemExit) as error:  # whatever the code of a method does when it is imported
        line = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(line.filename).name}, line {line.lineno}"
        problem = f"{type(error).__name__}: {error}"
        raise UserError(f"baselines/{module}.py: cannot be imported ({place}: {problem}); correct the file") from None
    if not (isinstance(kind, type) and issubclass(kind, Method | Derived)):
        raise UserError(f"baselines/{module}.py: METHOD {kind!r} is not derived from Method or Derived; name one")
    try:
        return kind(**(parameters or {}))
    except UserError:
        raise
    except TypeError as error:
        raise UserError(f"method {module!r}: {error}; `apfl methods` lists its hyper-parameters") from None
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
        raise UserError(f"baselines/{module}.py: refuses its values ({problem}); correct them or the file") from None
