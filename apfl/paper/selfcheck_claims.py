"""Do the printed numbers bear out what the paper's text says of them?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from apfl.paper import published
from apfl.paper.finding import Finding
from apfl.paper.labels import SEMANTICS_LABELS, dataset_label
from apfl.paper.metrics import SeedValue
from apfl.paper.published import Published
from apfl.paper.ranks import holm, rank

OURS = "AP-FL"
ASSUMED_SEEDS = (3, 5)
LEVEL = 0.05
NB = "\N{NO-BREAK SPACE}"
BOLD = {
    ("table2", "emnist", ("5", "0.1")): ("SCAFFOLD",),
    ("table2", "emnist", ("10", "0.1")): ("FedDF",),
    ("table3", "cifar100", ("10",)): ("FedAvg-FT",),
    ("table3", "cifar100", ("20",)): ("FedAvg-FT",),
}
"""The entries that are printed bold where it is not AP-FL's; Table 4 has none."""
SUMMARY_GAIN = (5.2, 9.8)
"""Points of "average accuracy gains" in a machine-made summary of the paper that is in circulation."""

Lines = dict[tuple[str, tuple[str, ...]], dict[str, Published]]


def lines(table: str) -> Lines:
    """The printed entries of each line of a table, by column."""
    found: Lines = {}
    for item in published.accuracies(table):
        found.setdefault((item.dataset, item.row), {})[item.column] = item
    return found


def _place(table: str, dataset: str, row: Sequence[str]) -> str:
    if table == "table2":
        return f"{dataset_label(dataset)}, {row[0]} clients" + (f", α = {row[1]}" if row[1] != "-" else "")
    return f"{dataset_label(dataset)}, {row[0]}{NB}% missing"


def welch(one: Published, other: Published, seeds: int) -> float:
    """Two-sided p of Welch's test from printed means and standard deviations, each over ``seeds`` seeds."""
    found = stats.ttest_ind_from_stats(one.mean, one.std, seeds, other.mean, other.std, seeds, equal_var=False)
    return float(found.pvalue)


def margins(table: str) -> pd.DataFrame:
    """AP-FL against the best other method of each line."""
    rows = []
    for (dataset, row), line in lines(table).items():
        ours, other = line[OURS], max((line[name] for name in line if name != OURS), key=lambda item: item.mean)
        rows.append(
            {
                "item": f"{_place(table, dataset, row)}: {other.column}",
                "difference": ours.mean - other.mean,
                "larger deviation": max(ours.std, other.std),
                **{f"Welch's p, {seeds} seeds": welch(ours, other, seeds) for seeds in ASSUMED_SEEDS},
            }
        )
    return pd.DataFrame(rows)


def _margin_sentence(numbers: pd.DataFrame, unit: str) -> str:
    small = int((numbers["difference"].abs() < numbers["larger deviation"]).sum())
    ahead = numbers[numbers["difference"] > 0]
    told = []
    for seeds in ASSUMED_SEEDS:
        p = numbers[f"Welch's p, {seeds} seeds"]
        corrected = pd.Series(holm(p.tolist()), index=p.index)
        told.append(
            f"with {seeds} seeds {int((p[ahead.index] < LEVEL).sum())} leads are significant at 5{NB}% by Welch's "
            f"test, {int((corrected[ahead.index] < LEVEL).sum())} after Holm's correction for {len(numbers)} {unit}"
        )
    return (
        f"AP-FL leads in {len(ahead)} of {len(numbers)} {unit}. In {small} the difference to the best other method is "
        f"smaller than the larger of the two printed standard deviations. If these are over seeds, {'; '.join(told)}. "
        "Runs that share their partitions would allow a sharper, paired test; nothing is printed for it."
    )


def table2_margins() -> Finding:
    numbers = margins("table2")
    question = "How far ahead is AP-FL in Table 2, measured by the printed deviations?"
    return Finding("table2-margins", question, _settled(numbers), _margin_sentence(numbers, "rows"), numbers)


def table3_margins() -> Finding:
    numbers = margins("table3")
    question = "How far ahead is AP-FL in Table 3, measured by the printed deviations?"
    return Finding("table3-margins", question, _settled(numbers), _margin_sentence(numbers, "columns"), numbers)


def _settled(numbers: pd.DataFrame) -> str:
    """Is every lead beyond the deviations, under each assumption?"""
    ahead = numbers[numbers["difference"] > 0]
    settled = all((ahead[f"Welch's p, {seeds} seeds"] < LEVEL).all() for seeds in ASSUMED_SEEDS)
    return "fit" if settled else "open"


