"""Does the paper's text say one thing? Where a number decides, it is computed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from apfl.data.catalogue import CATALOGUE
from apfl.paper.labels import dataset_label
from benchmarks.paper_check.finding import Finding, printed
from benchmarks.paper_check.possible import PRINTED_BETA

NOT_PRINTED = {
    "seeds": "how many stand behind ±",
    "rounds": "of federated training",
    "generator": "epochs, optimiser, learning rate",
    "friend": "epochs",
    "FedProx": "its weight μ",
    "FedGen": "all settings",
    "FedDF": "all settings, and its proxy images",
}
"""What has to be known to repeat the tables."""


def findings() -> Iterator[Finding]:
    images = {"section 4.1": 800_000, "EMNIST, letters": CATALOGUE["emnist"].images, "EMNIST, by class": 814_255}
    yield Finding(
        "emnist-size",
        "Which EMNIST is it?",
        "misfit",
        "The text speaks of over 800,000 images of 26 letters. EMNIST's letters split has 145,600 images of 26 "
        "classes; its split of more than 800,000 images has 62 classes. The paper does not say which images were used.",
        pd.DataFrame({"images": images, "classes": dict.fromkeys(images, 26) | {"EMNIST, by class": 62}}),
    )
    weight = pd.Series(PRINTED_BETA).rename(dataset_label)
    yield Finding(
        "beta",
        "What does β weigh?",
        "misfit",
        "Eq. 10 multiplies the client's own model by β and the friend by 1 - β; the sentence below it calls β the "
        "“confidence coefficient for the friend model”. With the printed values, the friend has all but 1 or 10 % of "
        "the weight by the equation, and only 1 or 10 % by the sentence. These are two different methods.",
        pd.DataFrame({"β": weight, "friend, Eq. 10": 1 - weight, "friend, text": weight}),
    )
    apart = {f"two images at distance {value}": eq8([0, value]) for value in (0, 1, 10)}
    yield Finding(
        "diversity",
        "Which way does the diversity term of Eq. 8 push?",
        "misfit",
        "Eq. 8 falls as two images move apart, so minimising it drives them apart, without bound. The sentence below "
        "it says that diverse samples come from “minimizing the Euclidean distance”, which would make them alike.",
        pd.Series(apart).to_frame("Eq. 8"),
    )
    results = ("Table 2", "Table 3", "Table 4", "Figure 4", "Figure 5")
    yield Finding(
        "asynchrony",
        "What do the results show about asynchrony?",
        "open",
        "The title and section 3 speak of asynchronous aggregation. None of the tables and figures with results names "
        "an asynchronous run, a delay or a staleness, and none varies a speed or a rate of dropout over time. The "
        "paper prints no evidence for the claim.",
        pd.DataFrame({"asynchronous runs named": 0}, results),
    )
    accuracies = sum(printed(table).size for table in ("table2", "table3", "table4"))
    yield Finding(
        "unsaid",
        "Does the paper say everything that is needed to repeat the tables?",
        "open",
        f"The {accuracies} printed accuracies depend on {len(NOT_PRINTED)} things that are not printed. The suite's "
        "[protocol](protocol.md) says how each is decided here.",
        pd.Series(NOT_PRINTED).to_frame("what is not said"),
    )


def eq8(positions: list[float]) -> float:
    """Eq. 8 for images on a line."""
    distances = np.abs(np.subtract.outer(positions, positions))
    return -float(distances.sum()) / len(positions) / (len(positions) - 1) or 0.0
