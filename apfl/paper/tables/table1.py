"""Table 1: which classes each client holds, as printed and as the study's partition has it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from apfl.data.setting import parse_setting
from apfl.errors import UserError
from apfl.paper import published
from apfl.paper.labels import dataset_label
from apfl.paper.tables.layout import Entry, Group, Panel, Section, Table, TableLine
from apfl.storage.files import read_npz
from apfl.study.cells import Cell
from apfl.study.outputs import OUTPUTS

COLUMNS = (
    "client", "published_classes", "published_monopoly", "dataset", "setting", "seed", "reproduced_classes",
    "reproduced_dropout", "status",
)  # fmt: skip
Devices = Mapping[int, published.Device]
"""By client."""


def build(cell: Cell, results: str | Path, partial: bool = False, paper: bool = True) -> Table:
    """Table 1 from the study's cell of it, whose only run is the first seed's partition (relative to ``results``).

    Beside the ``paper`` it must have as many clients; without it the partition stands there alone.
    """
    path = Path(results) / cell.runs[0]
    if not path.is_file() and not partial:
        raise UserError(
            f"partition {cell.runs[0]}: not there under {results}; make it with `apfl partition`, or add --partial"
        )
    found = _devices(path) if path.is_file() else {}
    printed = {device.client: device for device in published.table1()} if paper else {}
    if found and printed and len(found) != len(printed):
        raise UserError(f"partition {path}: has {len(found)} clients where Table 1 has {len(printed)}; make it again")
    clients = tuple(printed or found or range(parse_setting(cell.setting).clients))
    rows = pd.DataFrame([_row(cell, client, printed, found) for client in clients], columns=list(COLUMNS))
    ours = tuple(_entry(found[client]) if found else Entry("not run") for client in clients)
    lines = [TableLine("published", tuple(map(_entry, printed.values())))] if paper else []
    lines.append(TableLine(f"{dataset_label(cell.dataset)}, seed {cell.seeds[0]}", ours))
    columns = tuple(map(str, clients))
    panel = Panel("", columns, (Section("", (Group("classes", tuple(lines)),)),), corner="client")
    shown = rows if paper else rows.drop(columns=[name for name in COLUMNS if name.startswith("published")])
    return Table(OUTPUTS["table1"].shown(paper), (panel,), _note(printed, found), shown)


def _row(cell: Cell, client: int, printed: Devices, found: Devices) -> dict[str, Any]:
    theirs, ours = printed.get(client), found.get(client)
    return {
        "client": client,
        "published_classes": " ".join(map(str, theirs.classes)) if theirs else "",
        "published_monopoly": theirs.monopoly if theirs else "",
        "dataset": cell.dataset,
        "setting": cell.setting,
        "seed": cell.seeds[0],
        "reproduced_classes": " ".join(map(str, ours.classes)) if ours else "",
        "reproduced_dropout": ours.monopoly if ours else "",
        "status": "ok" if ours else "not run",
    }


def _devices(path: Path) -> dict[int, published.Device]:
    arrays = read_npz(path, "partition", ("counts", "dropout"))
    held, dropout = np.asarray(arrays["counts"]) > 0, arrays["dropout"].astype(bool)
    return {
        client: published.Device(client, tuple(int(label) for label in np.flatnonzero(row)), bool(dropout[client]))
        for client, row in enumerate(held)
    }


def _entry(device: published.Device) -> Entry:
    classes = ", ".join(map(str, device.classes))
    return Entry(f"[{classes}]" if device.monopoly else classes)


def _note(printed: Devices, found: Devices) -> tuple[str, ...]:
    if not found:
        return ("The partition has not been made.",)
    if not printed:
        return ()
    differing = [str(client) for client, device in printed.items() if found[client] != device]
    differs = f"differs at client {', '.join(differing)}" if differing else "is the printed one"
    return (f"The partition {differs}.",)
