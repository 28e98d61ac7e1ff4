"""Table 1: which classes each client holds, as printed and as the study's partition has it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from apfl.errors import UserError
from apfl.paper import published
from apfl.paper.labels import dataset_label
from apfl.paper.tables.layout import Entry, Group, Panel, Section, Table, TableLine
from apfl.storage.files import read_npz
from apfl.study.outputs import OUTPUTS

if TYPE_CHECKING:
    from apfl.study.cells import Cell

COLUMNS = (
    "client",
    "published_classes",
    "published_monopoly",
    "dataset",
    "setting",
    "seed",
    "reproduced_classes",
    "reproduced_dropout",
    "status",
)


def build(cell: Cell, results: str | Path, partial: bool = False) -> Table:
    """Table 1 from the study's cell of it, whose only run is the first seed's partition (relative to ``results``)."""
    path = Path(results) / cell.runs[0]
    if not path.is_file() and not partial:
        raise UserError(
            f"partition {cell.runs[0]}: not there under {results}; make it with `apfl partition`, or add --partial"
        )
    found = _devices(path) if path.is_file() else {}
    rows = pd.DataFrame(
        [
            {
                "client": device.client,
                "published_classes": " ".join(map(str, device.classes)),
                "published_monopoly": device.monopoly,
                "dataset": cell.dataset,
                "setting": cell.setting,
                "seed": cell.seeds[0],
                "reproduced_classes": " ".join(map(str, found[device.client].classes)) if found else "",
                "reproduced_dropout": found[device.client].monopoly if found else "",
                "status": "ok" if found else "not run",
            }
            for device in published.table1()
        ],
        columns=list(COLUMNS),
    )
    printed = TableLine("published", tuple(_entry(device) for device in published.table1()))
    name = f"{dataset_label(cell.dataset)}, seed {cell.seeds[0]}"
    ours = TableLine(
        name, tuple(_entry(found[device.client]) if found else Entry("not run") for device in published.table1())
    )
    columns = tuple(str(device.client) for device in published.table1())
    panel = Panel("", columns, (Section("", (Group("classes", (printed, ours)),)),), corner="client")
    return Table(OUTPUTS["table1"], (panel,), _note(found), rows)


def _devices(path: Path) -> dict[int, published.Device]:
    arrays = read_npz(path, "partition", ("counts", "dropout"))
    held, dropout = np.asarray(arrays["counts"]) > 0, arrays["dropout"].astype(bool)
    if len(held) != len(published.table1()):
        raise UserError(
            f"partition {path}: has {len(held)} clients where Table 1 has {len(published.table1())}; make it again"
        )
    return {
        client: published.Device(client, tuple(int(label) for label in np.flatnonzero(row)), bool(dropout[client]))
        for client, row in enumerate(held)
    }


def _entry(device: published.Device) -> Entry:
    classes = ", ".join(map(str, device.classes))
    return Entry(f"[{classes}]" if device.monopoly else classes)


def _note(found: dict[int, published.Device]) -> tuple[str, ...]:
    if not found:
        return ("The partition has not been made.",)
    differing = [str(device.client) for device in published.table1() if found[device.client] != device]
    return (
        "The partition is the printed one."
        if not differing
        else f"The partition differs at client {', '.join(differing)}.",
    )
