"""The catalogue of outputs: every table and figure, what it is called, what it shows, and what tells its rows apart."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from apfl.data.catalogue import IN_PAPER

NB = "\N{NO-BREAK SPACE}"
USUAL_TESTS: Mapping[str, tuple[str, ...]] = {"non_dropout": ("pooled", "own")}


@dataclass(frozen=True)
class Output:
    """What is shown of a study under one name, a key of its ``tables`` or ``figures`` if nothing else is said.

    title: what it is called, if the paper does not number it; own_title, own_caption: what stands in the place of the
    paper's in a study without it; tests: by role of the clients, the test sets that are shown; axes: what tells its
    rows apart, for claims about them (none: no claim is about it); columns: what tells its columns apart, the method's
    title, its semantics, or its title with its schedule; level: what its groups of rows differ in, if that is a value
    of the schedule; datasets: those that the paper shows in it; of: the table whose runs it shows; has_teachers: are
    friends compared with their teachers on its runs?
    """

    name: str
    caption: str
    title: str = ""
    own_title: str = ""
    own_caption: str = ""
    tests: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: USUAL_TESTS)
    axes: tuple[str, ...] = ()
    columns: str = "title"
    level: str = ""
    datasets: tuple[str, ...] = ()
    of: str = ""
    has_teachers: bool = False

    @property
    def heading(self) -> str:
        """Its title, or the paper's number.

        >>> OUTPUTS["table2"].heading, OUTPUTS["dropout"].heading
        ('Table 2', 'Random dropout')
        """
        return self.title or re.sub(r"(\D+)(\d+)", lambda match: f"{match[1].capitalize()} {match[2]}", self.name)

    def shown(self, paper: bool) -> Output:
        """As a study shows it: with what the paper says of it, or by itself.

        >>> OUTPUTS["table2"].shown(paper=True).heading, OUTPUTS["table2"].shown(paper=False).heading
        ('Table 2', 'Accuracy of all clients')
        """
        title, caption = self.own_title or self.title, self.own_caption or self.caption
        return self if paper else replace(self, title=title, caption=caption, datasets=())

    @property
    def on_schedules(self) -> bool:
        """May a method have several columns, one for each schedule?"""
        return self.columns == "schedule"


OUTPUTS: Mapping[str, Output] = {
    output.name: output
    for output in (
        Output(
            "table1",
            "Data partitioning in the dropout setting: pathological with γ = 2 classes a client, ten clients, "
            f"20{NB}% missing classes. Classes in brackets are monopolised by clients that drop out.",
            own_title="Classes of the clients",
            own_caption="The classes that each client holds in the dropout setting. Classes in brackets are those of "
            "clients that drop out.",
            tests={},
        ),
        Output(
            "table2",
            "Comparison in the full-participation setting: test accuracy in %.",
            own_title="Accuracy of all clients",
            own_caption="Test accuracy in %, of clients that do not drop out.",
            axes=("dataset", "clients", "alpha"),
            has_teachers=True,
        ),
        Output(
            "table3",
            "Comparison in the dropout setting: accuracy in % on the dropout clients. MC: share of the classes that "
            "are missing among the other clients.",
            own_title="Dropout setting",
            tests={"dropout": ("own", "monopoly", "pooled")},
            axes=("dataset", "missing"),
            has_teachers=True,
        ),
        Output(
            "table4",
            "Friend models by kind of semantic embedding in the dropout setting: accuracy in % on the non-dropout "
            "clients (A_n) and on the dropout clients (A_d).",
            own_title="Semantic embeddings",
            tests={"non_dropout": ("own", "pooled"), "dropout": ("own", "monopoly", "pooled")},
            axes=("dataset", "role"),
            columns="semantics",
            has_teachers=True,
        ),
        Output(
            "convergence",
            "Virtual time to a target accuracy, with synchronous and asynchronous servers, by heterogeneity of "
            "the clients' speeds. The unit of time is the schedule's.",
            title="Time to target accuracy",
            axes=("dataset", "heterogeneity"),
            columns="schedule",
            level="heterogeneity",
        ),
        Output(
            "dropout",
            "Test accuracy in % after the last round, by the rate at which clients drop out at random: a client "
            "does not report in a round, or its upload is lost.",
            title="Random dropout",
            axes=("dataset",),
            columns="schedule",
            level="rate",
        ),
        Output(
            "figure4",
            "Accuracy along rounds with five clients in the full-participation setting: mean over seeds, "
            "band ± one standard deviation. The paper prints no numbers.",
            own_title="Accuracy along rounds",
            own_caption="Accuracy along rounds: mean over seeds, band ± one standard deviation.",
            axes=("dataset", "partition"),
            datasets=IN_PAPER,
        ),
        Output(
            "figure5",
            "Accuracy of the friend model against the noise dimension and the synthetic samples per class: "
            "mean over seeds, band ± one standard deviation. The paper prints no numbers.",
            own_title="Noise dimension and synthetic samples",
            own_caption="Accuracy of the friend model against the noise dimension and the synthetic samples per "
            "class: mean over seeds, band ± one standard deviation.",
            axes=("dataset",),
            datasets=("cifar10", "emnist"),
        ),
        Output(
            "figure_time",
            "Accuracy along virtual time, and along the bytes that the server has sent and received, by "
            "heterogeneity of the clients' speeds: mean over seeds, band ± one standard deviation. All runs end after "
            "the same number of uploads, lost ones included. What a method downloads after training, such as a "
            "generator, is not counted.",
            title="Accuracy along time and bytes",
            of="convergence",
        ),
        Output(
            "figure_staleness",
            "How many versions old the uploads were that reached the asynchronous server, over all seeds.",
            title="Staleness",
            tests={},
            of="convergence",
        ),
        Output(
            "figure_timeline",
            "Who trained when, for the first seed, where clients differ or drop out most: one bar for each "
            "cycle of download, training and upload, with the staleness of its upload; a mark where the server "
            "merges; dotted lines where another round's worth of uploads has arrived.",
            title="Who trained when",
            tests={},
            of="convergence",
        ),
        Output(
            "figure_multiverse",
            "Specification curve: accuracy of AP-FL minus that of the method it is compared with, in every reading "
            f"that the study runs; paired by seed, bars are 95{NB}% intervals over seeds. Readings stand in the order "
            "of their mean over the panels; the dots below say which options each has, those of the literal reading "
            "in grey.",
            title="Every reading of AP-FL",
            has_teachers=True,
        ),
        Output(
            "selection",
            "Which reading of AP-FL is judged as its best: accuracy in % on validation images, a tenth of each "
            "client's training images on which nobody trains, on seeds that no table uses.",
            title="Choice of the reading",
        ),
        Output(
            "tuning",
            "Every trial of each method that is tuned: accuracy in % of the model that the tables show, on the "
            "validation images of all clients together, a tenth of their training images on which nobody trains, and "
            "on seeds that no table uses. The first trial is the published setting; the others are points of a "
            "scrambled Sobol sequence in the search space, local training included. The trial with the highest mean "
            "over seeds is chosen, of equal ones the first; one that diverged in a seed has no mean. Ranks and "
            "verdicts are about published settings.",
            title="Tuning",
        ),
    )
}
"""What a study asks for: its tables and figures, and the choices among readings (``apfl.selection``) and among
hyper-parameters (``tuning``)."""
RANKED = (
    "(1 is best), accuracies averaged over seeds first. Bars join methods that do not differ: Wilcoxon's signed-rank "
    "test over the cells, Holm's correction, level 0.05. There are none where Friedman's test does not tell the "
    "methods apart, or no pair of them differs: that would not say that they are alike. Cells of one data set share "
    "its images and differ in clients and alpha alone, so they are not independent: the tests see more evidence than "
    "there is, and their p-values are too small."
)
BESIDE: Mapping[str, Output] = {
    output.name: output
    for output in (
        Output(
            "forest",
            "The claims and what came out, each on its first test. On the left the comparison that is hardest for the "
            "claim: a mean over rows with its 95 % interval (thick), and the interval that holds for all of the "
            "claim's comparisons together, which decides (thin). The claimed side is shaded; × is what the paper "
            "prints for the same rows, at its own scale. A claim is reproduced if all of its comparisons lie on the "
            "claimed side. On the right the verdict on each data set by itself and on all together; in outline and "
            "with … it is what came out so far: runs are missing. An arrow points to what lies beyond the axis.",
            title="Verdicts",
        ),
        Output(
            "dumbbell",
            "Accuracy in % on the pooled test, the test images of all clients together, in the rows of Table 2 that "
            "were run and that the paper prints: hollow what the paper prints, at its own scale, filled what was "
            "reproduced, with one standard deviation over seeds to both sides.",
            title="Published and reproduced",
            of="table2",
        ),
        Output(
            "ranks",
            f"Ranks of the methods over the cells of Table 2 {RANKED}",
            title="Ranks of the methods",
            own_caption=f"Ranks of the methods over data sets and settings {RANKED}",
            of="table2",
        ),
        Output(
            "spread",
            "How far the clients are apart, whom a method hurts, and what a round moves: accuracy in % of each client "
            "on its own test images.",
            title="Spread over clients",
            of="table2",
        ),
        replace(OUTPUTS["selection"], name="readings", of="selection"),
        Output(
            "teachers",
            "Friends and their teachers: accuracy in % on all clients' real test images. Teachers: the Eq. 7-weighted "
            "ensemble of the client models that the generator learns from; global model: that of the federated run, "
            "FedAvg's if nothing else is named; friend and personalized model: mean over clients that did not drop "
            "out.",
            title="Teachers of the friends",
        ),
        Output(
            "controls",
            "Unseen classes: accuracy in % of the dropout clients' friend models on classes that nobody else holds, "
            "with semantic embeddings and with controls that mean nothing.",
            title="Unseen classes and controls",
            of="table4",
        ),
    )
}
"""What is made from the runs of those beside the verdicts (`apfl.paper.outputs`)."""
FIGURES = tuple(name for name in OUTPUTS if name.startswith("figure"))
COURSES = tuple(name for name in FIGURES if not OUTPUTS[name].tests)
"""The figures of the course of events, which no test set tells apart."""
CLAIMED = tuple(name for name, output in OUTPUTS.items() if output.axes)
"""What claims are about."""
WITH_TEACHERS = tuple(name for name, output in OUTPUTS.items() if output.has_teachers)
"""Where friends are compared with their teachers."""
JUDGED = (*dict.fromkeys((*CLAIMED, *WITH_TEACHERS)), "selection")
"""What verdicts are made from: what claims are about, what has teachers, and what readings are chosen by."""
