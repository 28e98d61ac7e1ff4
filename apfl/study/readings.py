"""What the paper's text leaves open about AP-FL, as named sets of options; several are joined by ``+``.

``generator`` options go to `apfl.memorization.generator.GeneratorConfig`, ``friend`` options to the method's
hyper-parameters. The literal reading is the default of every option. One more reading, the generator trained along the
rounds, changes the federation itself and is a method: ``baselines/apfl_feedback.py``. docs/protocol.md gives the
evidence for each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from apfl.errors import UserError

READINGS: Mapping[str, Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "literal": {},
        "soft-labels": {"friend": {"friend_labels": "soft"}},
        "uniform-labels": {"friend": {"friend_distribution": "uniform"}},
        "uniform-soft-labels": {"friend": {"friend_distribution": "uniform", "friend_labels": "soft"}},
        "global-prior": {"friend": {"friend_distribution": "global"}},
        "friend-from-local": {"friend": {"friend_start": "local"}},
        "friend-from-scratch": {"friend": {"friend_start": "scratch"}},
        "beta-weighs-friend": {"friend": {"beta_weighs": "friend"}},
        "global-teacher": {"generator": {"teacher": "global"}},
        "weights-over-all": {"generator": {"class_weight": "all"}},
        "diversity-ratio": {"generator": {"diversity": "ratio"}},
        "diversity-exp": {"generator": {"diversity": "exp"}},
        # As many steps as with the paper's 600 samples per class, however many there are.
        "equal-steps": {"friend": {"steps_as_with": 600}, "generator": {"steps_as_with": 600}},
    }
)
LITERAL: Mapping[str, Any] = MappingProxyType(
    {
        "friend_labels": "hard",
        "friend_distribution": "own",
        "friend_start": "global",
        "beta_weighs": "local",
        "teacher": "clients",
        "class_weight": "class",
        "diversity": "paper",
        "steps_as_with": 0,
    }
)
"""Every option that a reading may change, as the literal reading has it."""


def reading(name: str, where: str = "apfl.readings") -> dict[str, dict[str, Any]]:
    """The options of a reading, or of several that are joined by ``+`` and do not contradict each other.

    ``where`` is the field that errors name.

    >>> reading("uniform-labels+global-teacher")
    {'friend': {'friend_distribution': 'uniform'}, 'generator': {'teacher': 'global'}}
    """
    chosen: dict[str, dict[str, Any]] = {}
    for part in name.split("+"):
        if part not in READINGS:
            known = ", ".join(READINGS)
            raise UserError(
                f"{where} {name!r}: unknown reading{f' {part!r}' if part != name else ''}; choose from {known}, "
                "or join several by +"
            )
        for kind, options in READINGS[part].items():
            for option, value in options.items():
                if chosen.setdefault(kind, {}).setdefault(option, value) != value:
                    raise UserError(f"{where} {name!r}: its parts contradict each other in {option}; leave one out")
    return chosen


def options_of(name: str, where: str = "apfl.readings") -> dict[str, Any]:
    """Every option in a reading, those of the literal one included, in the order of `LITERAL`; see `reading`.

    >>> options_of("soft-labels")["friend_labels"], options_of("soft-labels")["teacher"]
    ('soft', 'clients')
    """
    chosen = reading(name, where)
    return dict(LITERAL) | chosen.get("friend", {}) | chosen.get("generator", {})


def check_distinct(names: Iterable[str], where: str = "apfl.readings") -> None:
    """Refuse two names for the same options: what they name would be trained twice."""
    seen: dict[tuple[tuple[str, Any], ...], str] = {}
    for name in names:
        if (other := seen.setdefault(tuple(options_of(name, where).items()), name)) != name:
            raise UserError(f"{where} {name!r}: has the same options as {other!r}; leave one out")
