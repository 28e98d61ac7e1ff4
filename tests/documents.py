"""The parts of documents that are made from committed files, so that no number in them is typed.

A document marks such a part by the comments ``<!-- made: NAME -->`` and ``<!-- end: NAME -->``; NAME is a key of
`PARTS`. ``python -m tests.documents`` writes all of them anew.
"""

from __future__ import annotations

import ast
import io
import json
import re
import textwrap
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from scipy import special

from apfl.data.catalogue import images_of
from apfl.durations import duration
from apfl.jobs.archive import contents
from apfl.paper.labels import dataset_label, partition_label
from apfl.paper.numbers.intervals import ERROR, Cellwise, with_interval
from apfl.paper.verdict.claims import Claim, claims
from apfl.paper.verdict.document import SOURCES
from apfl.paper.verdict.power import POWER
from apfl.registry.cards import methods
from apfl.registry.trees import ROOT
from apfl.study.load import schema
from apfl.study.tuning import TUNED
from benchmarks.paper_check.bounds import bounds_of
from tests.pictures import draw, printed, rulegraph

REFERENCE, SMALL, TEN_SEEDS = (ROOT / "results" / name for name in ("reference", "small", "reference_ten_seeds"))


def checks() -> str:
    """The measurements of config/check.yaml: mean and deviation over seeds, in percent."""
    frame = pd.read_csv(ROOT / "docs" / "measurements" / "check.csv")
    lines = ["| method | model | pooled | own | own, plain mean |", "| --- | --- | ---: | ---: | ---: |"]
    for (method, model), group in frame.groupby(["method", "model"], sort=False):
        columns = (100 * group[["pooled", "own", "own_plain"]]).agg(["mean", "std"])
        cells = [f"{columns[name]['mean']:.1f} ± {columns[name]['std']:.1f}" for name in columns]
        lines.append(f"| {method} | {model} | {' | '.join(cells)} |")
    return "\n".join(lines)


