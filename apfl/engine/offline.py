"""Code of others that is to reach nothing outside this machine."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import RLock
from typing import Any, NoReturn
from unittest.mock import patch

ONE_AT_A_TIME = RLock()
"""What one thread puts back must not be what another has put there."""
WAYS_OUT = ("connect", "connect_ex", "sendto")


class Unreachable(OSError):
    """A connection was asked for where there must be none."""


@contextmanager
def offline() -> Iterator[None]:
    """Within it, whatever looks up an address or connects to one, local sockets aside, fails with `Unreachable`."""

    def refuse(*_: object, **__: object) -> NoReturn:
        raise Unreachable("asks for a connection, which a class may not while it is made; give it a file")

    def guarded(way: str) -> Any:
        free = getattr(socket.socket, way)

        def guard(self: socket.socket, *arguments: Any) -> Any:
            inside = self.family not in (socket.AF_INET, socket.AF_INET6)
            return free(self, *arguments) if inside else refuse()

        return guard

    with ONE_AT_A_TIME, ExitStack() as patches:
        for way in WAYS_OUT:
            patches.enter_context(patch.object(socket.socket, way, guarded(way)))
        patches.enter_context(patch.object(socket, "getaddrinfo", refuse))
        yield
