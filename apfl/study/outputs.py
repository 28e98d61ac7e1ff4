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
            "Data partition in the dropout setting: pathological, with γ = 2 classes per client, ten clients and "
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
            "Comparison in the dropout setting: accuracy in % on the dropout clients. MC: share of missing classes, "
            "which the other clients do not hold.",
            own_title="Dropout setting",
            tests={"dropout": ("own", "monopoly", "pooled")},
            axes=("dataset", "missing"),
            has_teachers=True,
        ),
        Output(
            "table4",
            "Friend models in the dropout setting, by semantic embedding: accuracy in % on the non-dropout clients "
            "(A_n) and on the dropout clients (A_d).",
            own_title="Semantic embeddings",
            tests={"non_dropout": ("own", "pooled"), "dropout": ("own", "monopoly", "pooled")},
            axes=("dataset", "role"),
            columns="semantics",
            has_teachers=True,
        ),
        Output(
            "convergence",
            "Virtual time to a target accuracy, with synchronous and asynchronous servers, by heterogeneity of "
            "the clients' speeds. The unit of time is that of the schedule.",
            title="Time to target accuracy",
            axes=("dataset", "heterogeneity"),
            columns="schedule",
            level="heterogeneity",
        ),
        Output(
            "dropout",
            "Test accuracy in % after the last round, by the rate of random dropout: the probability that a client "
            "does not report in a round or that its upload is lost.",
            title="Random dropout",
            axes=("dataset",),
            columns="schedule",
            level="rate",
        ),
        Output(
            "figure4",
            "Accuracy along the rounds with five clients in the full-participation setting: mean over seeds, with a "
            "band of ± one standard deviation. The paper prints no numbers for this figure.",
            own_title="Accuracy along rounds",
            own_caption="Accuracy along the rounds: mean over seeds, with a band of ± one standard deviation.",
            axes=("dataset", "partition"),
            datasets=IN_PAPER,
        ),
        Output(
            "figure5",
            "Accuracy of the friend model against the noise dimension and the number of synthetic samples per class: "
            "mean over seeds, with a band of ± one standard deviation. The paper prints no numbers for this figure.",
            own_title="Noise dimension and synthetic samples",
            own_caption="Accuracy of the friend model against the noise dimension and the number of synthetic "
            "samples per class: mean over seeds, with a band of ± one standard deviation.",
            axes=("dataset",),
            datasets=("cifar10", "emnist"),
        ),
        Output(
            "figure_time",
            "Accuracy along virtual time and along the bytes that the server has sent and received, by "
            "heterogeneity of the clients' speeds: mean over seeds, with a band of ± one standard deviation. All runs "
            "end after the same number of uploads, lost ones included. The bytes of personalised models include the "
            "generator, which each client downloads once after training.",
            title="Accuracy along time and bytes",
            of="convergence",
        ),
        Output(
            "figure_staleness",
            "Staleness of the uploads that reached the asynchronous server, in versions of the model, over all seeds.",
            title="Staleness",
            tests={},
            of="convergence",
        ),
        Output(
            "figure_timeline",
            "Which client trained when, for the first seed, at the highest heterogeneity and dropout rate. A bar is "
            "one cycle of download, training and upload, with the staleness of its upload. Marks show where the "
            "server merges, and dotted lines where another round's worth of uploads has arrived.",
            title="Who trained when",
            tests={},
            of="convergence",
        ),
        Output(
            "figure_multiverse",
            "Specification curve: accuracy of AP-FL minus that of the method it is compared with, paired by seed, in "
            f"every reading that the study runs. Bars are 95{NB}% intervals over seeds. Readings are ordered by their "
            "mean over the panels; the dots below show the options of each reading, with those of the literal "
            "reading in grey.",
            title="Every reading of AP-FL",
            has_teachers=True,
        ),
        Output(
            "selection",
            "How the best reading of AP-FL is chosen: accuracy in % on validation images, a tenth of each client's "
            "training images on which no method trains, on seeds that no table uses.",
            title="Choice of the reading",
        ),
        Output(
            "tuning",
            "Every trial of each tuned method: accuracy in % of the model that the tables show, on the validation "
            "images of all clients together (a tenth of their training images, on which no method trains) and on "
            "seeds that no table uses. The first trial is the published setting; the others are points of a "
            "scrambled Sobol sequence in the search space, which includes local training. The trial with the highest "
            "mean over seeds is chosen, and the first of equal ones; a trial that diverged in a seed has no mean. "
            "Ranks and verdicts are about the published settings.",
            title="Tuning",
        ),
    )
}
"""What a study asks for: its tables and figures, and the choices among readings (``apfl.selection``) and among
hyper-parameters (``tuning``)."""
RANKED = (
    "(1 is best), after averaging accuracies over seeds. Bars join methods that do not differ by Wilcoxon's "
    "signed-rank test over the cells, with Holm's correction, at level 0.05. No bars are drawn if Friedman's test "
    "does not tell the methods apart or if no pair differs, because that would not show that the methods are alike. "
    "Cells of one data set share its images and differ only in clients and alpha, so they are not independent: the "
    "tests see more evidence than there is, and their p-values are too small."
)
BESIDE: Mapping[str, Output] = {
    output.name: output
    for output in (
        Output(
            "forest",
            "The claims and their verdicts, each on its first test. Left: the comparison that is hardest for the "
            "claim, as a mean over rows with its 95 % interval (thick) and the interval that holds for all of the "
            "claim's comparisons together (thin), which decides. The claimed side is shaded; × marks what the paper "
            "prints for the same rows, at its own scale. A claim is reproduced if all of its comparisons lie on the "
            "claimed side. Right: the verdict on each data set by itself and on all together; a verdict in outline "
            "with … is interim, because runs are missing. An arrow points to a value beyond the axis.",
            title="Verdicts",
        ),
        Output(
            "dumbbell",
            "Accuracy in % on the pooled test, the test images of all clients together, in the rows of Table 2 that "
            "were run and that the paper prints. Hollow marks show what the paper prints, at its own scale; filled "
            "marks show what was reproduced, with ± one standard deviation over seeds.",
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
            "How much accuracy differs between clients, how many clients a method hurts, and how much data a round "
            "transfers. What is sent once after the last round, such as a generator or statistics of features, "
            "is not counted. Accuracy is in %, of each client on its own test images.",
            title="Spread over clients",
            of="table2",
        ),
        replace(OUTPUTS["selection"], name="readings", of="selection"),
        Output(
            "teachers",
            "Friends and their teachers: accuracy in % on the real test images of all clients. Teachers: the "
            "ensemble, weighted by Eq. 7, of the client models from which the generator learns. Global model: that of "
            "the federated run, which is FedAvg's unless another one is named. Friend and personalized model: mean "
            "over the clients that do not drop out.",
            title="Teachers of the friends",
        ),
        Output(
            "controls",
            "Unseen classes: accuracy in % of the dropout clients' friend models on classes that no other client "
            "holds, with semantic embeddings and with controls, which know nothing of the classes.",
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