def bold() -> Finding:
    """Is the best number of each line the bold one?"""
    rows = []
    for table in ("table2", "table3"):
        for (dataset, row), line in lines(table).items():
            best = max(item.mean for item in line.values())
            for name in BOLD.get((table, dataset, row), (OURS,)):
                item = f"{_place(table, dataset, row)}: {name}"
                rows.append({"item": item, "bold": line[name].mean, "best": best, "short by": best - line[name].mean})
    numbers = pd.DataFrame(rows)
    wrong = numbers[numbers["short by"] > 0]
    sentence = (
        f"All {len(numbers)} bold entries of Tables 2 and 3 are the best of their line."
        if wrong.empty
        else f"{len(wrong)} of {len(numbers)} bold entries are not the best of their line: {', '.join(wrong['item'])}."
    )
    question = "Are the bold numbers the best ones?"
    return Finding("bold", question, "fit" if wrong.empty else "misfit", sentence, numbers)


def gains() -> Finding:
    """Average gains of AP-FL, over each method and over the best of them."""
    found = lines("table2")
    others = [name for name in published.METHODS["table2"] if name != OURS]
    rows = []
    for name in others:
        gain = [line[OURS].mean - line[name].mean for line in found.values()]
        rows.append({"item": f"over {name}", "mean": np.mean(gain), "least": min(gain), "most": max(gain)})
    best = [line[OURS].mean - max(line[name].mean for name in others) for line in found.values()]
    rows.append({"item": "over the best other method", "mean": np.mean(best), "least": min(best), "most": max(best)})
    numbers = pd.DataFrame(rows)
    low, high = SUMMARY_GAIN
    within = numbers[numbers["mean"].round(1).between(low, high)]["item"].tolist()
    rows_within = sum(low <= value <= high for value in best)
    sentence = (
        "The paper's text names no average gain. A machine-made summary of it that is in circulation speaks of average "
        f"gains of {low} to {high}{NB}%. In Table 2 the mean lead over the best other method is {np.mean(best):.2f} "
        f"points, within {low} to {high} in {rows_within} of {len(best)} rows; the mean gain is in that range "
        f"{' and '.join(within) or 'over no method'}, and {numbers.iloc[0]['mean']:.1f} points over local training. "
        "Neither the 60% dropout nor the 40% faster convergence of the same summary is in any table.".replace(
            "0%", f"0{NB}%"
        )
    )
    question = "Are average gains of 5.2 to 9.8 points in the tables?"
    return Finding("summary-gains", question, "open", sentence, numbers)


def skew() -> Finding:
    """The lead of AP-FL by alpha."""
    rows = []
    for alpha in ("0.01", "0.05", "0.1", "-"):
        part = [line for (_, row), line in lines("table2").items() if row[1] == alpha]
        lead = [line[OURS].mean - max(line[name].mean for name in line if name != OURS) for line in part]
        rows.append({"item": f"α = {alpha}" if alpha != "-" else "Fashion-MNIST", "rows": len(part),
                     "mean lead": np.mean(lead), "leads": sum(value > 0 for value in lead)})  # fmt: skip
    numbers = pd.DataFrame(rows)
    means = numbers["mean lead"].tolist()[:3]
    holds = means == sorted(means, reverse=True)
    sentence = (
        f"The mean lead over the best other method is {means[0]:.2f}, {means[1]:.2f} and {means[2]:.2f} points at "
        f"α = 0.01, 0.05 and 0.1: the text's “particularly in highly heterogeneous scenarios” is "
        f"{'what the table shows' if holds else 'not what the table shows'}."
    )
    question = "Is the lead largest where labels are most skewed?"
    return Finding("lead-by-skew", question, "fit" if holds else "misfit", sentence, numbers)


def stability() -> Finding:
    """Standard deviations, and the fall of accuracy from alpha 0.1 to 0.01, of the federated methods."""
    found = lines("table2")
    names = [name for name in published.METHODS["table2"] if name != "Local"]
    places = [(dataset, clients) for dataset in ("cifar10", "cifar100", "emnist") for clients in ("5", "10")]
    falls = {
        place: {
            name: found[place[0], (place[1], "0.1")][name].mean - found[place[0], (place[1], "0.01")][name].mean
            for name in names
        }
        for place in places
    }
    rows = [
        {
            "item": name,
            "mean deviation": np.mean([line[name].std for line in found.values()]),
            "rows with the least deviation": sum(
                line[name].std == min(line[other].std for other in names) for line in found.values()
            ),
            "mean fall from α = 0.1 to 0.01": np.mean([fall[name] for fall in falls.values()]),
            "series with the least fall": sum(fall[name] == min(fall.values()) for fall in falls.values()),
        }
        for name in names
    ]
    numbers = pd.DataFrame(rows)
    ours = numbers.set_index("item").loc[OURS]
    calmer = numbers.loc[numbers["mean deviation"] < ours["mean deviation"], "item"].tolist()
    steadiest = numbers.loc[numbers["mean fall from α = 0.1 to 0.01"].idxmin(), "item"] == OURS
    sentence = (
        f"From α = 0.1 to 0.01 AP-FL loses {ours.iloc[2]:.2f} points on average, "
        f"{'the least of the federated methods' if steadiest else 'not the least of the federated methods'}, and the "
        f"least in {ours.iloc[3]:g} of {len(places)} series. Its mean printed deviation is {ours.iloc[0]:.2f} points; "
        + (f"that of {', '.join(calmer)} is smaller. " if calmer else "no other has a smaller one. ")
        + f"It is the smallest of a row in {ours.iloc[1]:g} of {len(found)} rows."
    )
    question = "Is AP-FL “more consistent and stable” than the others?"
    return Finding("stability", question, "fit" if steadiest else "open", sentence, numbers)


