"""Files that run code when they are read carelessly: each leaves the folder ``marker`` behind then."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet


class Bomb:
    """A pickle that leaves a folder behind when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def as_pickle(path: Path, marker: Path) -> None:
    path.write_bytes(pickle.dumps(Bomb(marker)))


def as_torch(path: Path, marker: Path) -> None:
    import torch

    torch.save({"embedding": Bomb(marker)}, path)


def as_objects(path: Path, marker: Path) -> None:
    """An npz with an object array under every name that a reader asks for."""
    names = "images labels class_names name source client is_train counts dropout unseen specification embedding names"
    with path.open("wb") as stream:
        np.savez(stream, **{name: np.array([Bomb(marker)], dtype=object) for name in names.split()}, allow_pickle=True)


def as_yaml(path: Path, marker: Path) -> None:
    path.write_text(f"name: !!python/object/apply:os.mkdir [{marker}]\n")


def as_template(path: Path, marker: Path) -> None:
    path.write_text(f"__use_yte__: true\nname: ?__import__('os').mkdir({str(marker)!r})\n")


def as_parquet(path: Path, marker: Path) -> None:
    """A column of pyarrow's old extension type whose description is a pickle."""
    metadata = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(Bomb(marker)),
    }
    field = pa.field("label", pa.int64(), metadata=metadata)
    pa.parquet.write_table(pa.table({"label": pa.array([0])}, schema=pa.schema([field])), path)
