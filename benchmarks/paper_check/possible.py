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
        f"For each setting, {SEEDS} partitions were drawn class by class, with at least 10 images for each client. On "
        "a test with the client's own label distribution, the printed Local accuracy is below that of always answering "
        f"the client's most frequent class in {local.sum()} of {len(rows)} Dirichlet rows, whichever partition was "
        f"drawn. The gap is largest in {worst}: {numbers['Local'][worst]:.2f} is printed, and the constant answer has "
        f"at least {numbers['own floor, least'][worst]:.1f}. AP-FL's accuracy is below the mean of the constant answer "
        f"in {ours.sum()} of {len(rows)}. On the pooled test, a model that only knows its client's classes can have "
        f"the printed Local accuracy in {possible.sum()} of {len(rows)} rows. The text describes the first test; the "
        "table only fits the second. On the second, AP-FL's printed accuracy is above what a model of its client's "
        f"classes alone can have, on average over the partitions, in {beyond.sum()} rows."
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
        f"own test falls in {(numbers['own floor'] < 0).sum()} of them, and the ceiling of a pooled test rises in "
        f"{ceiling}. A client gets more classes and fewer images of each, so its accuracy on an own test would be "
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
        f"With ten clients instead of five, a client has half the images, and the ceiling of a pooled test falls in "
        f"{(numbers['pooled ceiling'] < 0).sum()} of {len(numbers)} settings drawn. The printed Local accuracy rises "
        f"in {len(rises)} of them ({'; '.join(f'{item}: {value:+.2f}' for item, value in rises.items())}). This is "
        "possible, because partitions are random, but nothing in the text accounts for it."
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
        f"{(ratio < 1).sum()} of {len(rows)} rows, down to {local:.2f} against {ceiling:.2f} points ({least}). If "
        f"Local varied as much as the ceiling, so small a value over {seeds} seeds would have a probability below 5 % "
        f"in {(chance < 0.05).sum()} rows. Most likely, then, all seeds share one partition, and ± says nothing about "
        "the variation between partitions."
    )
    question = "Does the printed ± include the variation between partitions?"
    numbers[f"chance of as small a deviation, {seeds} seeds"] = chance
    return Finding("local-spread", question, "open", sentence, numbers)


def fashion_partition() -> Finding:
    """Table 2 prints "-" for Fashion-MNIST, the text speaks of FEMNIST."""
    numbers = in_words(printed("table2").xs("-", level="alpha", drop_level=False)[["Local"]])
    needed = np.ceil(numbers["Local"] / 10)
    numbers["classes a client needs on a pooled test"] = needed
    numbers["pooled ceiling with these classes"] = 10 * needed
    sentence = (
        "Section 4.1 uses no Dirichlet partition for FEMNIST, because its images naturally differ from writer to "
        "writer. The table has Fashion-MNIST in its place, which has no writers. On a pooled test, the printed Local "
        f"accuracies require clients that hold at least {needed.min():g} of the 10 classes; with an even share of all "
        "classes, local training would be expected to be far more accurate. The paper does not say how Fashion-MNIST "
        "was distributed."
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
        "In Table 1 each client has two classes. The table is printed for CIFAR-10; for Fashion-MNIST, which also has "
        "ten classes, no classes are named. With two classes, always answering the more frequent one gives at least "
        "50 % on the client's own test, and a model that knows no other class has at most 20 % on a pooled test. The "
        f"printed Local accuracies are between the two in {neither.sum()} of {len(ten)} columns, and so fit neither "
        f"test. AP-FL is below the constant answer on the own test in {below.sum()}. On monopoly classes alone, which "
        "the text names for FedAvg, a client with one of them could always be right. The numbers of Table 3 do not "
        "show which test it uses."
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
        "With β = 0.01 (CIFAR) or 0.1, Eq. 12 gives 99 or 90 % of the weight to the friend. Yet on dropout clients the "
        f"friend of Table 4 is better than the personalized model of Table 3 in {(lead > 0).sum()} of {len(lead)} data "
        f"sets, whatever the share of missing classes, by up to {lead.max():.1f} points ({lead.idxmax()}). Either the "
        "tables use different tests, or the interpolation, which is the method's safeguard against bad synthetic "
        "images, costs accuracy where it is used."
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
        f"A mean over {seeds} seeds on a pooled test moves in steps of at most {step.max():.4f} points. This is finer "
        "than the printed 0.01, so every printed number can be such a mean, and rounding refutes nothing. The paper "
        "prints no averages over rows that could be checked."
    )
    question = "Are the printed means possible as means over so many test images?"
    return Finding("rounding", question, "fit" if step.max() < 0.01 else "open", sentence, numbers)