def against_fedavg() -> Finding:
    """Are the baselines in order? Each was published as better than FedAvg under skew."""
    found = lines("table2")
    rows = []
    for name in published.METHODS["table2"]:
        if name not in ("FedAvg", "Local", OURS):
            gain = [line[name].mean - line["FedAvg"].mean for line in found.values()]
            rows.append({"item": name, "mean difference": np.mean(gain), "rows below FedAvg": sum(x < 0 for x in gain),
                         "largest deficit": -min(gain)})  # fmt: skip
    numbers = pd.DataFrame(rows)
    worst = numbers.loc[numbers["mean difference"].idxmin()]
    sentence = (
        f"{worst['item']} is below FedAvg in {worst['rows below FedAvg']} of {len(found)} rows, by "
        f"{-worst['mean difference']:.1f} points on average and up to {worst['largest deficit']:.1f}; its authors "
        "report it above FedAvg under label skew. No baseline's settings are printed, so it cannot be told whether "
        "each was given a fair chance."
    )
    return Finding("baselines", "Are the baselines of Table 2 in order?", "open", sentence, numbers)


def printed_ranks() -> Finding:
    """Mean ranks of the printed means of Table 2, as for the reproduced ones."""
    values = {
        name: {key: (SeedValue(0, "ok", line[name].mean / 100),) for key, line in lines("table2").items()}
        for name in published.METHODS["table2"]
    }
    ranking = rank(values, "printed")
    numbers = ranking.rows.rename(columns={"method": "item", "mean_rank": "mean rank"})[["item", "mean rank"]]
    first, second = numbers.iloc[0], numbers.iloc[1]
    pair = ranking.pairs.iloc[0]
    sentence = (
        f"By mean rank over the {len(ranking.blocks)} rows {first['item']} ({first['mean rank']:.2f}) is first and "
        f"{second['item']} ({second['mean rank']:.2f}) second; Friedman's test tells the methods apart "
        f"(p = {ranking.friedman[1]:.1g}), and so does Wilcoxon's for these two (Holm's p = {pair['holm_p']:.1g}), as "
        "far as rows of one data set count as independent, which they are not."
    )
    consistent = first["item"] == OURS and bool(pair["differ"])
    question = "Is AP-FL first over the whole of Table 2?"
    return Finding("printed-ranks", question, "fit" if consistent else "open", sentence, numbers)


def semantics() -> Finding:
    """Table 4: "comparable", and "the best performance with CLIP"."""
    rows = []
    for (dataset, row), line in lines("table4").items():
        means = {name: line[name].mean for name in ("w2v", "bert", "clip")}
        role = "A_n" if row[0] == "non_dropout" else "A_d"
        rows.append({"item": f"{dataset_label(dataset)}, {role}", **{SEMANTICS_LABELS[n]: v for n, v in means.items()},
                     "spread": max(means.values()) - min(means.values()),
                     "CLIP minus best other": means["clip"] - max(means["w2v"], means["bert"])})  # fmt: skip
    numbers = pd.DataFrame(rows)
    behind = numbers[numbers["CLIP minus best other"] < 0]
    lead = gains().numbers.iloc[-1]["mean"]
    sentence = (
        f"CLIP is best in {len(numbers) - len(behind)} of {len(numbers)} columns"
        + (
            f"; not on {', '.join(behind['item'])} ({behind.iloc[0]['CLIP minus best other']:+.2f}). "
            if len(behind)
            else ". "
        )
        + f"The three embeddings lie {numbers['spread'].min():.1f} to {numbers['spread'].max():.1f} points apart "
        f"({numbers['spread'].mean():.1f} on average), which the text calls comparable; the mean lead over the best "
        f"other method in Table 2 is {lead:.1f}. Table 4 prints no deviations, and no embedding "
        "without meaning as a control."
    )
    question = "Does Table 4 show comparable embeddings with CLIP the best?"
    return Finding(
        "semantics", question, "misfit" if len(behind) or numbers["spread"].mean() > lead else "open", sentence, numbers
    )


CHECKS: tuple[Callable[[], Finding], ...] = (
    table2_margins,
    table3_margins,
    printed_ranks,
    skew,
    stability,
    gains,
    bold,
    against_fedavg,
    semantics,
)
