"""Embeddings that come with the project: all-MiniLM-L6-v2 of the class names of every data set.

A sentence model of six layers in BERT's architecture (Wang et al., "MiniLM: deep self-attention distillation for
task-agnostic compression of pre-trained transformers", 2020; 384 dimensions), so that a study needs no download. The
table is keyed by text and was computed by ``python -m apfl.semantics.make_minilm``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from apfl.errors import UserError
from apfl.semantics.table import Semantics, class_texts
from apfl.storage.files import read_npz

TABLE = Path(__file__).with_name("minilm.npz")


def packaged(class_names: Sequence[str]) -> Semantics:
    """Rows of the packaged table, float32 [C, 384]; `UserError` for a class name that it does not have."""
    arrays = read_npz(TABLE, "packaged embeddings", ("embedding", "texts"))
    place = {str(text): row for row, text in enumerate(arrays["texts"])}
    texts = class_texts(class_names)
    if unknown := [text for text in texts if text not in place]:
        raise UserError(
            f"semantics packaged: no embedding of {', '.join(unknown[:5])}; use another source, or add the names"
            " to minilm.json and run python -m apfl.semantics.make_minilm"
        )
    rows = arrays["embedding"][[place[text] for text in texts]].astype(np.float32)
    return Semantics(rows, tuple(class_names), texts, {"kind": "packaged", "model": "all-MiniLM-L6-v2"})
