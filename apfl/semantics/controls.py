"""Embeddings that carry no meaning, or the wrong one: what CLIP must beat if semantics matter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from apfl.errors import UserError
from apfl.semantics.table import Semantics, load_table, match
from apfl.streams import numpy_stream

DIMENSION = 512
"""Of random embeddings: that of CLIP ViT-B/32."""


def onehot(class_names: Sequence[str]) -> Semantics:
    """No semantics: the identity, float32 [C, C]; every class is as far from any other."""
    names = tuple(class_names)
    return Semantics(np.eye(len(names), dtype=np.float32), names, names, {"kind": "onehot"})


def random(class_names: Sequence[str], seed: int, dimension: int = DIMENSION) -> Semantics:
    """Standard normal vectors, float32 [C, dimension]."""
    names = tuple(class_names)
    rows = numpy_stream(seed, "semantics/random").standard_normal((len(names), dimension)).astype(np.float32)
    return Semantics(rows, names, names, {"kind": "random", "seed": seed, "dimension": dimension})


def shuffled(class_names: Sequence[str], of: Path, seed: int) -> Semantics:
    """The table in the file ``of``, its rows moved so that no class has its own: real vectors, wrong classes."""
    table = match(load_table(of), class_names, str(of))
    order = derangement(len(table.names), numpy_stream(seed, "semantics/shuffled"))
    texts = tuple(table.texts[row] for row in order)
    return Semantics(table.embedding[order], table.names, texts, {"kind": "shuffled", "seed": seed, "of": table.source})


def derangement(size: int, stream: np.random.Generator) -> np.ndarray:
    """A permutation int64 [size] without fixed point, uniform among all of them (on average 2.7 draws)."""
    if size < 2:
        raise UserError("semantics shuffled: a single class cannot be shuffled; use at least 2 classes")
    while True:
        order = stream.permutation(size)
        if (order != np.arange(size)).all():
            return order
