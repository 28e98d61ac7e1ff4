"""Can the printed numbers be, in the settings that the paper describes?"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil

import pandas as pd
from scipy import stats

from apfl.data.dataset import CLASSES
from apfl.paper import drawn, published
from apfl.paper.finding import Finding
from apfl.paper.labels import dataset_label

DIRICHLET = ("cifar10", "cifar100", "emnist")
CLIENTS = ("5", "10")
ALPHAS = ("0.01", "0.05", "0.1")
OF_TABLE_1 = 2
"""Classes of a client in Table 1: the gamma that the paper prints, for CIFAR-10."""


def dirichlet_rows() -> pd.DataFrame:
    """The 18 Dirichlet rows of Table 2: what is printed for Local and AP-FL, beside the bounds of drawn partitions."""
    printed = published.lookup("table2")
    rows = []
    for dataset in DIRICHLET:
        for clients in CLIENTS:
            for alpha in ALPHAS:
                bounds = drawn.bounds(dataset, int(clients), alpha)
                local = printed[dataset, (clients, alpha), "Local"]
                rows.append(
                    {
                        "item": f"{dataset_label(dataset)}, {clients} clients, α = {alpha}",
                        "dataset": dataset,
                        "clients": clients,
                        "alpha": alpha,
                        "Local": local.mean,
                        "Local, deviation": local.std,
                        "AP-FL": printed[dataset, (clients, alpha), "AP-FL"].mean,
                        "own floor": float(bounds.floor.mean()),
                        "own floor, least": float(bounds.floor.min()),
                        "pooled ceiling": float(bounds.ceiling.mean()),
                        "pooled ceiling, least": float(bounds.ceiling.min()),
                        "pooled ceiling, deviation": float(bounds.ceiling.std(ddof=1)),
                    }
                )
    return pd.DataFrame(rows)


DRAWN = (
    f"In {drawn.SEEDS} partitions of each setting, drawn per class over the clients with at least 10 images a client, "
)


def own_test() -> Finding:
    """Section 4.1 says that a client's test images have the label distribution of its training images."""
    rows = dirichlet_rows()
    local, ours = rows["Local"] < rows["own floor, least"], rows["AP-FL"] < rows["own floor"]
    possible = rows["Local"] <= rows["pooled ceiling, least"]
    worst = rows.loc[(rows["own floor"] - rows["Local"]).idxmax()]
    sentence = (
        f"{DRAWN}the printed Local accuracy is below that of always answering the client's most frequent class, on a "
        f"test with the client's own label distribution, in {local.sum()} of {len(rows)} Dirichlet rows, in every "
        f"partition drawn (most in {worst['item']}: {worst['Local']:.2f} printed, at least "
        f"{worst['own floor, least']:.1f} for the constant answer); AP-FL's is below the mean of that in "
        f"{ours.sum()}. On the pooled test, a model that knows its client's classes alone can have the printed Local "
        f"accuracy in {possible.sum()} of {len(rows)} rows. The text describes the first test; the table "
        "fits the second alone."
    )
    columns = ["item", "Local", "AP-FL", "own floor", "own floor, least", "pooled ceiling", "pooled ceiling, least"]
    question = "Can Table 2 have been measured on the test split that section 4.1 describes?"
    return Finding("table2-test-split", question, _outcome(bool(local.any())), sentence, rows[columns])


def local_along_alpha() -> Finding:
    """More classes a client: an own test becomes harder for a local model, a pooled one easier."""
    rows = dirichlet_rows()
    numbers = []
    for (dataset, clients), part in rows.groupby(["dataset", "clients"], sort=False):
        low, high = part.iloc[0], part.iloc[-1]
        changes = {name: high[name] - low[name] for name in ("Local", "own floor", "pooled ceiling")}
        numbers.append({"item": f"{dataset_label(dataset)}, {clients} clients", **changes})
    numbers = pd.DataFrame(numbers)
    rises, falls = (numbers["Local"] > 0).sum(), (numbers["own floor"] < 0).sum()
    ceiling = (numbers["pooled ceiling"] > 0).sum()
    sentence = (
        f"From α = 0.01 to 0.1 the printed Local accuracy rises in {rises} of {len(numbers)} series. The floor of an "
        f"own test falls in {falls} of them, the ceiling of a pooled test rises in {ceiling}. Local training gets more "
        "classes and fewer images of each, so on its own test it would be expected to fall."
    )
    question = "Does the Local column move with α as it would on the stated test split?"
    return Finding("local-along-alpha", question, _outcome(rises == ceiling == len(numbers)), sentence, numbers)


