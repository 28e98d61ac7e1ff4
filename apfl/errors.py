"""The one exception for mistakes of the person at the keyboard."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


class UserError(Exception):
    """Bad input: one line that says what is wrong, where, and what to do.

    The command line prints it without a traceback and ends with exit status 2.
    """


def require(condition: bool, message: str) -> None:
    """Raise a `UserError` with ``message`` unless the condition holds."""
    if not condition:
        raise UserError(message)


def check_fields(
    config: object, section: str, *, at_least: Mapping[str, float] | None = None, positive: Iterable[str] = (),
    one_of: Mapping[str, Iterable[str]] | None = None,
) -> None:  # fmt: skip
    """A `UserError` unless the fields of a configuration are in their ranges, or among what is known.

    >>> from types import SimpleNamespace
    >>> check_fields(SimpleNamespace(steps=0), "feddf", at_least={"steps": 1})
    Traceback (most recent call last):
    apfl.errors.UserError: feddf.steps 0: must be at least 1
    """
    for name, least in (at_least or {}).items():
        value = getattr(config, name)
        require(value >= least, f"{section}.{name} {value}: must be at least {least}")
    for name in positive:
        value = getattr(config, name)
        require(value > 0, f"{section}.{name} {value}: must be positive")
    for name, known in (one_of or {}).items():
        value = getattr(config, name)
        require(value in known, f"{section}.{name} {value!r}: unknown; choose one of {', '.join(known)}")
