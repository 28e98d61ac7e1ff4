"""The tidy table that a run's accuracies go into."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from apfl.storage.tables import write_parquet

if TYPE_CHECKING:
    import pyarrow as pa


COLUMNS = (
    "dataset", "setting", "method", "semantics", "reading", "seed", "round", "virtual_time", "client", "client_role",
    "model", "test", "accuracy", "loss", "samples", "train_samples",
)  # fmt: skip
FOLLOWED = "metrics.csv"
"""In a run's folder while it trains."""
NUMBERS: dict[str, type[np.number]] = dict.fromkeys(("seed", "round", "client", "samples", "train_samples"), np.int64)


def metrics_frame(rows: list[dict[str, Any]], **identity: Any) -> pa.Table:
    """The rows as the metrics table of a run; ``identity`` gives dataset, setting, method, semantics, reading and
    seed.

    The table is Arrow's, made of buffers: importing pandas, as ``pyarrow.array`` does, takes longer than many a short
    job trains.
    """
    import pyarrow as pa

    whole = [identity | row for row in rows]
    return pa.table({name: _column([row[name] for row in whole], NUMBERS.get(name)) for name in COLUMNS})


def write_metrics(path: str | os.PathLike[str], rows: list[dict[str, Any]], **identity: Any) -> None:
    """Write a run's metrics table, as `metrics_frame` makes it."""
    write_parquet(path, metrics_frame(rows, **identity))


class Followed:
    """The rows of a run that is at work, as CSV with the columns of its metrics table: whoever follows it sees whole
    rounds, as each is added in one piece. ``identity`` is that of `metrics_frame`."""

    def __init__(self, path: Path, **identity: Any) -> None:
        self.path, self.identity, self.known = path, identity, 0
        path.unlink(missing_ok=True)

    def tell(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add those of ``rows``, which grow from call to call, that have not been told."""
        new, self.known = rows[self.known :], len(rows)
        if new:
            text = io.StringIO()
            table = csv.writer(text, lineterminator="\n")
            table.writerows([] if self.path.exists() else [COLUMNS])
            table.writerows([(self.identity | dict(row))[name] for name in COLUMNS] for row in new)
            with self.path.open("a", encoding="utf-8", newline="") as stream:
                stream.write(text.getvalue())


def _column(values: list[Any], kind: type[np.number] | None) -> pa.Array:
    """Numbers of this kind, or texts."""
    import pyarrow as pa

    if kind is not None:
        numbers = pa.py_buffer(np.array(values, kind))
        return pa.Array.from_buffers(pa.from_numpy_dtype(kind), len(values), [None, numbers])
    texts = [value.encode() for value in values]
    ends = np.cumsum([0, *map(len, texts)], dtype=np.int64)
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(b"".join(texts))]
    return pa.Array.from_buffers(pa.large_string(), len(texts), buffers)