def local_along_clients() -> Finding:
    """Twice the clients: half the images and fewer classes each."""
    rows = dirichlet_rows().set_index(["dataset", "alpha", "clients"])
    numbers = []
    for dataset in DIRICHLET:
        for alpha in ALPHAS:
            few, many = (rows.loc[(dataset, alpha, clients)] for clients in CLIENTS)
            changes = {name: many[name] - few[name] for name in ("Local", "pooled ceiling")}
            numbers.append({"item": f"{dataset_label(dataset)}, α = {alpha}", **changes})
    numbers = pd.DataFrame(numbers)
    rises = numbers[numbers["Local"] > 0]
    sentence = (
        f"From five clients to ten a client has half the images, and the ceiling of a pooled test falls in all "
        f"{len(numbers)} settings drawn. The printed Local accuracy rises in {len(rises)} of them "
        f"({'; '.join(f'{row.item}: {row.Local:+.2f}' for row in rises.itertuples())}). That is possible, as the "
        "partition is chance, but nothing in the text accounts for it."
    )
    question = "Does local training get worse when the same images are shared among more clients?"
    return Finding("local-along-clients", question, "open" if len(rises) else "fit", sentence, numbers)


def local_spread(seeds: int = 3) -> Finding:
    """If the partition were drawn anew for each seed, its luck would be in the standard deviation."""
    rows = dirichlet_rows()
    ratio = rows["Local, deviation"] / rows["pooled ceiling, deviation"]
    # Of a sample of this size from a normal distribution with the ceilings' deviation.
    chance = stats.chi2.cdf((seeds - 1) * ratio**2, seeds - 1)
    numbers = rows[["item", "Local, deviation", "pooled ceiling, deviation"]].assign(
        **{f"chance of as small a deviation, {seeds} seeds": chance}
    )
    smaller, rare = int((ratio < 1).sum()), int((chance < 0.05).sum())
    least = rows.loc[rows["Local, deviation"].idxmin()]
    sentence = (
        "The printed standard deviation of Local is smaller than that of the pooled ceiling over partitions in "
        f"{smaller} of {len(rows)} rows, down to {least['Local, deviation']:.2f} against "
        f"{least['pooled ceiling, deviation']:.2f} points ({least['item']}); with {seeds} seeds and a spread like the "
        f"ceiling's so small a value would have a chance below 5\N{NO-BREAK SPACE}% in {rare} rows. All seeds then "
        "most likely share one partition, and ± says nothing of the luck of the partition."
    )
    question = "Does the printed ± hold the luck of the partition?"
    return Finding("local-spread", question, "open", sentence, numbers)


def fashion_partition() -> Finding:
    """Table 2 prints "-" for Fashion-MNIST, the text speaks of FEMNIST."""
    printed = published.lookup("table2")
    numbers = pd.DataFrame(
        [
            {
                "item": f"{clients} clients",
                "Local": (local := printed["fashion_mnist", (clients, "-"), "Local"].mean),
                "classes a client needs on a pooled test": ceil(local / 10),
                "pooled ceiling with these classes": 10.0 * ceil(local / 10),
            }
            for clients in CLIENTS
        ]
    )
    needed = numbers["classes a client needs on a pooled test"]
    sentence = (
        "Section 4.1 gives no Dirichlet partition to FEMNIST, as it is by nature unlike from writer to writer; the "
        "table has Fashion-MNIST in that place, which has no writers. On a pooled test the printed Local accuracies "
        f"need clients that hold at least {needed.min()} of the 10 classes; with an even share of all classes local "
        "training would be expected far above them. How Fashion-MNIST was shared out is not said."
    )
    question = "Which partition of Fashion-MNIST is behind the “-” of Table 2?"
    return Finding("fashion-partition", question, "open", sentence, numbers)


