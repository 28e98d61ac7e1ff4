"""Images in Parquet files, in the layout of Hugging Face."""

from __future__ import annotations

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

NAMES = ["cat", "dog", "owl"]


def encode(image: np.ndarray, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, form, lossless=True)
    return buffer.getvalue()


def write(path, images, labels, names=NAMES, columns=("img", "label"), paths=None, encoded=None) -> None:
    """One file in the layout of Hugging Face, in row groups of two."""
    encoded = [encode(image) for image in images] if encoded is None else encoded
    rows = [{"bytes": data, "path": paths[row] if paths else None} for row, data in enumerate(encoded)]
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({columns[0]: pa.array(rows, struct), columns[1]: pa.array(labels)})
    if names:
        features = {"info": {"features": {columns[1]: {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=2)