def fedbuff() -> str:
    """The measurements of benchmarks/fedbuff_rate.py: pooled accuracy after the last round, in percent."""
    frame = pd.read_csv(ROOT / "docs" / "measurements" / "fedbuff.csv")
    last = frame[frame["rounds"] == frame["rounds"].max()]
    seeds = sorted(set(last["seed"]))
    heads = ["server", "rate", "clients a merge", "mean ± deviation", *(f"seed {seed}" for seed in seeds)]
    lines = [f"| {' | '.join(heads)} |", f"| --- | {' | '.join(['---:'] * (len(heads) - 1))} |"]
    for server, rows in last.groupby("server", sort=False):
        pooled = rows.set_index("seed")["pooled"]
        cells = [server, f"{rows['rate'].iloc[0]:g}", str(rows["clients_a_merge"].iloc[0])]
        cells += [f"{pooled.mean():.1f} ± {pooled.std():.1f}", *(f"{pooled[seed]:.1f}" for seed in seeds)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def fedbuff_long() -> str:
    """The longer courses of benchmarks/fedbuff_rate.py: pooled accuracy after so many rounds' worth of uploads."""
    frame = pd.read_csv(ROOT / "docs" / "measurements" / "fedbuff_long.csv")
    shown = frame[frame["rounds"] % 6 == 0]
    rounds = sorted(set(shown["rounds"]))
    lines = [
        f"| server, seed | {' | '.join(f'after {number}' for number in rounds)} |",
        "| --- |" + " ---: |" * len(rounds),
    ]
    for server, rows in shown.groupby("server", sort=False):
        table = rows.pivot(index="seed", columns="rounds", values="pooled")
        lines += [
            f"| {server}, {seed} | {' | '.join(f'{value:.1f}' for value in one)} |" for seed, one in table.iterrows()
        ]
        means = (f"{one.mean():.1f} ± {one.std():.1f}" for _, one in table.items())
        lines.append(f"| {server}, mean ± deviation | {' | '.join(means)} |")
    return "\n".join(lines)


def own_labels() -> str:
    """Table 2's AP-FL beside what a model of its client's classes alone can have on the pooled test."""
    frame = pd.read_csv(ROOT / "docs" / "measurements" / "paper_check.csv")
    rows = (
        frame[frame["id"] == "table2-test-split"].pivot(index="item", columns="quantity", values="value").astype(float)
    )
    ours, bound, example = rows["AP-FL"], rows["pooled ceiling"], "CIFAR-10, 5 clients, α = 0.01"
    return (
        f"In {(ours > bound).sum()} of {len(rows)} Dirichlet rows the printed AP-FL exceeds what a model that answers "
        f"its client's classes alone can\nhave on the pooled test, in the mean over drawn partitions ({example}: "
        f"{ours[example]:.2f} > {bound[example]:.2f})."
    )


def main_table() -> str:
    """Table 2 of the reference at published settings, pooled test: reproduced, and after the stroke what the paper
    prints."""
    frame = pd.read_csv(REFERENCE / "tables" / "table2.csv", dtype={"alpha": str, "clients": str})
    frame = frame[(frame["test"] == "pooled") & (frame["seeds"] > 0) & ~frame["column"].str.endswith(TUNED)]
    columns = list(dict.fromkeys(frame["column"]))
    lines = [
        f"| | clients | α | {' | '.join(columns)} |",
        f"| --- | ---: | ---: | {' | '.join(['---:'] * len(columns))} |",
    ]
    for (dataset, clients, alpha), rows in frame.groupby(["dataset", "clients", "alpha"], sort=False):
        if len(rows) < len(columns):
            continue
        found = {row["column"]: _beside(row) for _, row in rows.iterrows()}
        cells = [found[column] for column in columns]
        lines.append(f"| {dataset_label(dataset)} | {clients} | {alpha.replace('-', '–')} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _beside(row: pd.Series) -> str:
    if row["status"] != "ok":
        return str(row["status"])
    printed = "" if pd.isna(row["published_mean"]) else f" / {row['published_mean']:.1f}"
    some = "" if row["seeds"] == row["seeds_planned"] else f" ({row['seeds']:.0f})"
    return f"{row['reproduced_mean']:.1f}{some}{printed}"


def verdicts() -> str:
    """Every claim on its first test, the paper's and then, apart, a summary's: the literal reading on all of its data
    sets, row by row, and how many other readings say what."""
    frame = pd.read_csv(REFERENCE / "verdict" / "claims.csv", keep_default_na=False)
    frame = frame[frame["primary"].astype(str).str.lower() == "true"]
    parts = []
    for source, title in SOURCES.items():
        lines = [f"**{title}**", "", f"| {' | '.join(VERDICT_HEADS)} |", "| --- " * len(VERDICT_HEADS) + "|"]
        lines += [_verdict(frame[frame["claim"] == claim.id], claim) for claim in claims() if claim.source == source]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


VERDICT_HEADS = ("claim", "literal reading", "rows", "deciding or nearest comparison, in points", "other readings")


def _verdict(frame: pd.DataFrame, claim: Claim) -> str:
    ours = frame[frame["level"] == "claim"]
    literal = ours[ours["reading"] == "literal"].iloc[0]
    counts = _said(ours[ours["reading"] != "literal"]).value_counts().sort_index()
    others = ", ".join(f"{number} {said}" for said, number in counts.items() if said != "not run")
    names = ("reproduced", "contradicted", "open", "other")
    rows = ", ".join(f"{literal[f'rows_{name}']} {name}" for name in names if int(literal[f"rows_{name}"]))
    rows += f" ({literal['rows_interim']} interim)" if int(literal["rows_interim"]) else ""
    cells = (
        claim.sentence + (" *(from a summary, not from the paper)*" if claim.source == "summary" else ""),
        f"**{_said(ours[ours['reading'] == 'literal']).iloc[0]}**",
        rows or "–",
        _found(literal),
        others or "–",
    )
    return f"| {' | '.join(cells)} |"


def on_cifar10() -> str:
    """The paper's claims on CIFAR-10 alone in two readings: how many are decided or could have been, and each with the
    comparison that decides it and with what the study could find out about it."""
    seeds = len(_study()["seeds"])
    rows = {reading: _levels(reading)["CIFAR-10 alone"].set_index("claim") for reading in READINGS}
    decided, able = [], []
    for reading, words in READINGS.items():
        ours = rows[reading]
        final = _final(ours)["status"].reindex(ours.index).isin(COUNTED[:2])
        decided.append(f"{final.sum()} {words}")
        able.append(str((ours[~final]["seeds_needed"].replace("", "inf").astype(float) <= seeds).sum()))
    papers = [claim.id for claim in claims() if claim.source == "paper"]
    more = [f"{len(_more(reading)) or 'none'} {words}" for reading, words in READINGS.items()]
    asked = all(set(AGAIN) <= set(_final(alone_on(TEN_SEEDS, reading)).index) for reading in READINGS)
    text = (
        f"Of the paper's {len(papers)} claims CIFAR-10 alone decides {', and '.join(decided)}. Of the others, "
        f"{able[0]} in the first and {able[1]} in the second concern printed numbers that {seeds} seeds should have "
        f"found inside their bound (power {100 * POWER:.0f} %). [Ten seeds](../reference_ten_seeds/README.md) "
        + (f"decide {' and '.join(more)} of those that these do not decide." if asked else "are still being run.")
    )
    lines = [textwrap.fill(text, 120), "", "| claim | literal reading | *best reading* |", "| --- | --- | --- |"]
    for name in (name for name in papers if name in rows["literal"].index):
        lines.append(f"| {name} | {' | '.join(_alone(ours.loc[name]) for ours in rows.values())} |")
    return "\n".join(lines)


def ten_seeds() -> str:
    """The claims that block D asks again, on CIFAR-10: the verdict on ten seeds beside that on the reference's five,
    each with the comparison that decides it, and this comparison on the new seeds alone, which nobody had seen."""
    lines = ["| claim | | five seeds | ten seeds | the five new ones alone |", "| --- | --- | --- | --- | ---: |"]
    runs = archived("reference_ten_seeds", "dataset").index.unique("run")
    other = [run for run in runs if re.fullmatch(r"apfl--reading-[a-z-]+?", run) and run.count("--") == 1]
    for reading, run in zip(READINGS, ["apfl", *other], strict=True):
        five, ten = (alone_on(folder, reading) for folder in (REFERENCE, TEN_SEEDS))
        for name, measure in AGAIN.items():
            new = _over_seeds(measure(partial(friends_on_new_seeds, run)), "+.1f")
            lines.append(f"| {name} | {reading} | {_alone(five.loc[name])} | {_alone(ten.loc[name])} | {new} |")
    return "\n".join(lines)


def friends_on_new_seeds(run: str, axis: str, value: int) -> np.ndarray:
    """Float64 [seeds]: the friend's pooled accuracy at a point of Figure 5, where ``run`` has the usual values."""
    usual = {"noise_dimension": 100, "samples_per_class": 600}[axis]
    found = archived("reference_ten_seeds", "dataset")["pooled"].xs("friend", level="model").droplevel("dataset")
    new = sorted({*_study("reference_ten_seeds")["seeds"]} - {*_study()["seeds"]})
    return found[run if value == usual else f"{run}--{axis}-{value}"].loc[new].to_numpy()


Friends = Callable[[str, int], np.ndarray]


def _slope(friends: Friends, axis: str, values: list[int]) -> np.ndarray:
    """Float64 [seeds]: points for each doubling, by least squares."""
    return np.polyfit(np.log2(values), [friends(axis, value) for value in values], 1)[0]


AGAIN: Mapping[str, Callable[[Friends], np.ndarray]] = {
    "noise-dimension-hurts": lambda at: _slope(at, "noise_dimension", [20, 100, 400, 512]),
    "few-samples-hurt": lambda at: at("samples_per_class", 600) - at("samples_per_class", 50),
    "flat-after-600-samples": lambda at: at("samples_per_class", 1000) - at("samples_per_class", 600),
}
"""The claims that block D asks again, each with its comparison."""


def alone_on(folder: Path, reading: str) -> pd.DataFrame:
    return _levels(reading, folder)["CIFAR-10 alone"].set_index("claim", drop=False)


def _more(reading: str) -> pd.DataFrame:
    """What ten seeds decide on CIFAR-10 and five do not."""
    five, ten = (_final(alone_on(folder, reading)).reindex(list(AGAIN)) for folder in (REFERENCE, TEN_SEEDS))
    return ten[ten["status"].isin(COUNTED[:2]) & ~five["status"].isin(COUNTED[:2])]


def _alone(row: pd.Series) -> str:
    parts = [f"**{_said(row.to_frame().T).iloc[0]}**: {_found(row)}"]
    if row["smallest_difference"]:
        parts.append(f"finds {float(row['smallest_difference']):.1f} points")
    if row["printed_gap"]:
        seeds = f"need {float(row['seeds_needed']):.0f} seeds" if row["seeds_needed"] else "are not inside"
        parts.append(f"the printed numbers, {float(row['printed_gap']):.1f} inside, {seeds}")
    return "; ".join(parts)


def _said(frame: pd.DataFrame) -> pd.Series:
    interim = frame["interim"].astype(str).str.lower() == "true"
    return frame["status"].where(~interim, "interim: " + frame["status"] + " so far")


def _found(row: pd.Series) -> str:
    if row["estimate"] == "":
        return "–"
    low, high = (float(row[f"strict_{end}"]) for end in ("low", "high"))
    return f"{row['comparison']}, {row['place']}: {float(row['estimate']):+.1f} [{low:+.1f}, {high:+.1f}]"


def readings() -> str:
    """What each reading changes: AP-FL minus FedAvg, in points, on both tests."""
    frame = pd.read_csv(SMALL / "figures" / "figure_multiverse.csv")
    frame = frame[frame["status"] == "ok"]
    places = list(dict.fromkeys(zip(frame["dataset"], frame["setting"], strict=True)))
    heads = [f"{dataset_label(dataset)}, {partition_label(setting)}" for dataset, setting in places]
    lines = [
        "| reading | " + " | ".join(f"{head}: {test}" for head in heads for test in ("pooled", "own")) + " |",
        "| --- | " + " | ".join(["---:"] * 2 * len(heads)) + " |",
    ]
    names = frame["reading"].fillna("").where(frame["reading"].notna(), frame["title"])
    for name, rows in frame.groupby(names, sort=False):
        found = {(row["setting"], row["test"]): row for _, row in rows.iterrows()}
        cells = [_interval(found.get((setting, test))) for _, setting in places for test in ("pooled", "own")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _interval(row: pd.Series | None) -> str:
    return "–" if row is None else f"{row['mean']:+.1f} [{row['low']:+.1f}, {row['high']:+.1f}]"


@cache
def _records() -> Mapping[str, dict]:
    return {name: json.loads(text) for name, text in contents(REFERENCE).items() if name.endswith(".json")}


def facts() -> str:
    """What made the reference: its scale, its runs, their time."""
    study = _study()
    runs = [value for name, value in _records().items() if name.endswith("run.json")]
    training = study["training"]
    names = ", ".join(map(dataset_label, study["data"]))
    versions = {
        f"{name} {text}" for run in runs for name, text in run["versions"].items() if name in ("torch", "numpy")
    }
    stages = pd.Series([run["stage"] for run in runs]).value_counts()
    rows = {
        "images": f"{_scale()[0]}: {names}",
        "seeds": ", ".join(map(str, study["seeds"])),
        "training": f"{training['rounds']} rounds of {training['local_epochs']} local epochs, "
        f"learning rate {training['learning_rate']:g}; the paper: all images, 20 local epochs, rounds not printed",
        "runs": f"{len(runs)}: " + ", ".join(f"{count} {stage}" for stage, count in stages.items()),
        "computing time": duration(sum(run["seconds"] for run in runs)) + ", one thread a run",
        "precision": ", ".join(sorted({f"{run['precision']} on {run['device']}" for run in runs})),
        "commit": ", ".join(sorted({run["commit"][:7] for run in runs if run.get("commit")})),
        "versions": ", ".join(sorted(versions)),
    }
    return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {text} |" for name, text in rows.items())])


@cache
def _study(archive: str = "reference") -> Mapping[str, Any]:
    files = contents(ROOT / "results" / archive)
    return json.loads(next(text for name, text in files.items() if name.endswith("/study.json")))


def _scale(archive: str = "reference") -> tuple[str, str, str]:
    """Images of a data set, training, seeds of an archive in results/."""
    study = _study(archive)
    (images,) = {images_of(entry) for entry in study["data"].values()}
    training = f"{study['training']['rounds']} rounds of {study['training']['local_epochs']} epochs"
    return f"{images} of each data set", training, f"{len(study['seeds'])} seeds"


def scale() -> str:
    """The scale of the reference in a line or two, to stand beside its numbers."""
    ours = ", ".join(_scale())
    return textwrap.fill(f"*Scale: {ours}. The paper: all images, 20 epochs a round, rounds not printed.*", 120)


def finding() -> str:
    """What came out in a sentence that says at which scale: AP-FL against FedAvg in Table 2, and the verdicts."""
    table, rows = by_row_and_seed("reference", "pooled"), printed_rows()
    table = table[table.index.isin(rows["dataset"], level="dataset")]
    runs = {"if taken literally": "apfl", "with soft labels": "apfl--reading-soft-labels"}
    behind = {how: _finished(table["fedavg", "global"] - table[run, "personalized"]) for how, run in runs.items()}
    below = " and ".join(f"{_below(means)} {how}" for how, means in behind.items())
    judged = ", and ".join(f"{_in_words(_levels(name)['CIFAR-10 alone'])} {how}" for name, how in READINGS.items())
    absent = ", ".join(dataset_label(name) for name in sorted(set(rows["dataset"]) - set(_study()["data"])))
    asked, claimed = (len(_levels()[level]) for level in ("CIFAR-10 alone", "all data sets"))
    text = (
        f"**With fewer training images** ({', '.join(_scale())}), {min(map(len, behind.values()))} of Table 2's "
        f"{len(rows)} rows are finished (none of them on {absent}, which the study does not have): on the test images "
        f"of all clients AP-FL is below FedAvg {below}; and of the {asked} of the paper's {claimed} claims that can be "
        f"asked of CIFAR-10 alone, its runs {judged} (in brackets: after correction for all claims)."
    )
    return textwrap.fill(text, 120)


def meaning() -> str:
    """What friends of the literal reading gain from embeddings that mean something, on each data set with all runs."""
    text = "; ".join(map(_gain, unseen_classes().values()))
    return textwrap.fill(f"Such friends are right {text}.", 120)


def unseen_classes() -> dict[str, pd.DataFrame]:
    """The literal reading's rows of verdict/controls.csv, by data set of the paper, where all their runs are there."""
    table = pd.read_csv(REFERENCE / "verdict" / "controls.csv", keep_default_na=False)
    table = table[(table["reading"] == "literal") & table["dataset"].isin(printed_rows()["dataset"])]
    whole = {str(name): rows for name, rows in table.groupby("dataset") if (rows["status"] == "ok").all()}
    numbers = [name for name in table if name.startswith(("monopoly", "blind", "above"))]
    return {name: rows.assign(**rows[numbers].apply(pd.to_numeric)) for name, rows in whole.items()}


def _gain(rows: pd.DataFrame) -> str:
    """The range with real embeddings and that with controls, and their difference with its interval."""
    each = rows.groupby("kind")["monopoly_mean"]
    real, control = (f"{each.min()[kind]:.1f} to {each.max()[kind]:.1f} %" for kind in ("semantic", "control"))
    (apart,) = rows[rows["kind"] == "difference"].itertuples()
    return (
        f"on {dataset_label(rows['dataset'].iloc[0])} in {real} with real embeddings and in {control} with those that "
        f"mean nothing, where guessing gives {rows['blind_guess'].iloc[0]:.0f} % (difference of means "
        f"{apart.monopoly_mean:+.1f} [{apart.above_chance_low:.1f}, {apart.above_chance_high:.1f}])"
    )


def by_row_and_seed(archive: str, test: str) -> pd.DataFrame:
    """Accuracy after the last round on one test: a line for each row of Table 2 and seed of the study, a column for
    each run and model."""
    table = archived(archive, "dataset", "setting")[test].unstack(["run", "model"])
    table = table[table.index.isin(_study(archive)["seeds"], level="seed")]
    return table[~table.index.get_level_values("setting").str.contains("missing")]


def printed_rows() -> pd.DataFrame:
    """The rows of the paper's Table 2."""
    paper = pd.read_csv(ROOT / "apfl/paper/published/table2.csv", keep_default_na=False)
    return paper[["dataset", "clients", "alpha"]].drop_duplicates()


def _finished(behind: pd.Series) -> pd.Series:
    """The mean over seeds of the rows whose seeds are all there."""
    rows = behind.dropna().groupby(["dataset", "setting"])
    return rows.mean()[rows.size() == len(_study()["seeds"])]


def _below(means: pd.Series) -> str:
    below = means[means > 0]
    return f"in {len(below) or 'none'}" + (f" by {below.min():.1f} to {below.max():.1f} points" if len(below) else "")


def _in_words(rows: pd.DataFrame) -> str:
    counted = {status: _both(_final(rows), status) for status in VERBS}
    said = {status: f"{alone} ({corrected})" if alone else "none" for status, (alone, corrected) in counted.items()}
    return " and ".join(f"{verb} {said[status]}" for status, verb in VERBS.items())


VERBS = {"contradicted": "contradict", "reproduced": "reproduce"}
READINGS = {"literal": "if its text is taken literally", "best reading": "in the *best reading*"}
COUNTED = ("reproduced", "contradicted", "open", "nothing to judge", "not run")


def _levels(reading: str = "literal", folder: Path = REFERENCE) -> dict[str, pd.DataFrame]:
    """The verdicts on the paper's claims, all of their data sets together and CIFAR-10 alone, on the first test."""
    frame = pd.read_csv(folder / "verdict" / "claims.csv", keep_default_na=False, dtype=str)
    frame = frame[(frame["primary"].str.lower() == "true") & (frame["reading"] == reading)]
    frame = frame[frame["source"] == "paper"]
    alone = (frame["level"] == "data set") & (frame["dataset"] == "cifar10")
    return {"all data sets": frame[frame["level"] == "claim"], "CIFAR-10 alone": frame[alone]}


def _final(rows: pd.DataFrame) -> pd.DataFrame:
    """What is no longer interim."""
    return rows[rows["interim"].str.lower() != "true"]


def _both(rows: pd.DataFrame, status: str) -> tuple[int, int]:
    """How many have this status, by themselves and after correction."""
    return int((rows["status"] == status).sum()), int((rows["corrected"] == status).sum())


def counts() -> str:
    """The verdicts as numbers; what is interim counts as nothing else."""
    heads = [*COUNTED, "interim", *(f"{status} after correction" for status in COUNTED[:2])]
    lines = [f"| the paper's claims | {' | '.join(heads)} |", "| --- " + "| ---: " * len(heads) + "|"]
    for level in _levels():
        for reading in READINGS:
            rows = _levels(reading)[level]
            final = _final(rows)
            numbers = [*(_both(final, status)[0] for status in COUNTED), len(rows) - len(final)]
            numbers += [_both(final, status)[1] for status in COUNTED[:2]]
            lines.append(f"| {level}, {reading} | {' | '.join(map(str, numbers))} |")
    return "\n".join(lines)


def decided() -> str:
    """Which claims CIFAR-10 alone decides in each reading, each with the comparison that decides it."""
    lines = []
    found = [(reading, _final(_levels(reading)["CIFAR-10 alone"])) for reading in READINGS]
    ten = "with [ten seeds](results/reference_ten_seeds/README.md)"
    for who, rows in (*found, *((f"{reading} {ten}", _more(reading)) for reading in READINGS)):
        for status in ("contradicted", "reproduced"):
            names = [f"`{row['claim']}` ({_found(row)})" for _, row in rows[rows["status"] == status].iterrows()]
            lines += [f"* {who}, {status}: {'; '.join(names)}"] if names else []
    return "\n".join(textwrap.fill(line, 120, subsequent_indent="  ", break_on_hyphens=False) for line in lines)


def example() -> str:
    """The first group of Table 2: a setting with its three lines."""
    lines = (REFERENCE / "tables" / "table2.md").read_text(encoding="utf-8").splitlines()
    first = next(place for place, line in enumerate(lines) if line.startswith("|"))
    return "\n".join(lines[first : first + 5])


def archived(study: str, *place: str) -> pd.DataFrame:
    """What an archive in results/ has after the last round: accuracy in percent, weighted by training images, with a
    column for each test and a row for each place (alpha, if no other columns are named), run, model and seed."""
    frame = pd.read_parquet(ROOT / "results" / study / "metrics.parquet")
    frame["run"] = frame["run"].str.split("/").str[4]
    frame["alpha"] = frame["setting"].str.extract(r"alpha([\d.]+)", expand=False)
    shown = frame[
        (frame["round"] == frame.groupby("run")["round"].transform("max")) & ~frame["model"].str.startswith("beta")
    ]
    keys = [*(place or ["alpha"]), "run", "model", "seed", "test"]
    return 100 * shown.groupby(keys)[["accuracy", "train_samples"]].apply(_weighted).unstack("test")


def printed_there() -> pd.DataFrame:
    """The rows of the paper's Table 2 for CIFAR-10 and five clients, by alpha and method."""
    rows = pd.read_csv(ROOT / "apfl/paper/published/table2.csv", dtype={"alpha": str})
    return rows[(rows["dataset"] == "cifar10") & (rows["clients"] == 5)].set_index(["alpha", "method"])


def paper_scale() -> str:
    """What is finished at the paper's scale, over seeds and by seed, beside what the paper prints of the method."""
    paper = printed_there()
    titles = {name: (card.title, card.model) for name, card in methods().items()}
    lines = [
        "| run | α | model | pooled | by seed | minus FedAvg, by seed | the paper | own |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    found = archived("paper_scale")
    fedavg = found.xs(("fedavg", "global"), level=("run", "model"))["pooled"]
    for (alpha, run, model), rows in found.groupby(["alpha", "run", "model"]):
        if model == "local" and run.startswith("apfl"):
            continue  # FedAvg's, with which AP-FL begins
        title, shown = titles.get(run, ("", ""))
        there = model == shown and (alpha, title) in paper.index
        cell = "{accuracy_mean:.2f} ± {accuracy_std:.2f}".format(**paper.loc[(alpha, title)]) if there else "–"
        pooled = rows["pooled"].droplevel(["run", "model"])
        more = (pooled - fedavg).dropna() if (run, model) != ("fedavg", "global") else pooled.iloc[:0]
        seeds, leads = ", ".join(f"{one:.1f}" for one in pooled), ", ".join(f"{one:+.1f}" for one in more) or "–"
        lines.append(
            f"| {run} | {alpha} | {model} | {_spread(pooled)} | {seeds} | {leads} | {cell} | {_spread(rows['own'])} |"
        )
    return "\n".join(lines)


def paper_scale_finding() -> str:
    """The same in a sentence: FedAvg and AP-FL on the pooled test at the paper's scale, beside the printed means."""
    fedavg, readings = _at_the_paper_s_scale()
    best = max(readings.values(), key=lambda values: values.mean())
    paper = printed_there()["accuracy_mean"]["0.01"]
    text = (
        f"**At the paper's own scale** (CIFAR-10 with five clients, α = 0.01; all images, a tenth of each client's "
        f"kept for validation; 20 epochs a round and ten rounds, of which the paper prints no number; {len(fedavg)} "
        f"seeds) FedAvg has {_spread(fedavg)} % on the test images of all clients, where the paper prints "
        f"{paper['FedAvg']}, and AP-FL has {_spread(readings['apfl'])} % if the paper's text is taken literally and "
        f"{_spread(best)} % in the best of {len(readings)} readings on this test, where it prints {paper['AP-FL']}."
    )
    return textwrap.fill(text, 120)


def _at_the_paper_s_scale() -> tuple[pd.Series, dict[str, pd.Series]]:
    """FedAvg and AP-FL in each reading, by seed: the pooled test at α = 0.01."""
    pooled = archived("paper_scale").loc["0.01"]["pooled"]
    runs = [run for run in pooled.index.unique("run") if run.split("--")[0] == "apfl"]
    return pooled["fedavg"]["global"], {run: pooled[run]["personalized"] for run in runs}


def paper_scale_differences() -> str:
    """How far AP-FL is below FedAvg there, and what its literal reading can reach."""
    fedavg, readings = _at_the_paper_s_scale()
    reach = ", ".join(f"{one:.1f}" for one in own_classes("paper_scale"))
    less = {run: _over_seeds((fedavg - values).to_numpy()) for run, values in readings.items()}
    behind = ", ".join(f"{found} points in `{run}`" for run, found in less.items())
    text = (
        f"FedAvg minus AP-FL on the pooled test, with the 95 % interval over {len(fedavg)} seeds: {behind}. Friends of "
        f"the literal reading, `apfl`, learn their own client's classes alone. Answering only these can give at most "
        f"{reach} % (by seed)."
    )
    return textwrap.fill(text, 120)


def _over_seeds(values: np.ndarray, form: str = ".1f") -> str:
    """A mean over seeds with its 95 % interval."""
    mean, low, high = with_interval(Cellwise(values))
    return f"{mean:{form}} [{low:{form}}, {high:{form}}]"


def own_classes(archive: str) -> list[float]:
    """What answering only a client's own classes can give on the pooled test, in %, for each partition of an archive.
    Test images are shared out as training images are."""
    partitions = [packed for name, packed in contents(ROOT / "results" / archive).items() if "/partitions/" in name]
    return [bounds_of(np.load(io.BytesIO(packed))["counts"])[1] for packed in partitions]


def outside() -> str:
    """What config/outside.yaml gives here, beside what niid_bench's README prints."""
    theirs = pd.read_csv(ROOT / "docs" / "measurements" / "niid_bench.csv").set_index("method")["accuracy"]
    found = archived("outside").xs("global", level="model")["pooled"]
    lines = ["| method | here | by seed | niid_bench |", "| --- | ---: | ---: | ---: |"]
    for run, values in found.groupby("run", sort=False):
        title, seeds = methods()[run].title, ", ".join(f"{one:.1f}" for one in values)
        lines.append(f"| {title} | {_spread(values)} | {seeds} | {theirs[title]:.1f} |")
    return "\n".join(lines)


def _spread(values: pd.Series) -> str:
    return f"{values.mean():.1f} ± {values.std():.1f}" if len(values) > 1 else f"{values.mean():.1f}"


def _weighted(rows: pd.DataFrame) -> float:
    return float((rows["accuracy"] * rows["train_samples"]).sum() / rows["train_samples"].sum())


BASELINES = ("local", "fedavg", "fedprox", "scaffold", "fedgen", "feddf")


def plan_power() -> str:
    """The smallest lead of AP-FL over a baseline found with 80 % power, by the reference's paired deviations."""
    frame = pd.read_parquet(SMALL / "metrics.parquet")
    parts = frame["run"].str.split("/", expand=True)
    frame["variant"] = parts[4]
    shown = {**dict.fromkeys(BASELINES, "global"), "local": "local", "apfl": "personalized"}
    last = frame[frame["round"] == frame.groupby("run")["round"].transform("max")]
    last = last[(last["test"] == "pooled") & last["setting"].str.startswith(("dirichlet", "pathological-classes5"))]
    last = last[last["variant"].map(shown) == last["model"]]
    cells = last.groupby(["dataset", "setting", "seed", "variant"])[["accuracy", "train_samples"]]
    table = 100 * cells.apply(_weighted).unstack("variant").dropna()
    leads = table[list(BASELINES)].rsub(table["apfl"], axis=0)
    alone = leads.groupby(["dataset", "setting"]).std().stack()
    cifar = leads.loc["cifar10"].groupby("seed").mean().std()
    rows = {
        "a row, median deviation": alone.median(),
        "a row, upper quartile": alone.quantile(0.75),
        "the mean over CIFAR-10's rows, median over baselines": cifar.median(),
    }
    lines = ["| comparison | deviation over seeds | 3 seeds | 5 seeds | 10 seeds |", f"| --- {'| ---: ' * 4}|"]
    for name, deviation in rows.items():
        found = (smallest(deviation, seeds) for seeds in (3, 5, 10))
        lines.append(f"| {name} | {deviation:.1f} | {' | '.join(f'{value:.1f}' for value in found)} |")
    return "\n".join(lines)


def smallest(deviation: float, seeds: int) -> float:
    """The difference whose interval, at the level of six comparisons, leaves zero out with a power of 80 %."""
    bound = -special.stdtrit(seeds - 1, ERROR / len(BASELINES))
    return float(special.nctdtrinc(seeds - 1, 1 - POWER, bound) * deviation / seeds**0.5)


def modules() -> str:
    """Every module of the library with the first sentence of its docstring, by package."""
    lines: list[str] = []
    for package in sorted({path.parent for path in (ROOT / "apfl").rglob("*.py")}):
        paths = sorted(path for path in package.glob("*.py") if not path.stem.startswith("__"))
        lines += [f"| **{package.relative_to(ROOT)}/** | |"] if paths else []
        lines += [f"| `{path.stem}` | {_first_sentence(path)} |" for path in paths]
    return "\n".join(["| module | |", "| --- | --- |", *lines])


def _first_sentence(path: Path) -> str:
    said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return re.split(r"(?<!et al)\.(?=\s|$)", " ".join(said.split("\n\n")[0].split()))[0].replace("|", "\\|")


def studies() -> str:
    """The studies of config/, by what they say of themselves."""
    found = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(ROOT.glob("config/*.yaml"))}
    return "\n".join(f"| `{name}.yaml` | {study['description']} |" for name, study in found.items())


def keys() -> str:
    """The keys of a study, and those of its training, with their defaults."""
    lines = ["| key | meaning | default |", "| --- | --- | --- |"]
    for name, part in schema()["properties"].items():
        lines.append(_key(name, part, name in schema()["required"]))
        lines += [_key(f"{name}.{own}", it) for own, it in part.get("properties", {}).items() if name == "training"]
    return "\n".join(lines)


def _key(name: str, part: Mapping[str, Any], required: bool = False) -> str:
    default = "required" if required else json.dumps(part["default"]) if part.get("default") not in (None, {}) else ""
    meaning = part.get("description", "").replace("|", "\\|")
    return f"| `{name}` | {meaning} | {default.strip(chr(34))} |"


PARTS: Mapping[str, Callable[[], str]] = {
    "modules": modules,
    "paper-scale": paper_scale,
    "paper-scale-finding": paper_scale_finding,
    "paper-scale-differences": paper_scale_differences,
    "outside": outside,
    "plan-power": plan_power,
    "checks": checks,
    "fedbuff": fedbuff,
    "fedbuff-long": fedbuff_long,
    "own-labels": own_labels,
    "main-table": main_table,
    "verdicts": verdicts,
    "on-cifar10": on_cifar10,
    "ten-seeds": ten_seeds,
    "readings": readings,
    "facts": facts,
    "rulegraph": rulegraph,
    "studies": studies,
    "keys": keys,
    "scale": scale,
    "finding": finding,
    "meaning": meaning,
    "counts": counts,
    "decided": decided,
    "example": example,
    **{f"notebook-{cell + 1}": partial(printed, cell) for cell in range(4)},
}
MARKED = re.compile(r"(<!-- made: ([\w-]+) [^\n]*-->\n)(.*?)(<!-- end: \2 -->)", re.DOTALL)


def documents() -> list[Path]:
    return sorted(
        [*ROOT.glob("docs/*.md"), ROOT / "README.md", ROOT / "config/README.md", *ROOT.glob("results/*/README.md")]
    )


def parts(text: str) -> dict[str, str]:
    """By name, the made parts of a document as they stand."""
    return {name: body for _, name, body, _ in MARKED.findall(text)}


def written_anew(text: str) -> str:
    """The document with its made parts from today's files."""
    return MARKED.sub(lambda match: f"{match[1]}{PARTS[match[2]]()}\n{match[4]}", text)


if __name__ == "__main__":
    draw()
    for path in documents():
        before = path.read_text(encoding="utf-8")
        if (after := written_anew(before)) != before:
            path.write_text(after, encoding="utf-8")
            print(path)
