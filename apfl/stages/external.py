"""``apfl accept``: a run from what a foreign program has measured, once that is checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from apfl.data.dataset import load_dataset
from apfl.data.partition import Partition, check_match, load_partition
from apfl.errors import UserError, require
from apfl.registry.cards import MODELS
from apfl.stages.problem import Inputs
from apfl.stages.record import identity
from apfl.stages.specification import Specification
from apfl.storage.files import first_line, require_file, sha256_file
from apfl.storage.locks import alone_in
from apfl.storage.metrics_table import write_metrics
from apfl.storage.provenance import provenance
from apfl.storage.run_folder import Record, finished, write_run
from apfl.storage.tables import read_parquet
from apfl.storage.tensors import write_tensors

if TYPE_CHECKING:
    import pandas as pd

NEEDED = ("round", "client", "test", "accuracy")
"""What a program must write; the other columns of a run's metrics are filled in."""
KNOWN = (*NEEDED, "model", "loss", "virtual_time")
WHOLE, TEXTS = ("round", "client"), ("test", "model")


def accept(specification: Specification, inputs: Inputs, out: Path, metrics: Path, model: str, code: str) -> None:
    """Write a program's ``metrics`` (CSV or Parquet) as a run to ``out``; a `UserError` if something is wrong in them.

    ``model`` is the role of its models where the table names none; ``code`` stands for the program.
    """
    specification.require("method")
    given = {"data": inputs.data, "partition": inputs.partition, "metrics": metrics}
    hashes = {name: sha256_file(require_file(path, name)) for name, path in given.items()}
    record = Record("external", specification.json(), hashes, code)
    if finished(out, record):
        return
    dataset, partition = load_dataset(inputs.data), load_partition(inputs.partition)
    check_match(dataset, partition)
    rows = completed(_read(metrics), dataset.labels, partition, specification, model, f"metrics {metrics}")
    with alone_in(out):
        files = {
            "metrics.parquet": lambda path: write_metrics(path, rows, **identity(record)),
            "state.safetensors": lambda path: write_tensors(path, {}, {}),
        }
        write_run(out, record, files, lambda: {"status": "finished", **provenance()})
    print(f"{out}: {len(rows)} rows of {metrics} are in order")


def _read(path: Path) -> pd.DataFrame:
    import pandas as pd

    if path.suffix == ".parquet":
        return read_parquet(path, "metrics", NEEDED)
    try:
        frame = pd.read_csv(path)
    except Exception as error:  # pandas raises many kinds
        raise UserError(f"metrics {path}: cannot be read ({first_line(error)}); write CSV") from None
    if missing := [name for name in NEEDED if name not in frame.columns]:
        raise UserError(f"metrics {path}: has no column {missing[0]!r}; write {', '.join(NEEDED)}")
    return frame


def completed(
    frame: pd.DataFrame, labels: np.ndarray, partition: Partition, specification: Specification, model: str, where: str
) -> list[dict[str, Any]]:
    """The rows of a run's metrics from those of a program, each with its client's role and the number of its images.

    A `UserError` for rows that cannot be right, that are there twice, or that are missing in the last round.
    """
    rounds = int(specification.training["rounds"])
    if unknown := sorted({str(name) for name in frame.columns} - {*KNOWN}):
        raise UserError(f"{where}: column {unknown[0]!r} is unknown; write {', '.join(KNOWN)}")
    samples = counted(labels, partition)
    for name in (name for name in KNOWN if name in frame.columns and name not in TEXTS):
        kinds, what = ("iu", "whole numbers") if name in WHOLE else ("iuf", "numbers")
        require(
            frame[name].dtype.kind in kinds, f"{where}: column {name!r} holds something other than {what}; correct it"
        )
    for name in (name for name in TEXTS if name in frame.columns):
        texts = all(isinstance(value, str) for value in frame[name])
        require(texts, f"{where}: column {name!r} holds something other than text; correct it")
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for number, row in enumerate(frame.to_dict("records"), start=1):
        role = row.get("model", model)
        key = (row["round"], row["client"], role, row["test"])
        place = f"{where}: row {number}"
        require(1 <= row["round"] <= rounds, f"{place}: round {row['round']}: is not 1 to {rounds}; correct it")
        require(0 <= row["client"] < partition.clients, f"{place}: there is no client {row['client']}; correct it")
        require(role in MODELS, f"{place}: model {role!r}: unknown; choose one of {', '.join(MODELS)}")
        require(
            (row["client"], row["test"]) in samples,
            f"{place}: client {row['client']} has no images of the test {row['test']!r}; use pooled, own or monopoly",
        )
        require(0 <= row["accuracy"] <= 1, f"{place}: accuracy {row['accuracy']}: is not 0 to 1; correct it")
        require(key not in rows, f"{place}: round, client, model and test are those of another row; remove one")
        rows[key] = {
            "round": row["round"],
            "virtual_time": float(row.get("virtual_time", row["round"])),
            "client": row["client"],
            "client_role": "dropout" if partition.dropout[row["client"]] else "non_dropout",
            "model": role,
            "test": row["test"],
            "accuracy": float(row["accuracy"]),
            "loss": float(row.get("loss", np.nan)),
            "samples": samples[row["client"], row["test"]],
            "train_samples": int(partition.counts[row["client"]].sum()),
        }
    for client, test in samples:
        if (rounds, client, model, test) not in rows and partition.counts[client].sum():
            raise UserError(
                f"{where}: round {rounds} has no row of client {client}, model {model!r}, test {test!r}; evaluate "
                "every client after the last round"
            )
    return list(rows.values())


def counted(labels: np.ndarray, partition: Partition) -> Mapping[tuple[int, str], int]:
    """How many images each client has in each test, where there are any."""
    tests = {client: partition.test(client) for client in range(partition.clients)}
    pooled = sum(map(len, tests.values()))
    found: dict[tuple[int, str], int] = {}
    for client, images in tests.items():
        monopoly = int(partition.unseen[labels[images]].sum()) if partition.dropout[client] else 0
        found |= {(client, "pooled"): pooled, (client, "own"): len(images), (client, "monopoly"): monopoly}
    return {key: count for key, count in found.items() if count}
