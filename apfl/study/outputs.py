"""The catalogue of outputs: every table and figure, what it shows, and what tells its rows apart."""

from __future__ import annotations

from collections.abc import Mapping

OUTPUTS = (
    "table1", "table2", "table3", "table4", "convergence", "dropout",
    "figure4", "figure5", "figure_time", "figure_staleness", "figure_timeline", "figure_multiverse", "selection",
)  # fmt: skip


COURSES = ("figure_staleness", "figure_timeline")
"""The figures of the course of events, which no test set tells apart."""


AXES: Mapping[str, tuple[str, ...]] = {
    "table2": ("dataset", "clients", "alpha"),
    "table3": ("dataset", "missing"),
    "table4": ("dataset", "role"),
    "figure4": ("dataset", "partition"),
    "figure5": ("dataset",),
    "convergence": ("dataset", "heterogeneity"),
    "dropout": ("dataset",),
}
"""What tells the rows of an output apart."""


ROLES: Mapping[str, tuple[str, ...]] = {"table3": ("dropout",), "table4": ("non_dropout", "dropout")}


JUDGED = (
    "table2",
    "table3",
    "table4",
    "figure4",
    "figure5",
    "convergence",
    "dropout",
    "figure_multiverse",
    "selection",
)
"""What verdicts are made from: what claims are about, what has teachers, and what readings are chosen by."""


ON_SCHEDULES = ("convergence", "dropout")
"""Where one method stands in several columns, one for each schedule."""


TESTS = {
    "table2": {"non_dropout": ("pooled", "own")},
    "table3": {"dropout": ("own", "monopoly", "pooled")},
    "table4": {"non_dropout": ("own", "pooled"), "dropout": ("own", "monopoly", "pooled")},
}
"""By table and role of the clients, the test sets that are shown."""


HEADINGS = {
    "convergence": "Time to target accuracy",
    "dropout": "Random dropout",
    "readings": "Choice of the reading",
    "teachers": "Teachers of the friends",
    "controls": "Unseen classes and controls",
}
"""What tables are called that the paper does not number."""


CAPTIONS = {
    "table1": "Data partitioning in the dropout setting: pathological with γ = 2 classes a client, ten clients, "
    "20\N{NO-BREAK SPACE}% missing classes. Classes in brackets are monopolised by clients that drop out.",
    "table2": "Comparison in the full-participation setting: test accuracy in %.",
    "table3": "Comparison in the dropout setting: accuracy in % on the dropout clients. MC: share of the classes that "
    "are missing among the other clients.",
    "table4": "Friend models by kind of semantic embedding in the dropout setting: accuracy in % on the non-dropout "
    "clients (A_n) and on the dropout clients (A_d).",
}
