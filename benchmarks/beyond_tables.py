"""The tables of docs/beyond.md, from docs/measurements/beyond.csv: ``python -m benchmarks.beyond_tables``."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

TABLE = Path(__file__).resolve().parents[1] / "docs" / "measurements" / "beyond.csv"
FEDAVG = "FedAvg"


def measurements() -> pd.DataFrame:
    """The committed measurements, accuracies in percent, with each row's difference to FedAvg of its cell (``gain``)
    and its CPU time in units of FedAvg's (``times``)."""
    frame = pd.read_csv(TABLE, dtype={"alpha": str}, keep_default_na=False, na_values=[""])
    cell = ["part", "alpha", "seed"]
    frame[["pooled", "own"]] *= 100
    fedavg = frame[frame["variant"] == FEDAVG].set_index(cell)[["pooled", "seconds"]]
    frame = frame.join(fedavg, on=cell, rsuffix="_of_fedavg")
    frame["gain"] = frame["pooled"] - frame["pooled_of_fedavg"]
    frame["times"] = frame["seconds"] / frame["seconds_of_fedavg"]
    return frame


def rows_of(frame: pd.DataFrame, part: str):
    """(variant, base) and its rows by alpha, in the order of the file."""
    for name, group in frame[frame["part"] == part].groupby(["variant", "base"], sort=False):
        yield name, {alpha: group[group["alpha"] == alpha].sort_values("seed") for alpha in ("0.01", "0.05")}


def per_seed(values: pd.Series) -> str:
    return ", ".join(f"{value:+.1f}" for value in values)


def search_table() -> str:
    """Every variant that was tried: pooled validation accuracy less FedAvg's, seed by seed, in percentage points."""
    lines = [
        "| variant | rounds of | alpha 0.01, seeds 0, 1, 2 | alpha 0.05, seeds 0, 1, 2 | mean | own | CPU time |",
        "| --- | --- | --- | --- | ---: | ---: | ---: |",
    ]
    for (variant, base), rows in rows_of(measurements(), "validation"):
        both = pd.concat(list(rows.values()))
        own = "" if both["own"].isna().all() else f"{both['own'].mean():.1f}"
        cells = [
            variant,
            "its own" if base == variant != FEDAVG else base,
            *(per_seed(rows[alpha]["gain"]) for alpha in rows),
        ]
        cells += [f"{both['gain'].mean():+.1f}", own, "" if base == "none" else f"{both['times'].mean():.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def confirmation_table() -> str:
    """The pooled test accuracy of what was chosen, in percent: mean and deviation over seeds, and the gains."""
    lines = [
        "| variant | alpha | pooled | difference to FedAvg: seeds 3, 4, 5 | own | CPU time |",
        "| --- | --- | ---: | --- | ---: | ---: |",
    ]
    for (variant, _), rows in rows_of(measurements(), "test"):
        for alpha, group in rows.items():
            pooled, own = (f"{group[test].mean():.1f} ± {group[test].std():.1f}" for test in ("pooled", "own"))
            gain = "" if variant == FEDAVG else per_seed(group["gain"])
            lines.append(f"| {variant} | {alpha} | {pooled} | {gain} | {own} | {group['times'].mean():.2f} |")
    return "\n".join(lines)


def shown(page: str, name: str) -> str:
    """The table that a page shows between the comments of this name."""
    return page.split(f"<!-- {name} -->\n")[1].split(f"\n<!-- {name} end")[0]


if __name__ == "__main__":
    print(confirmation_table(), search_table(), sep="\n\n")
