"""The one exception for mistakes of the person at the keyboard."""

from __future__ import annotations


class UserError(Exception):
    """Bad input: one line that says what is wrong, where, and what to do.

    The command line prints it without a traceback and ends with exit status 2.
    """


def require(condition: bool, message: str) -> None:
    """Raise a `UserError` with ``message`` unless the condition holds."""
    if not condition:
        raise UserError(message)
