"""Pathological label skew: each client holds a few classes; some may be the monopoly of clients that drop out.

Section 4.1 and Table 1 of the paper. As there, the monopoly classes are the last ones, and the clients that hold them
come just before the last client: as few as can hold them all, any room left filled with common classes. No common class
is held by two clients more than another. Ten clients with two of ten classes each and two monopoly classes hold what
Table 1 prints, whatever the seed; in every other case the seed decides who holds which common classes.
"""

from __future__ import annotations

import numpy as np

from apfl.data.partitioners import Assignment, shuffled_classes
from apfl.data.setting import Setting
from apfl.errors import UserError

TABLE_1 = ((0, 1), (2, 3), (6, 7), (4, 5), (2, 4), (2, 3), (6, 7), (4, 5), (8, 9), (0, 1))


def assign(labels: np.ndarray, classes: int, setting: Setting, stream: np.random.Generator) -> Assignment:
    """Share the images; labels: int64 [N]. A class is split evenly among its clients.

    `UserError` if there are more monopoly classes, or classes a client, than the data set and the clients can give.
    """
    monopoly = monopoly_classes(classes, setting)
    dropout = dropout_clients(len(monopoly), setting)
    held = np.zeros((setting.clients, classes), bool)
    for client, labels_held in enumerate(held_classes(classes, monopoly, dropout, setting, stream)):
        held[client, list(labels_held)] = True
    client = np.full(len(labels), -1, np.int64)
    for label, positions in enumerate(shuffled_classes(labels, classes, stream)):
        holders = np.flatnonzero(held[:, label])
        if len(positions) < len(holders):
            raise UserError(
                f"setting {setting}: class {label} has {len(positions)} images for {len(holders)} clients;"
                " use more images or fewer clients"
            )
        client[positions] = holders[np.arange(len(positions)) % len(holders)]
    return Assignment(client, dropout)


def monopoly_classes(classes: int, setting: Setting) -> np.ndarray:
    """The last ``missing`` per cent of the classes, rounded to a whole number.

    >>> from apfl.data.setting import parse_setting
    >>> monopoly_classes(26, parse_setting("pathological-classes6-clients10-missing20")).tolist()
    [21, 22, 23, 24, 25]
    """
    if setting.missing is None:
        return np.arange(0)
    number = (2 * setting.missing * classes + 100) // 200
    if not 0 < number < classes:
        remedy = "raise it" if number == 0 else "lower it"
        raise UserError(
            f"setting {setting}: missing {setting.missing} % of {classes} classes is {number} of them; {remedy}"
        )
    return np.arange(classes - number, classes)


def dropout_clients(monopolies: int, setting: Setting) -> np.ndarray:
    """bool [K]: as few clients as can hold the monopoly classes, just before the last client."""
    number = -(-monopolies // setting.classes)  # type: ignore[operator]
    if number >= setting.clients:
        raise UserError(
            f"setting {setting}: {number} clients would drop out to hold {monopolies} monopoly classes, and none would"
            " remain; use more clients, more classes a client or fewer missing classes"
        )
    dropout = np.zeros(setting.clients, bool)
    dropout[setting.clients - 1 - number : setting.clients - 1] = True
    return dropout


def held_classes(
    classes: int, monopoly: np.ndarray, dropout: np.ndarray, setting: Setting, stream: np.random.Generator
) -> tuple[tuple[int, ...], ...]:
    """For each client the classes it holds, ``setting.classes`` of them, in ascending order."""
    if (classes, setting.clients, setting.classes, len(monopoly)) == (10, 10, 2, 2):
        return TABLE_1
    common = classes - len(monopoly)
    remaining = int((~dropout).sum())
    if setting.classes > common:  # type: ignore[operator]
        raise UserError(
            f"setting {setting}: a client is to hold {setting.classes} classes but only {common} are not monopoly"
            " classes; lower classes or missing"
        )
    if remaining * setting.classes < common:  # type: ignore[operator]
        raise UserError(
            f"setting {setting}: {remaining} clients cannot hold all {common} classes with {setting.classes} each;"
            " raise classes or clients"
        )
    held: dict[int, list[int]] = {int(client): [] for client in np.flatnonzero(~dropout)}
    for client, part in zip(np.flatnonzero(dropout), np.array_split(monopoly, max(1, dropout.sum())), strict=False):
        held[int(client)] = part.tolist()
    holders = np.zeros(common, np.int64)
    for own in held.values():
        # Classes that the fewest clients hold come first, so that the numbers of holders differ by one at most.
        order = np.lexsort((stream.random(common), holders))[: setting.classes - len(own)]  # type: ignore[operator]
        holders[order] += 1
        own.extend(order.tolist())
    return tuple(tuple(sorted(held[client])) for client in range(setting.clients))