def table3_local() -> Finding:
    """A dropout client with two classes: one half for a constant answer on its own test, a fifth on a pooled one."""
    printed = published.lookup("table3")
    numbers = []
    for dataset in published.DATASETS:
        for missing in ("10", "20"):
            local, classes = printed[dataset, (missing,), "Local"].mean, CLASSES[dataset]
            known = OF_TABLE_1 if classes == 10 else None
            numbers.append(
                {
                    "item": f"{dataset_label(dataset)}, {missing}\N{NO-BREAK SPACE}%",
                    "Local": local,
                    "AP-FL": printed[dataset, (missing,), "AP-FL"].mean,
                    "own floor, two classes": 100.0 / known if known else float("nan"),
                    "pooled ceiling, two classes": 100.0 * known / classes if known else float("nan"),
                    "least classes for an own test": ceil(100 / local),
                    "least classes for a pooled test": ceil(local * classes / 100),
                }
            )
    numbers = pd.DataFrame(numbers)
    ten = numbers.dropna()
    neither = ten[(ten["Local"] < ten["own floor, two classes"]) & (ten["Local"] > ten["pooled ceiling, two classes"])]
    below = ten[ten["AP-FL"] < ten["own floor, two classes"]]
    sentence = (
        "With the two classes a client of Table 1 (printed for CIFAR-10; for Fashion-MNIST, which also has ten "
        "classes, none is named), always answering the more frequent one gives at least 50\N{NO-BREAK SPACE}% on the "
        "client's own test, and a model that knows no other class has at most 20\N{NO-BREAK SPACE}% on a pooled test. "
        f"The printed Local accuracies are between the two in {len(neither)} of {len(ten)} columns, and so fit neither "
        f"test; AP-FL is below the constant answer on the own test in {len(below)}. On monopoly classes alone, which "
        "the text names for FedAvg, a client with one of them could always be right. Which test Table 3 uses cannot be "
        "told from its numbers."
    )
    question = "On which test can the Local row of Table 3 have been measured?"
    return Finding("table3-test", question, _outcome(len(neither) > 0), sentence, numbers)


def friend_and_personalized() -> Finding:
    """Eq. 12 with the printed beta makes the personalized model all but the friend."""
    three, four = published.lookup("table3"), published.lookup("table4")
    numbers = pd.DataFrame(
        [
            {
                "item": dataset_label(dataset),
                "weight of the friend": 1 - (0.01 if dataset.startswith("cifar") else 0.1),
                "friend, dropout clients (Table 4, CLIP)": four[dataset, ("dropout",), "clip"].mean,
                "personalized, 10 % (Table 3)": three[dataset, ("10",), "AP-FL"].mean,
                "personalized, 20 % (Table 3)": three[dataset, ("20",), "AP-FL"].mean,
            }
            for dataset in published.DATASETS
        ]
    )
    best = numbers[["personalized, 10 % (Table 3)", "personalized, 20 % (Table 3)"]].max(axis=1)
    numbers["friend minus the better one"] = numbers["friend, dropout clients (Table 4, CLIP)"] - best
    above = numbers[numbers["friend minus the better one"] > 0]
    largest = numbers.loc[numbers["friend minus the better one"].idxmax()]
    sentence = (
        "With β = 0.01 (CIFAR) or 0.1 Eq. 12 gives 99 or 90\N{NO-BREAK SPACE}% of the weight to the friend. Yet the "
        f"friend of Table 4 is better on dropout clients than the personalized model of Table 3 in {len(above)} of "
        f"{len(numbers)} data sets whatever the share of missing classes, by up to "
        f"{largest['friend minus the better one']:.1f} points ({largest['item']}). Either the tables use different "
        "tests, or the interpolation, the method's safeguard against bad synthetic images, costs accuracy "
        "where it is used."
    )
    question = "Do the friend of Table 4 and the personalized model of Table 3 fit together?"
    return Finding("friend-and-personalized", question, _outcome(len(above) > 0), sentence, numbers)


def resolution(seeds: int = 3) -> Finding:
    """Could a printed mean be impossible as a mean of so many images?"""
    numbers = pd.DataFrame(
        [
            {
                "item": dataset_label(dataset),
                "pooled test images": (images := drawn.IMAGES[dataset] // 10),
                f"step of a mean over {seeds} seeds (points)": 100 / images / seeds,
            }
            for dataset in published.DATASETS
        ]
    )
    coarsest = numbers.iloc[:, 2].max()
    sentence = (
        f"A mean over {seeds} seeds of a pooled test moves in steps of at most {coarsest:.4f} points, finer than the "
        "printed 0.01, so every printed number can be such a mean: rounding refutes nothing. The paper prints no "
        "averages over rows that could be checked."
    )
    question = "Are the printed means possible as means over so many test images?"
    return Finding("rounding", question, "fit" if coarsest < 0.01 else "open", sentence, numbers)


def _outcome(contradicts: bool) -> str:
    return "misfit" if contradicts else "fit"


CHECKS: tuple[Callable[[], Finding], ...] = (
    own_test,
    local_along_alpha,
    local_along_clients,
    local_spread,
    fashion_partition,
    table3_local,
    friend_and_personalized,
    resolution,
)
