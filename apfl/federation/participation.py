"""Which clients take part in a synchronous round, where the server draws some of them.

``number`` clients are drawn without replacement by systematic sampling from a random order (Madow 1949, "On the theory
of systematic sampling, II"), so that client k is among them with probability exactly

    pi_k = number / N                  uniform
    pi_k = min(1, c n_k), sum = number    by size

and counts n_k / pi_k in a mean that weighs clients by their n_k images: uniform sampling leaves the weights of Eq. 2 to
those who are there, as McMahan et al. (2017) do; by size all who are drawn count alike, as in the first scheme of
Li et al. (2020), "On the convergence of FedAvg on non-IID data", but for clients so large that they are always drawn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from apfl.federation.method import Method
    from apfl.federation.problem import Problem


def number_drawn(wanted: float | None, clients: int) -> int:
    """How many of so many clients are drawn: a fraction of them, at least one, or a whole number; all without either.

    >>> number_drawn(10, 50), number_drawn(0.1, 50), number_drawn(0.01, 50), number_drawn(10, 4), number_drawn(None, 4)
    (10, 5, 1, 4, 4)
    """
    if wanted is None:
        return clients
    return min(clients, int(wanted) if wanted >= 1 else max(1, int(wanted * clients + 0.5)))


def always_drawn(sizes: np.ndarray, number: int) -> np.ndarray:
    """bool [N], true for the clients whose share of the ``sizes`` (int64 [N]) is so large that pi_k is 1."""
    sure = np.zeros(len(sizes), bool)
    while left := number - int(sure.sum()):
        further = ~sure & (sizes * left >= sizes[~sure].sum())
        if not further.any():
            break
        sure |= further
    return sure


def inclusion(sizes: np.ndarray, number: int) -> np.ndarray:
    """pi [N], float64: how likely each client is drawn if that is in proportion to ``sizes``, int64 [N], above 0."""
    sure = always_drawn(sizes, number)
    rest, left = sizes[~sure].sum(), number - sure.sum()
    return np.where(sure, 1.0, sizes * left / max(rest, 1))


def draw(sizes: np.ndarray, number: int, stream: np.random.Generator) -> np.ndarray:
    """Ascending positions of the clients drawn, each with the probability that `inclusion` has.

    In a random order client k takes n_k of the line; every (sum / number)-th point of it, from a random one on, draws
    the client that it lies in. All is in whole numbers, so no client is drawn twice and none too few.
    """
    sure = always_drawn(sizes, number)
    others = stream.permutation(np.flatnonzero(~sure))
    left, total = number - int(sure.sum()), int(sizes[others].sum())
    points = int(stream.integers(max(total, 1))) + total * np.arange(left)
    found = np.searchsorted(np.cumsum(sizes[others]) * left, points, side="right")
    return np.sort(np.concatenate([np.flatnonzero(sure), others[found]]))


def last_rounds(method: Method, problem: Problem, round: int) -> dict[int, int]:
    """By client, the last round up to ``round`` in which it took part; clients that never did are not there."""
    last: dict[int, int] = {}
    clients = set(method.clients(problem))
    for number in range(round, 0, -1):
        last = {client: number for client in method.clients_of_round(problem, number)} | last
        if last.keys() >= clients:
            break
    return last
