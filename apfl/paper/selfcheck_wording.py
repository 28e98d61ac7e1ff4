"""Does the paper's text say one thing? Where a number decides, it is computed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from apfl.paper import drawn, published
from apfl.paper.finding import Finding
from apfl.paper.labels import dataset_label

PRINTED_BETA = {"cifar10": 0.01, "cifar100": 0.01, "emnist": 0.1, "fashion_mnist": 0.1}
PRINTED_LETTERS = 800_000
BY_CLASS = 814_255
"""Images of EMNIST's split by class, which has digits and both cases: 62 classes."""
RESULTS = ("Table 2", "Table 3", "Table 4", "Figure 4", "Figure 5")


def emnist_size() -> Finding:
    numbers = pd.DataFrame(
        [
            {"item": "section 4.1", "images": PRINTED_LETTERS, "classes": 26},
            {"item": "EMNIST, letters", "images": drawn.IMAGES["emnist"], "classes": 26},
            {"item": "EMNIST, by class", "images": BY_CLASS, "classes": 62},
        ]
    )
    sentence = (
        "The text has over 800,000 images of 26 letters. EMNIST's letters are 145,600 images of 26 classes; its split "
        "of more than 800,000 images has 62 classes. Which images were used is not said."
    )
    return Finding("emnist-size", "Which EMNIST is it?", "misfit", sentence, numbers)


def beta() -> Finding:
    numbers = pd.DataFrame(
        [
            {
                "item": dataset_label(name),
                "β": value,
                "friend, Eq. 10": 1 - value,
                "friend, text": value,
            }
            for name, value in PRINTED_BETA.items()
        ]
    )
    sentence = (
        "Eq. 10 multiplies the client's own model by β and the friend by 1 - β; the sentence below it calls β the "
        "“confidence coefficient for the friend model”. With the printed values the friend has all but 1 or 10"
        "\N{NO-BREAK SPACE}% of the weight by the equation, and no more than that by the sentence: two methods."
    )
    return Finding("beta", "What does β weigh?", "misfit", sentence, numbers)


def diversity() -> Finding:
    apart = np.array([0.0, 1.0, 10.0])
    numbers = pd.DataFrame(
        {
            "item": [f"two images at distance {value:g}" for value in apart],
            "Eq. 8": [eq8([0.0, value]) for value in apart],
        }
    )
    sentence = (
        "Eq. 8 falls as two images move apart, so minimising it drives them apart, without bound. The sentence below "
        "it says that diverse samples come from “minimizing the Euclidean distance”, which would make them alike."
    )
    return Finding("diversity", "Which way does the diversity term of Eq. 8 push?", "misfit", sentence, numbers)


def eq8(positions: list[float]) -> float:
    """Eq. 8 for images on a line."""
    distances = np.abs(np.subtract.outer(positions, positions))
    return -float(distances.sum()) / len(positions) / (len(positions) - 1) or 0.0


def asynchrony() -> Finding:
    numbers = pd.DataFrame({"item": RESULTS, "asynchronous runs named": [0] * len(RESULTS)})
    sentence = (
        "The title and section 3 speak of asynchronous aggregation. None of the tables and figures with results names "
        "an asynchronous run, a delay or a staleness, and no speed or rate of dropout along time is "
        "varied. The claim has no printed evidence."
    )
    return Finding("asynchrony", "What do the results show of asynchrony?", "open", sentence, numbers)


def unsaid() -> Finding:
    """What has to be known to repeat the tables, and is not printed."""
    needed = {
        "seeds": "how many stand behind ±",
        "rounds": "of federated training",
        "generator": "epochs, optimiser, learning rate",
        "friend": "epochs",
        "FedProx": "its weight μ",
        "FedGen": "all settings",
        "FedDF": "all settings, and its proxy images",
    }
    cells = (
        len(published.accuracies("table2")) + len(published.accuracies("table3")) + len(published.accuracies("table4"))
    )
    numbers = pd.DataFrame({"item": list(needed), "what is not said": list(needed.values())})
    sentence = (
        f"{len(needed)} things that the {cells} printed accuracies depend on are not printed; the suite's protocol "
        "says how each is decided here."
    )
    return Finding("unsaid", "Is everything said that is needed to repeat the tables?", "open", sentence, numbers)


CHECKS: tuple[Callable[[], Finding], ...] = (emnist_size, beta, diversity, asynchrony, unsaid)
