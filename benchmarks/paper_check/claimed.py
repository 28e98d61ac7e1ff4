"""Do the printed numbers bear out what the paper's text says of them?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import stats

from apfl.paper.labels import SEMANTICS_LABELS
from apfl.paper.numbers.intervals import holm
from benchmarks.paper_check.finding import DIGITS, OURS, Finding, in_words, outcome, printed

ASSUMED_SEEDS = (3, 5)
LEVEL = 0.05
BOLD = {
    ("table2", "emnist", "5", "0.1"): "SCAFFOLD",
    ("table2", "emnist", "10", "0.1"): "FedDF",
    ("table3", "cifar100", "10"): "FedAvg-FT",
    ("table3", "cifar100", "20"): "FedAvg-FT",
}
"""The entries that are printed bold where it is not AP-FL's; Table 4 has none."""
SUMMARY_GAIN = (5.2, 9.8)
"""Points of "average accuracy gains" in a machine-made summary of the paper that is in circulation."""


def findings() -> Iterator[Finding]:
    yield significance("table2", "rows")
    yield significance("table3", "columns")
    yield printed_ranks()
    yield skew()
    yield stability()
    yield gains()
    yield bold(BOLD)
    yield against_fedavg()
    yield semantics()


def leads() -> pd.DataFrame:
    """AP-FL minus each other method and minus the best of them in Table 2, in points [rows, methods]."""
    means = printed("table2")
    others = means.drop(columns=OURS)
    others["the best other method"] = others.max(axis=1)
    return others.rsub(means[OURS], axis=0).round(DIGITS)


def margins(table: str) -> pd.DataFrame:
    """AP-FL against the best other method of each row."""
    means, deviations = printed(table), printed(table, "std")
    best = means.drop(columns=OURS).idxmax(axis=1)
    other = pd.DataFrame([(means[name][row], deviations[name][row]) for row, name in best.items()], best.index)
    ours = means[OURS], deviations[OURS]
    numbers = {"difference": ours[0] - other[0], "larger deviation": other[1].clip(lower=ours[1])}
    for seeds in ASSUMED_SEEDS:
        numbers[f"Welch's p, {seeds} seeds"] = welch(*ours, other[0], other[1], seeds)
    found = in_words(pd.DataFrame(numbers).round(DIGITS))
    return found.set_axis([f"{item}: {name}" for item, name in zip(found.index, best, strict=True)])


def welch(mean: pd.Series, std: pd.Series, other_mean: pd.Series, other_std: pd.Series, seeds: int) -> pd.Series:
    """Two-sided p of Welch's test from printed means and standard deviations, each over ``seeds`` seeds."""
    return stats.ttest_ind_from_stats(mean, std, seeds, other_mean, other_std, seeds, equal_var=False).pvalue


def significance(table: str, unit: str) -> Finding:
    numbers = margins(table)
    ahead = numbers["difference"] > 0
    small = numbers["difference"].abs() < numbers["larger deviation"]
    told, settled = [], True
    for seeds in ASSUMED_SEEDS:
        p = numbers[f"Welch's p, {seeds} seeds"]
        corrected = pd.Series(holm(p.to_numpy()), p.index)
        settled &= (p[ahead] < LEVEL).all()
        told.append(
            f"with {seeds} seeds {(p[ahead] < LEVEL).sum()} leads are significant at 5 % by Welch's test, and "
            f"{(corrected[ahead] < LEVEL).sum()} after Holm's correction for {len(numbers)} {unit}"
        )
    sentence = (
        f"AP-FL leads in {ahead.sum()} of {len(numbers)} {unit}. In {small.sum()} {unit} the difference to the best "
        "other method is smaller than the larger of the two printed standard deviations. If these are over seeds, "
        f"{'; '.join(told)}. Runs that share their partitions would allow a sharper, paired test, but the paper prints "
        "nothing for it."
    )
    question = f"How far ahead is AP-FL in Table {table[-1]}, measured by the printed deviations?"
    return Finding(f"{table}-margins", question, "fit" if settled else "open", sentence, numbers)


