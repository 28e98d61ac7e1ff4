"""Named random streams: every random number is a function of (seed, purpose, round, client).

A stream is derived by hashing its name, never from a global state, so a result does not depend on how clients are
grouped, in which order they run, or whether a run was interrupted.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def stream_key(seed: int, purpose: str, *, round: int = 0, client: int = -1) -> int:
    """The 63-bit key of the stream with this name.

    >>> stream_key(0, "batches", round=1, client=2) == stream_key(0, "batches", round=1, client=2)
    True
    >>> stream_key(0, "batches", round=1, client=2) == stream_key(0, "batches", round=2, client=1)
    False
    """
    name = f"apfl/{int(seed)}/{purpose}/{int(round)}/{int(client)}"
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") >> 1


def numpy_stream(seed: int, purpose: str, *, round: int = 0, client: int = -1) -> np.random.Generator:
    """A fresh NumPy generator at the start of the named stream."""
    return np.random.default_rng(stream_key(seed, purpose, round=round, client=client))


def torch_stream(
    seed: int, purpose: str, *, round: int = 0, client: int = -1, device: str | torch.device = "cpu"
) -> torch.Generator:
    """A fresh torch generator at the start of the named stream."""
    import torch

    return torch.Generator(device=device).manual_seed(stream_key(seed, purpose, round=round, client=client))
