"""Can the printed numbers be, in the settings that the paper describes?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from scipy import stats

from apfl.data.catalogue import CATALOGUE, IN_PAPER
from benchmarks.paper_check.bounds import SEEDS, bounds
from benchmarks.paper_check.finding import DIGITS, OURS, Finding, in_words, outcome, printed

PRINTED_BETA = {"cifar10": 0.01, "cifar100": 0.01, "emnist": 0.1, "fashion_mnist": 0.1}


def findings() -> Iterator[Finding]:
    rows = dirichlet_rows()
    yield own_test(rows)
    yield local_along_alpha(rows)
    yield local_along_clients(rows)
    yield local_spread(rows)
    yield fashion_partition()
    yield table3_local()
    yield friend_and_personalized()
    yield resolution()


def dirichlet_rows() -> pd.DataFrame:
    """The 18 Dirichlet rows of Table 2: what is printed for Local and AP-FL, beside the bounds of drawn partitions."""
    rows = printed("table2").drop("-", level="alpha")[["Local", OURS]]
    rows["Local, deviation"] = printed("table2", "std")["Local"]
    drawn = [bounds(dataset, int(clients), alpha) for dataset, clients, alpha in rows.index]
    for number, name in enumerate(("own floor", "pooled ceiling")):
        each = [both[number] for both in drawn]
        rows[name] = [values.mean() for values in each]
        rows[f"{name}, least"] = [values.min() for values in each]
        rows[f"{name}, deviation"] = [values.std(ddof=1) for values in each]
    return rows.round(DIGITS)


def own_test(rows: pd.DataFrame) -> Finding:
    """Section 4.1 says that a client's test images have the label distribution of its training images."""
    numbers = in_words(rows)
    local = numbers["Local"] < numbers["own floor, least"]
    ours = numbers[OURS] < numbers["own floor"]
    possible = numbers["Local"] <= numbers["pooled ceiling, least"]
    beyond = numbers[OURS] > numbers["pooled ceiling"]
    worst = (numbers["own floor"] - numbers["Local"]).idxmax()
    sentence = (
        f"In {SEEDS} partitions of each setting, drawn per class over the clients with at least 10 images a client, "
        "the printed Local accuracy is below that of always answering the client's most frequent class, on a test with "
        f"the client's own label distribution, in {local.sum()} of {len(rows)} Dirichlet rows, in every partition "
        f"drawn (most in {worst}: {numbers['Local'][worst]:.2f} printed, at least "
        f"{numbers['own floor, least'][worst]:.1f} for the constant answer); AP-FL's is below the mean of that in "
        f"{ours.sum()}. On the pooled test, a model that knows its client's classes alone can have the printed Local "
        f"accuracy in {possible.sum()} of {len(rows)} "
        "rows. The text describes the first test; the table fits the second alone. There AP-FL is printed above what a "
        f"model of its client's classes alone can have, on average over the partitions, in {beyond.sum()} rows."
    )
    columns = ["Local", OURS, "own floor", "own floor, least", "pooled ceiling", "pooled ceiling, least"]
    question = "Can Table 2 have been measured on the test split that section 4.1 describes?"
    return Finding("table2-test-split", question, outcome(local.any()), sentence, numbers[columns])


def local_along_alpha(rows: pd.DataFrame) -> Finding:
    """More classes a client: an own test becomes harder for a local model, a pooled one easier."""
    change = rows.xs("0.1", level="alpha") - rows.xs("0.01", level="alpha")
    numbers = in_words(change[["Local", "own floor", "pooled ceiling"]])
    rises, ceiling = (numbers["Local"] > 0).sum(), (numbers["pooled ceiling"] > 0).sum()
    sentence = (
        f"From α = 0.01 to 0.1 the printed Local accuracy rises in {rises} of {len(numbers)} series. The floor of an "
        f"own test falls in {(numbers['own floor'] < 0).sum()} of them, the ceiling of a pooled test rises in "
        f"{ceiling}. Local training gets more classes and fewer images of each, so on its own test it would be "
        "expected to fall."
    )
    question = "Does the Local column move with α as it would on the stated test split?"
    return Finding("local-along-alpha", question, outcome(rises == ceiling == len(numbers)), sentence, numbers)


def local_along_clients(rows: pd.DataFrame) -> Finding:
    """Twice the clients: half the images and fewer classes each."""
    change = rows.xs("10", level="clients") - rows.xs("5", level="clients")
    numbers = in_words(change[["Local", "pooled ceiling"]])
    rises = numbers["Local"][numbers["Local"] > 0]
    sentence = (
        f"From five clients to ten a client has half the images, and the ceiling of a pooled test falls in "
        f"{(numbers['pooled ceiling'] < 0).sum()} of {len(numbers)} settings drawn. The printed Local accuracy rises "
        f"in {len(rises)} of them ({'; '.join(f'{item}: {value:+.2f}' for item, value in rises.items())}). That is "
        "possible, as the partition is chance, but nothing in the text accounts for it."
    )
    question = "Does local training get worse when the same images are shared among more clients?"
    return Finding("local-along-clients", question, "open" if len(rises) else "fit", sentence, numbers)