def printed_ranks() -> Finding:
    """Mean ranks of the printed means of Table 2, as for the reproduced ones."""
    means = printed("table2")
    ranks = means.rank(axis=1, ascending=False).mean().sort_values(kind="stable")
    friedman = stats.friedmanchisquare(*(means[name] for name in means)).pvalue
    pairs = [(means[one] - means[other]).round(DIGITS) for one, other in combinations(ranks.index, 2)]
    pair = holm(np.array([stats.wilcoxon(differences).pvalue for differences in pairs]))[0]
    (first, second), (rank, next_rank) = ranks.index[:2], ranks.iloc[:2]
    sentence = (
        f"By mean rank over the {len(means)} rows, {first} ({rank:.2f}) is first and {second} ({next_rank:.2f}) "
        f"second. Friedman's test tells the methods apart (p = {friedman:.1g}), and Wilcoxon's tells these two apart "
        f"(Holm's p = {pair:.1g}). Both tests treat rows of one data set as independent, which they are not."
    )
    consistent = first == OURS and pair < LEVEL
    question = "Is AP-FL first over the whole of Table 2?"
    return Finding("printed-ranks", question, "fit" if consistent else "open", sentence, ranks.to_frame("mean rank"))


def skew() -> Finding:
    """The lead of AP-FL by alpha."""
    lead = leads()["the best other method"].groupby("alpha")
    found = pd.DataFrame(
        {"rows": lead.size(), "mean lead": lead.mean(), "leads": lead.agg(lambda part: (part > 0).sum())}
    )
    numbers = found.loc[["0.01", "0.05", "0.1", "-"]].round(DIGITS)
    means = numbers["mean lead"].tolist()[:3]
    holds = means == sorted(means, reverse=True)
    sentence = (
        f"The mean lead over the best other method is {means[0]:.2f}, {means[1]:.2f} and {means[2]:.2f} points at "
        f"α = 0.01, 0.05 and 0.1. This {'bears out' if holds else 'does not bear out'} the text's “particularly in "
        "highly heterogeneous scenarios”."
    )
    numbers = numbers.rename(lambda alpha: "Fashion-MNIST" if alpha == "-" else f"α = {alpha}")
    return Finding(
        "lead-by-skew", "Is the lead largest where labels are most skewed?", outcome(not holds), sentence, numbers
    )


def stability() -> Finding:
    """Standard deviations, and the fall of accuracy from alpha 0.1 to 0.01, of the federated methods."""
    means, deviations = (printed("table2", value).drop(columns="Local") for value in ("mean", "std"))
    falls = (means.xs("0.1", level="alpha") - means.xs("0.01", level="alpha")).round(DIGITS)
    numbers = pd.DataFrame(
        {
            "mean deviation": deviations.mean(),
            "rows with the least deviation": deviations.eq(deviations.min(axis=1), axis=0).sum(),
            "mean fall from α = 0.1 to 0.01": falls.mean(),
            "series with the least fall": falls.eq(falls.min(axis=1), axis=0).sum(),
        }
    ).round(DIGITS)
    deviation, steady, fall, least = numbers.loc[OURS]
    calmer = numbers.index[numbers["mean deviation"] < deviation]
    steadiest = numbers["mean fall from α = 0.1 to 0.01"].idxmin() == OURS
    sentence = (
        f"From α = 0.1 to 0.01 AP-FL loses {fall:.2f} points on average. This is {'' if steadiest else 'not '}the "
        f"least of the federated methods; AP-FL loses the least in {least:g} of {len(falls)} series. Its printed "
        f"standard deviation is {deviation:.2f} points on average, more than that of "
        f"{' and '.join(calmer) or 'no other'}, and the smallest of its row in {steady:g} of {len(deviations)} rows."
    )
    question = "Is AP-FL “more consistent and stable” than the others?"
    return Finding("stability", question, "fit" if steadiest else "open", sentence, numbers)


