"""Several federations side by side, so that what all of them train between two server updates is one stack.

A federation is a plain sequence: train, merge, evaluate, and again. `side_by_side` runs each one in a thread of its
own, but never two at a time: a thread goes on until its federation asks for training, and then the next one has its
turn. When all have asked, everything is trained at once (`apfl.engine.stack`), and they go on. So no federation knows
of the others, and each is the mathematics that it is alone.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeVar

from apfl.engine.stack import attempt_stack
from apfl.engine.work import Diverged, Result, Work
from apfl.federation.problem import STACKS, CarryOut, Problem, task_of

T = TypeVar("T")

LANE = "federation"
"""The name of the threads."""
PATIENCE = 10.0
"""Seconds that a federation has to end, when all are to."""


class Abandoned(BaseException):
    """What ends a federation in the middle when the process is to end."""


@dataclass(frozen=True)
class Asked:
    """Work that a federation wants to be trained, each piece with its round."""

    problem: Problem
    work: Sequence[tuple[Work, int]]


def side_by_side(federations: Sequence[Callable[[CarryOut], T]]) -> list[T]:
    """What the federations return, in their order; each is called with a `CarryOut` to train by.

    Their problems are of one network. If one fails the others go on, and the first failure is raised when they have
    ended.
    """
    lanes = [_Lane(federation, len(federations)) for federation in federations]
    try:
        asking = [lane for lane in lanes if lane.turn(None)]
        while asking:
            asking = _answered(asking)
    except BaseException:
        for lane in lanes:
            lane.abandon()
        raise
    return [lane.result() for lane in lanes]


def _answered(asking: Sequence[_Lane[T]]) -> list[_Lane[T]]:
    """The lanes that ask again, after all have had what they asked for."""
    answers = _trained([lane.asked for lane in asking])  # type: ignore[misc]
    return [lane for lane, answer in zip(asking, answers, strict=True) if lane.turn(answer)]


def _trained(requests: Sequence[Asked]) -> list[tuple[Result, ...] | Diverged]:
    """For each federation its results, or the first of its models that diverged."""
    tasks = [[task_of(asked.problem, *piece) for piece in asked.work] for asked in requests]
    first = requests[0].problem
    outcomes = iter(attempt_stack(first.model, [task for own in tasks for task in own], first.engine))
    answers: list[tuple[Result, ...] | Diverged] = []
    for own in tasks:
        results = tuple(next(outcomes) for _ in own)
        answers.append(next((one for one in results if isinstance(one, Diverged)), results))  # type: ignore[arg-type]
    return answers


class _Lane(Generic[T]):
    """A federation in a thread that waits whenever it is not its turn; one of ``lanes``."""

    def __init__(self, federation: Callable[[CarryOut], T], lanes: int) -> None:
        self.federation, self.lanes = federation, lanes
        self.asked: Asked | None = None
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._outbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._value: T = None  # type: ignore[assignment]
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=LANE, daemon=True)
        self._thread.start()

    def turn(self, answer: Any) -> bool:
        """Let it go on with an answer to what it asked (a first turn answers nothing); false if it has ended."""
        self._inbox.put(answer)
        self.asked = self._outbox.get()
        return self.asked is not None

    def result(self) -> T:
        if self._error is not None:
            raise self._error
        return self._value

    def abandon(self) -> None:
        """End it the next time that it asks; half-written files are removed on the way."""
        self._inbox.put(Abandoned())
        self._thread.join(PATIENCE)

    def _run(self) -> None:
        try:
            self._answer()
            self._value = self.federation(self._carry_out)
        except BaseException as error:  # for whoever asks for the result
            self._error = error
        self._outbox.put(None)

    def _answer(self) -> Any:
        answer = self._inbox.get()
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _carry_out(self, problem: Problem, work: Iterable[tuple[Work, int]]) -> Iterator[Result]:
        # In pieces, so that all lanes together hold no more results at a time than one that has the device for itself.
        work, most = iter(work), max(1, STACKS * problem.engine.stack // self.lanes)
        while piece := list(islice(work, most)):
            self._outbox.put(Asked(problem, piece))
            yield from self._answer()