def local_spread(rows: pd.DataFrame, seeds: int = 3) -> Finding:
    """If the partition were drawn anew for each seed, its luck would be in the standard deviation."""
    numbers = in_words(rows[["Local, deviation", "pooled ceiling, deviation"]])
    ratio = numbers["Local, deviation"] / numbers["pooled ceiling, deviation"]
    # Of a sample of this size from a normal distribution with the ceilings' deviation.
    chance = stats.chi2.cdf((seeds - 1) * ratio**2, seeds - 1)
    least = numbers["Local, deviation"].idxmin()
    local, ceiling = numbers.loc[least]
    sentence = (
        "The printed standard deviation of Local is smaller than that of the pooled ceiling over partitions in "
        f"{(ratio < 1).sum()} of {len(rows)} rows, down to {local:.2f} against {ceiling:.2f} points ({least}); with "
        f"{seeds} seeds and a spread like the ceiling's so small a value would have a chance below 5 % in "
        f"{(chance < 0.05).sum()} rows. All seeds then most likely share one partition, and ± says nothing of the luck "
        "of the partition."
    )
    question = "Does the printed ± hold the luck of the partition?"
    numbers[f"chance of as small a deviation, {seeds} seeds"] = chance
    return Finding("local-spread", question, "open", sentence, numbers)


def fashion_partition() -> Finding:
    """Table 2 prints "-" for Fashion-MNIST, the text speaks of FEMNIST."""
    numbers = in_words(printed("table2").xs("-", level="alpha", drop_level=False)[["Local"]])
    needed = np.ceil(numbers["Local"] / 10)
    numbers["classes a client needs on a pooled test"] = needed
    numbers["pooled ceiling with these classes"] = 10 * needed
    sentence = (
        "Section 4.1 gives no Dirichlet partition to FEMNIST, as it is by nature unlike from writer to writer; the "
        "table has Fashion-MNIST in that place, which has no writers. On a pooled test the printed Local accuracies "
        f"need clients that hold at least {needed.min():g} of the 10 classes; with an even share of all classes local "
        "training would be expected far above them. How Fashion-MNIST was shared out is not said."
    )
    question = "Which partition of Fashion-MNIST is behind the “-” of Table 2?"
    return Finding("fashion-partition", question, "open", sentence, numbers)


def table3_local() -> Finding:
    """A dropout client with two classes: one half for a constant answer on its own test, a fifth on a pooled one."""
    rows = printed("table3")[["Local", OURS]]
    classes = rows.index.get_level_values("dataset").map(lambda name: CATALOGUE[name].classes)
    rows["own floor, two classes"] = np.where(classes == 10, 100 / 2, np.nan)
    rows["pooled ceiling, two classes"] = np.where(classes == 10, 100 * 2 / 10, np.nan)
    rows["least classes for an own test"] = np.ceil(100 / rows["Local"])
    rows["least classes for a pooled test"] = np.ceil(rows["Local"] * classes / 100)
    numbers, ten = in_words(rows), rows.dropna()
    neither = (ten["Local"] < ten["own floor, two classes"]) & (ten["Local"] > ten["pooled ceiling, two classes"])
    below = ten[OURS] < ten["own floor, two classes"]
    sentence = (
        "With the two classes a client of Table 1 (printed for CIFAR-10; for Fashion-MNIST, which also has ten "
        "classes, none is named), always answering the more frequent one gives at least 50 % on the client's own test, "
        "and a model that knows no other class has at most 20 % on a pooled test. The printed Local accuracies are "
        f"between the two in {neither.sum()} of {len(ten)} columns, and so fit neither test; AP-FL is below the "
        f"constant answer on the own test in {below.sum()}. On monopoly classes alone, which the text names for "
        "FedAvg, a client with one of them could always be right. Which test Table 3 uses cannot be told from its "
        "numbers."
    )
    question = "On which test can the Local row of Table 3 have been measured?"
    return Finding("table3-test", question, outcome(neither.any()), sentence, numbers)


def friend_and_personalized() -> Finding:
    """Eq. 12 with the printed beta makes the personalized model all but the friend."""
    friend = printed("table4").xs("dropout", level="role")["clip"]
    personalized = printed("table3")[OURS].unstack("missing").loc[friend.index]
    rows = pd.DataFrame(
        {
            "weight of the friend": 1 - pd.Series(PRINTED_BETA),
            "friend, dropout clients (Table 4, CLIP)": friend,
            **{f"personalized, {missing} % (Table 3)": personalized[missing] for missing in ("10", "20")},
            "friend minus the better one": friend - personalized.max(axis=1),
        }
    )
    numbers = in_words(rows.loc[list(IN_PAPER)].rename_axis("dataset"))
    lead = numbers["friend minus the better one"]
    sentence = (
        "With β = 0.01 (CIFAR) or 0.1 Eq. 12 gives 99 or 90 % of the weight to the friend. Yet the friend of Table 4 "
        f"is better on dropout clients than the personalized model of Table 3 in {(lead > 0).sum()} of {len(lead)} "
        f"data sets whatever the share of missing classes, by up to {lead.max():.1f} points ({lead.idxmax()}). Either "
        "the tables use different tests, or the interpolation, the method's safeguard against bad synthetic images, "
        "costs accuracy where it is used."
    )
    question = "Do the friend of Table 4 and the personalized model of Table 3 fit together?"
    return Finding("friend-and-personalized", question, outcome((lead > 0).any()), sentence, numbers)


def resolution(seeds: int = 3) -> Finding:
    """Could a printed mean be impossible as a mean of so many images?"""
    images = pd.Series({name: CATALOGUE[name].images // 10 for name in IN_PAPER}).rename_axis("dataset")
    step = 100 / images / seeds
    numbers = in_words(
        pd.DataFrame({"pooled test images": images, f"step of a mean over {seeds} seeds (points)": step})
    )
    sentence = (
        f"A mean over {seeds} seeds of a pooled test moves in steps of at most {step.max():.4f} points, finer than the "
        "printed 0.01, so every printed number can be such a mean: rounding refutes nothing. The paper prints no "
        "averages over rows that could be checked."
    )
    question = "Are the printed means possible as means over so many test images?"
    return Finding("rounding", question, "fit" if step.max() < 0.01 else "open", sentence, numbers)