def gains() -> Finding:
    """Average gains of AP-FL, over each method and over the best of them."""
    found = leads()
    numbers = found.agg(["mean", "min", "max"]).T.round(DIGITS).set_axis(["mean", "least", "most"], axis=1)
    low, high = SUMMARY_GAIN
    within = numbers.index[numbers["mean"].round(1).between(low, high)]
    best = found["the best other method"]
    sentence = (
        "The paper's text names no average gain. A machine-made summary of it that is in circulation speaks of average "
        f"gains of {low} to {high} %. In Table 2 the mean lead over the best other method is {best.mean():.2f} points, "
        f"and the lead is within {low} to {high} in {best.between(low, high).sum()} of {len(best)} rows. Rounded as "
        f"that range is, the mean gain is in it over {' and over '.join(within) or 'no method'}; over local training "
        f"it is {numbers['mean']['Local']:.1f} points. Neither the 60 % dropout nor the 40 % faster convergence of the "
        "same summary is in any table."
    )
    question = "Are average gains of 5.2 to 9.8 points in the tables?"
    return Finding("summary-gains", question, "open", sentence, numbers.rename("over {}".format))


def bold(names: Mapping[tuple[str, ...], str]) -> Finding:
    """Is the best number of each line the bold one? ``names``: who is bold where it is not AP-FL."""
    parts = []
    for table in ("table2", "table3"):
        means = printed(table)
        part = in_words(means.max(axis=1).to_frame("best"))
        who = [names.get((table, *row), OURS) for row in means.index]
        part.insert(0, "bold", [means.loc[row, name] for row, name in zip(means.index, who, strict=True)])
        parts.append(part.set_axis([f"{item}: {name}" for item, name in zip(part.index, who, strict=True)]))
    numbers = pd.concat(parts)
    numbers["short by"] = numbers["best"] - numbers["bold"]
    wrong = numbers.index[numbers["short by"] > 0]
    sentence = (
        f"{len(numbers) - len(wrong)} of the {len(numbers)} bold entries of Tables 2 and 3 are the best of their line"
        f"{'; not ' if len(wrong) else ''}{', '.join(wrong)}."
    )
    return Finding("bold", "Are the bold numbers the best ones?", outcome(len(wrong) > 0), sentence, numbers)


def against_fedavg() -> Finding:
    """Are the baselines in order? Each was published as better than FedAvg under skew."""
    means = printed("table2")
    found = means.drop(columns=["Local", "FedAvg", OURS]).sub(means["FedAvg"], axis=0)
    numbers = pd.DataFrame(
        {
            "mean difference": found.mean().round(DIGITS),
            "rows below FedAvg": (found < 0).sum(),
            "largest deficit": -found.min().round(DIGITS),
        }
    )
    name = numbers["mean difference"].idxmin()
    mean, below, largest = numbers.loc[name]
    sentence = (
        f"{name} is below FedAvg in {below:g} of {len(found)} rows, by {-mean:.1f} points on average and up to "
        f"{largest:.1f}, while its authors report it above FedAvg under label skew. The paper prints no settings of "
        "the baselines, so it cannot be told whether each was given a fair chance."
    )
    return Finding("baselines", "Are the baselines of Table 2 in order?", "open", sentence, numbers)


def semantics() -> Finding:
    """Table 4: "comparable", and "the best performance with CLIP"."""
    means = printed("table4")
    numbers = in_words(means).rename(columns=SEMANTICS_LABELS)
    numbers["spread"] = (means.max(axis=1) - means.min(axis=1)).to_numpy().round(DIGITS)
    numbers["CLIP minus best other"] = (means["clip"] - means[["w2v", "bert"]].max(axis=1)).to_numpy().round(DIGITS)
    behind = numbers["CLIP minus best other"][numbers["CLIP minus best other"] < 0]
    spread, lead = numbers["spread"], leads()["the best other method"].mean()
    exceptions = "".join(f", but not on {item} ({value:+.2f})" for item, value in behind.items())
    sentence = (
        f"CLIP is best in {len(numbers) - len(behind)} of {len(numbers)} columns{exceptions}. The three embeddings are "
        f"{spread.min():.1f} to {spread.max():.1f} points apart ({spread.mean():.1f} on average), which the text calls "
        f"comparable. For comparison, AP-FL's mean lead over the best other method in Table 2 is {lead:.1f}. Table 4 "
        "prints no deviations, and has no embedding without meaning as a control."
    )
    question = "Does Table 4 show comparable embeddings, with CLIP as the best?"
    misfit = len(behind) > 0 or spread.mean() > lead
    return Finding("semantics", question, "misfit" if misfit else "open", sentence, numbers)
