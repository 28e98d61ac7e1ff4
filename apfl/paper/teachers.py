"""What friends learn from: their teachers' accuracy on real images beside their own, and unseen classes against chance.

A generator learns from its teachers alone, so a friend that learns from its images gets from them what they know. That
is no bound: friends start from the global model, and can be above their teachers. `apfl.stages.memorize.accuracies`
records both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from apfl.data.setting import parse_setting
from apfl.paper import published
from apfl.paper.labels import dataset_label, ordered, partition_label, semantics_label
from apfl.paper.metrics import Metrics, SeedValue, averages, cell_values, estimate
from apfl.paper.page import Section as Part
from apfl.paper.paired import differences, interval
from apfl.paper.render import FORMATS, fragment
from apfl.paper.tables import Entry, Group, Line, Panel, Section, Table
from apfl.readings import options_of

if TYPE_CHECKING:
    from apfl.study import Cell, Study

OUTPUTS = ("table2", "table3", "table4", "figure_multiverse")
CONTROLS = ("onehot", "random", "shuffled")
"""Sources of embeddings that mean nothing: what reaches their accuracy is not owed to semantics."""
PARTS = ("teachers", "global", "friend", "personalized")
COLUMNS = (
    "dataset", "setting", "title", "semantics", "reading",
    *(f"{part}_{what}" for part in PARTS for what in ("mean", "std")),
    "friend_minus_teacher", "teacher_low", "teacher_high", "friend_is", "friend_minus_global", "global_low",
    "global_high", "seeds", "seeds_planned", "status",
)  # fmt: skip
CONTROL_COLUMNS = (
    "dataset", "setting", "reading", "semantics", "kind", "monopoly_mean", "monopoly_std", "chance", "blind_guess",
    "above_chance_low", "above_chance_high", "seeds", "seeds_planned", "status",
)  # fmt: skip
TEACHERS_CAPTION = (
    "Friends and their teachers: accuracy in % on all clients' real test images. Teachers: the Eq. 7-weighted ensemble "
    "of the client models that the generator learns from; global model: that of the federated run, FedAvg's if nothing "
    "else is named; friend and personalized model: mean over clients that did not drop out."
)
CONTROLS_CAPTION = (
    "Unseen classes: accuracy in % of the dropout clients' friend models on classes that nobody else holds, with "
    "semantic embeddings and with controls that mean nothing."
)
NB = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True)
class Heights:
    """One seed of AP-FL on the pooled test, accuracies in [0, 1]; ``status`` as in `SeedValue`, or ``no teachers``."""

    seed: int
    status: str
    teachers: float = float("nan")
    global_model: float = float("nan")
    friend: float = float("nan")
    personalized: float = float("nan")

    def value(self, part: str) -> SeedValue:
        number = getattr(self, "global_model" if part == "global" else part)
        return (
            SeedValue(self.seed, self.status, number, number)
            if self.status == "ok"
            else SeedValue(self.seed, self.status)
        )


def heights(cell: Cell, metrics: Metrics) -> tuple[Heights, ...]:
    """The last round of each seed of a cell that starts from a generator."""
    return tuple(_heights(run, seed, metrics) for seed, run in zip(cell.seeds, cell.runs, strict=True))


def _heights(run: str, seed: int, metrics: Metrics) -> Heights:
    if (status := metrics.status(run)) != "ok":
        return Heights(seed, status)
    frame, given = metrics.frames[run], _accuracies(metrics.records[run])
    last = int(frame["round"].max())
    if str(last) not in given:
        return Heights(seed, "no teachers")
    here = given[str(last)]
    return Heights(seed, "ok", here["teachers"], here["global"], *(_pooled(frame, model, last) for model in PARTS[2:]))


def _accuracies(record: Mapping[str, Any]) -> Mapping[str, Mapping[str, float]]:
    """By round, the accuracies in [0, 1] of the teachers and of the global model; older records call them a ceiling."""
    return record.get("teachers", record.get("ceiling", {}))


def _pooled(frame: pd.DataFrame, model: str, last: int) -> float:
    means = averages(frame, model, "pooled", "non_dropout")
    found = means.loc[means["round"] == last, "weighted"]
    return float(found.iloc[0]) if len(found) else float("nan")


def teacher_rows(cells: Iterable[Cell], metrics: Metrics) -> pd.DataFrame:
    """`COLUMNS`: one row for each setting, embedding and reading, in per cent and points.

    ``friend_is`` says where the 95 % interval of the friend minus its teacher lies: below, above or ``at`` it. The
    teacher is the reading's: the weighted client models, or the global model.
    """
    unique = {cell.runs: cell for cell in cells if cell.reading}
    rows = [_teacher_row(cell, metrics) for cell in unique.values()]
    return _in_order(pd.DataFrame(rows, columns=list(COLUMNS)))


def _teacher_row(cell: Cell, metrics: Metrics) -> dict[str, Any]:
    every = heights(cell, metrics)
    found = {part: estimate(tuple(one.value(part) for one in every)) for part in PARTS}
    row: dict[str, Any] = {
        name: getattr(cell, name) for name in ("dataset", "setting", "title", "semantics", "reading")
    }
    row |= {f"{part}_mean": one.mean for part, one in found.items()} | {f"{p}_std": one.std for p, one in found.items()}
    friend = [one.value("friend") for one in every]
    teacher = "global" if options_of(cell.reading)["teacher"] == "global" else "teachers"
    row["friend_minus_teacher"], row["teacher_low"], row["teacher_high"] = _compared(friend, every, teacher)
    row["friend_minus_global"], row["global_low"], row["global_high"] = _compared(friend, every, "global")
    states = [one.status for one in every]
    status = found["friend"].status
    row |= {"seeds": found["friend"].seeds, "seeds_planned": len(every), "friend_is": _where(row)}
    return row | {"status": "no teachers" if status == "not run" and "no teachers" in states else status}


def _compared(ours: Sequence[SeedValue], every: Sequence[Heights], part: str) -> tuple[float, float, float]:
    if any(one.status == "diverged" for one in every):
        return (np.nan,) * 3
    found = differences(ours, [one.value(part) for one in every])
    return float(found.mean()) if len(found) else np.nan, *(interval(found) or (np.nan, np.nan))


def _where(row: Mapping[str, Any]) -> str:
    if np.isnan(row["teacher_low"]):
        return ""
    return "below" if row["teacher_high"] < 0 else "above" if row["teacher_low"] > 0 else "at"


def control_rows(
    cells: Iterable[Cell], metrics: Metrics, classes: Mapping[str, int], controls: Iterable[str] = CONTROLS
) -> pd.DataFrame:
    """`CONTROL_COLUMNS`: one row for each data set, reading and embedding of Table 4, in per cent and points.

    ``chance`` is 1 / classes. ``blind_guess`` is what a friend has without having learnt to see, among the classes of
    its own synthetic images: in the literal reading those that its client holds, otherwise all. The row ``difference``
    is the mean of the embeddings minus the mean of the controls, paired by seed; its interval is around that and not
    chance.
    """
    places: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in cells:
        places.setdefault((cell.dataset, cell.setting, cell.reading), []).append(cell)
    rows = []
    for (dataset, setting, reading), here in places.items():
        held = parse_setting(setting).classes or classes[dataset]
        own = options_of(reading)["friend_distribution"] == "own"
        shared = {
            "dataset": dataset,
            "setting": setting,
            "reading": reading,
            "chance": 100 / classes[dataset],
            "blind_guess": 100 / (held if own else classes[dataset]),
        }
        kinds: dict[str, list[tuple[SeedValue, ...]]] = {"semantic": [], "control": []}
        for cell in here:
            kind = "control" if cell.semantics in controls else "semantic"
            values = cell_values(metrics, cell, "monopoly", "dropout")
            kinds[kind].append(values)
            above = [100 * value.weighted - shared["chance"] for value in values if value.status == "ok"]
            rows.append(shared | {"semantics": cell.semantics, "kind": kind} | _control(values, np.array(above)))
        if all(kinds.values()):
            one, other = (_mean_of(kinds[kind]) for kind in ("semantic", "control"))
            found = differences(one, other)
            low, high = interval(found) or (np.nan, np.nan)
            rows.append(
                shared
                | {"semantics": "", "kind": "difference", "above_chance_low": low, "above_chance_high": high}
                | {"monopoly_mean": found.mean() if len(found) else np.nan, "seeds": len(found)}
                | {"monopoly_std": found.std(ddof=1) if len(found) > 1 else np.nan, "seeds_planned": len(one)}
                | {"status": "ok" if len(found) else "not run"}
            )
    return _in_order(pd.DataFrame(rows, columns=list(CONTROL_COLUMNS)))


def _control(values: Sequence[SeedValue], above: np.ndarray) -> dict[str, Any]:
    found = estimate(tuple(values))
    # Seeds that agree to the last image do not show that there is no spread.
    spread = found.status == "ok" and len(above) > 1 and above.std() > 0
    low, high = (interval(above) if spread else None) or (np.nan, np.nan)
    return {
        "monopoly_mean": found.mean,
        "monopoly_std": found.std,
        "above_chance_low": low,
        "above_chance_high": high,
        "seeds": found.seeds,
        "seeds_planned": found.planned,
        "status": found.status,
    }


def _mean_of(cells: Sequence[Sequence[SeedValue]]) -> list[SeedValue]:
    """Seed by seed the mean over cells, where all of them have the seed."""
    means = []
    for values in zip(*cells, strict=True):
        done = all(value.status == "ok" for value in values)
        mean = float(np.mean([value.weighted for value in values])) if done else None
        means.append(SeedValue(values[0].seed, "ok" if done else "not run", mean, mean))
    return means


def _in_order(rows: pd.DataFrame) -> pd.DataFrame:
    datasets = ordered(rows["dataset"], published.DATASETS)
    key = rows["dataset"].map(datasets.index) if len(rows) else rows["dataset"]
    return rows.assign(order=key).sort_values("order", kind="stable", ignore_index=True).drop(columns="order")


def setting_label(setting: str) -> str:
    """What a partition is called in full.

    >>> setting_label("pathological-classes2-clients10-missing20")
    '10 clients, 2 classes each, 20\\xa0% missing'
    """
    parsed = parse_setting(setting)
    missing = f", {parsed.missing}{NB}% missing" if parsed.missing else ""
    return f"{parsed.clients} clients, {partition_label(setting)}{missing}"


def teachers_table(rows: pd.DataFrame) -> Table:
    columns = ("teachers", "global model", "friend", "personalized", "friend − teacher", "friend is", "friend − global")

    def line(row: pd.Series) -> Line:
        name = f"{row['title']}, {row['reading']}, {semantics_label(row['semantics'])}"
        entries = [_entry(row[f"{part}_mean"], row[f"{part}_std"], row["status"]) for part in PARTS]
        where = {"below": "below it", "above": "above it", "at": "not told from it"}
        entries += [
            _difference(row["friend_minus_teacher"], row["teacher_low"], row["teacher_high"]),
            Entry(where.get(row["friend_is"], "–")),
            _difference(row["friend_minus_global"], row["global_low"], row["global_high"]),
        ]
        return Line(name, tuple(entries))

    known = rows[rows["friend_is"] != ""]
    counts = {name: int((known["friend_is"] == name).sum()) for name in ("below", "at", "above")}
    notes = [
        f"Of {len(known)} lines with an interval the friend is below its teacher in {counts['below']}, not told from "
        f"it in {counts['at']} and above it in {counts['above']}.",
        f"Differences are paired by seed, with their 95{NB}% interval. The teacher is the ensemble, or the global "
        "model where the reading says so.",
        "A friend starts from the global model unless its reading says otherwise: one above its teachers can have that "
        "from its start.",
    ]
    return Table("teachers", TEACHERS_CAPTION, _panel(rows, columns, line), (*notes, *_holes(rows)), rows)


def controls_table(rows: pd.DataFrame) -> Table:
    columns = ("unseen classes", "chance", "blind guess", "above chance", "seeds")

    def line(row: pd.Series) -> Line:
        if row["kind"] == "difference":
            found = _difference(row["monopoly_mean"], row["above_chance_low"], row["above_chance_high"])
            return Line("embeddings − controls", (found, Entry(""), Entry(""), Entry(""), Entry(f"{row['seeds']}")))
        middle = row["monopoly_mean"] - row["chance"] if row["status"] == "ok" else np.nan
        entries = (
            _entry(row["monopoly_mean"], row["monopoly_std"], row["status"]),
            Entry(f"{row['chance']:.2f}", number=True),
            Entry(f"{row['blind_guess']:.2f}", number=True),
            _difference(middle, row["above_chance_low"], row["above_chance_high"]),
            Entry(f"{row['seeds']}/{row['seeds_planned']}"),
        )
        return Line(semantics_label(row["semantics"]), entries)

    notes = (
        "Mean ± standard deviation over seeds. Chance: 1 / classes. Blind guess: 1 / the classes of the friend's own "
        "synthetic images, which in the literal reading are its client's alone; to see, a friend must be above that.",
        f"Embeddings − controls: the means of both kinds, paired by seed, with the 95{NB}% interval over seeds. If it "
        "holds 0, the accuracy on unseen classes is not shown to be owed to semantics.",
    )
    readings = len(set(rows["reading"])) > 1
    return Table("controls", CONTROLS_CAPTION, _panel(rows, columns, line, readings), (*notes, *_holes(rows)), rows)


def _panel(
    rows: pd.DataFrame, columns: tuple[str, ...], line: Callable[[pd.Series], Line], readings: bool = False
) -> tuple[Panel, ...]:
    sections = []
    for dataset, part in rows.groupby("dataset", sort=False):
        groups = []
        for (setting, reading), here in part.groupby(["setting", "reading" if readings else "dataset"], sort=False):
            label = setting_label(setting) + (f", {reading}" if readings else "")
            groups.append(Group(label, tuple(line(row) for _, row in here.iterrows())))
        sections.append(Section(dataset_label(dataset), tuple(groups)))
    return (Panel("", columns, tuple(sections)),) if sections else ()


def _entry(mean: float | None, std: float | None, status: str) -> Entry:
    if mean is None or np.isnan(mean):
        return Entry(status if status != "ok" else "–")
    return Entry(f"{mean:.2f}" if std is None or np.isnan(std) else f"{mean:.2f} ± {std:.2f}", number=True)


def _difference(mean: float, low: float, high: float) -> Entry:
    if mean is None or np.isnan(mean):
        return Entry("–")
    bounds = "" if np.isnan(low) else f" [{low:+.1f}, {high:+.1f}]"
    return Entry(f"{mean:+.2f}{bounds}", number=True)


def _holes(rows: pd.DataFrame) -> tuple[str, ...]:
    """What is not there, by status."""
    if rows.empty:
        return ("This study runs nothing that belongs here.",)
    bad = rows[rows["status"] != "ok"]
    return tuple(
        f"{status.capitalize()}: " + "; ".join(dict.fromkeys(_named(row) for _, row in part.iterrows())) + "."
        for status, part in bad.groupby("status", sort=True)
    )


def _named(row: pd.Series) -> str:
    parts = (dataset_label(row["dataset"]), setting_label(row["setting"]), row["reading"], row["semantics"])
    return ", ".join(part for part in parts if part)


def tables(study: Study, metrics: Metrics) -> tuple[Table, Table]:
    """The teachers of all runs of AP-FL, and the controls of Table 4."""
    from apfl.study import cells

    every = [cell for output in OUTPUTS for cell in cells(study, output)]
    controls = {name for name, entry in study.semantics.items() if entry["source"] in CONTROLS}
    fourth = cells(study, "table4")
    classes = {cell.dataset: study.classes(cell.dataset) for cell in fourth}
    rows = control_rows(fourth, metrics, classes, controls)
    return teachers_table(teacher_rows(every, metrics)), controls_table(rows)


def write(study: Study, metrics: Metrics, folder: Path) -> list[Path]:
    """Write ``teachers`` and ``controls`` as CSV and Markdown."""
    from apfl.artifacts import write_text

    paths = []
    for table in tables(study, metrics):
        for kind in ("csv", "md"):
            paths.append(Path(folder) / f"{table.name}.{kind}")
            write_text(paths[-1], FORMATS[kind](table))
    return paths


def sections(study: Study, metrics: Metrics) -> Iterator[Part]:
    """Those of the two tables that the study has something for, as parts of the page."""
    for table in tables(study, metrics):
        if len(table.rows):
            yield Part(table.name, table.heading, fragment(table))
