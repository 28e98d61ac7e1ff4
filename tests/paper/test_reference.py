"""results/reference: its tables, figures and verdicts are what its metrics give, and documents say nothing else."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from apfl.cli import register
from apfl.jobs.archive import unpack
from apfl.registry.trees import ROOT
from apfl.study.tuning import TUNED
from tests.documents import (
    AGAIN,
    PARTS,
    REFERENCE,
    SMALL,
    TEN_SEEDS,
    alone_on,
    by_row_and_seed,
    documents,
    friends_on_new_seeds,
    own_classes,
    parts,
    unseen_classes,
)  # fmt: skip
from tests.helpers.pages import dumbbells, open_words, section_ids
from tests.pictures import notebook

STUDIES = {
    "reference": "config/grid.yaml",
    "reference_ten_seeds": "config/ten_seeds.yaml",
    "small": "config/cpu.yaml",
}
"""Where the study as an archive has it is put, so that commands name the file that one would run it by."""


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_the_numbers_of_documents_are_those_of_committed_files(path) -> None:
    for name, body in parts(path.read_text(encoding="utf-8")).items():
        assert body == PARTS[name]() + "\n", f"{path.name}: {name}; run: python -m tests.documents"


def test_every_made_part_stands_in_a_document() -> None:
    assert {name for path in documents() for name in parts(path.read_text(encoding="utf-8"))} == set(PARTS)


def test_ten_seeds_are_the_mean_of_the_five_that_were_there_and_the_five_new_ones() -> None:
    for run, reading in (("apfl", "literal"), ("apfl--reading-soft-labels", "best reading")):
        for name, measure in AGAIN.items():
            five, ten = (float(alone_on(folder, reading).loc[name]["estimate"]) for folder in (REFERENCE, TEN_SEEDS))
            new = measure(partial(friends_on_new_seeds, run))
            assert len(new) == 5 and (five + new.mean()) / 2 == pytest.approx(ten, abs=1e-3)


@pytest.mark.parametrize("archive", ["reference", "paper_scale"])
def test_the_first_page_says_of_the_own_test_what_was_measured(archive: str) -> None:
    own = by_row_and_seed(archive, "own")
    literal = own["apfl", "personalized"].dropna()
    assert len(literal)
    assert (literal > own["fedavg", "global"][literal.index]).all()
    assert (literal < own["local", "local"][literal.index]).all()


def test_the_words_of_the_first_page_are_what_the_numbers_say() -> None:
    own, pooled = (
        by_row_and_seed("reference", test).groupby(["dataset", "setting"]).mean() for test in ("own", "pooled")
    )
    soft, literal = ("apfl--reading-soft-labels", "personalized"), ("apfl", "personalized")
    rows = own[soft].dropna().index
    assert (pooled[soft] > pooled[literal])[rows].all() and (pooled[soft] < pooled["fedavg", "global"])[rows].all()
    assert (own[soft] < own["fedavg", "global"])[rows].mean() > 0.5
    assert (own[soft] < own["local", "local"] - 10)[rows].all()
    assert (pooled["fedgen", "global"] > pooled["fedavg", "global"])[rows].mean() > 0.5
    distilled = (pooled["feddf", "global"] - pooled["fedavg", "global"])[rows]
    assert (distilled.loc[["fashion_mnist", "nist_letters"]] == 0).all()
    assert (distilled.loc[["cifar10", "cifar100"]] < 0).all() and distilled.index.unique("dataset").size == 4
    teachers = pd.read_csv(REFERENCE / "verdict" / "teachers.csv")
    teachers = teachers[(teachers["reading"] == "literal") & (teachers["status"] == "ok")]
    below = teachers[teachers["setting"].str.startswith("dirichlet")].set_index("dataset")
    below = below["teachers_mean"] < below["global_mean"]
    assert below["cifar10"].all() and below["cifar100"].mean() < 0.34
    paper = pd.read_csv(ROOT / "apfl/paper/published/table2.csv").set_index(["dataset", "clients", "alpha", "method"])
    printed = paper["accuracy_mean"].unstack("method").loc[["cifar10", "cifar100"]]
    assert (printed["FedGen"] < printed["FedAvg"] - 10)["cifar10"].all()
    assert ((printed["FedDF"] - printed["FedAvg"]).abs() < 4).all()


def test_the_words_of_the_first_page_about_fewer_images_of_a_class_are_what_the_verdicts_say() -> None:
    few = pd.read_csv(REFERENCE / "verdict" / "claims.csv", keep_default_na=False)
    few = few[(few["claim"] == "few-samples-hurt") & (few["test"] == "pooled") & (few["level"] == "stand-in")]
    said = few[few["dataset"] == "nist_letters"].set_index("reading")["status"]
    assert said["best reading"] == said["soft-labels"] == "contradicted" and said["literal"] == "reproduced"


def test_the_words_of_the_first_page_about_the_small_study_are_what_its_numbers_say() -> None:
    curve = pd.read_csv(SMALL / "figures" / "figure_multiverse.csv")
    curve = curve[curve["test"] == "pooled"]
    assert set(curve.groupby("setting").size()) == {23} and (curve["mean"] < 0).all()


def test_the_words_of_the_first_page_about_what_embeddings_mean_are_what_the_controls_say() -> None:
    found = unseen_classes()
    assert set(found) == {"cifar10", "cifar100", "fashion_mnist"}
    for rows in found.values():
        assert rows.loc[rows["kind"] == "difference", "above_chance_low"].item() > 0
    named = {name: rows.set_index("semantics") for name, rows in found.items()}
    means = {name: rows["monopoly_mean"] for name, rows in named.items()}
    controls = {name: means[name][rows["kind"] == "control"] for name, rows in named.items()}
    real = {name: means[name][rows["kind"] == "semantic"] for name, rows in named.items()}
    for name in ("cifar100", "fashion_mnist"):
        assert real[name].min() > controls[name].max() and real[name].idxmax() == "clip"
    assert real["cifar10"]["bert"] < controls["cifar10"].min()
    table = pd.read_csv(REFERENCE / "verdict" / "controls.csv", keep_default_na=False)
    soft = table[
        (table["reading"] == "soft-labels") & (table["kind"] != "difference") & (table["seeds"].astype(int) > 0)
    ]
    assert len(soft) and (soft["monopoly_mean"].astype(float) == 0).all()


def test_the_words_of_the_first_page_about_verdicts_are_what_the_claims_say() -> None:
    claims = pd.read_csv(REFERENCE / "verdict" / "claims.csv", keep_default_na=False)
    unseen = claims[(claims["claim"] == "unseen-classes-recognised") & (claims["level"] == "data set")]
    unseen = unseen[unseen["reading"] == "literal"].set_index("dataset")[["status", "corrected"]]
    assert unseen.loc["cifar100"].tolist() == ["reproduced", "open"]
    assert set(unseen.loc[["cifar10", "fashion_mnist"], "status"]) == {"open"}
    interim = claims[(claims["source"] == "paper") & claims["level"].isin(["claim", "data set"])]["interim"]
    assert not interim.astype(str).str.lower().eq("true").any()
    chosen = (REFERENCE / "verdict" / "readings.md").read_text(encoding="utf-8")
    rows = [re.split(r" *\| *", line) for line in chosen.splitlines() if "**" in line and line.startswith("|")]
    bold = {(test, cells.startswith("**")) for _, _, _, test, cells, *_ in rows}
    assert bold == {("pooled test", False), ("own test", True)}  # the first column is the literal reading
    dropouts = pd.read_csv(REFERENCE / "tables" / "table3.csv", keep_default_na=False)
    soft = dropouts[(dropouts["dataset"] == "cifar10") & (dropouts["reading"] == "soft-labels")]
    soft = soft[(soft["status"] == "ok") & soft["test"].isin(["own", "monopoly"])]
    assert len(soft) == 4 and (soft["reproduced_mean"].astype(float) < 5).all()


def at_the_paper_s_scale(test: str, round: int | None = None) -> pd.DataFrame:
    """Accuracy at α = 0.01 after a round, by default the last: a row for each run and model, a column for each seed."""
    frame = pd.read_parquet(ROOT / "results" / "paper_scale" / "metrics.parquet")
    frame = frame[(frame["setting"] == "dirichlet-alpha0.01-clients5") & (frame["test"] == test)]
    frame = frame[frame["round"] == (round or frame.groupby("run")["round"].transform("max"))]
    frame = frame.assign(right=frame["accuracy"] * frame["train_samples"])
    sums = frame.groupby(["method", "model", "reading", "seed"])[["right", "train_samples"]].sum()
    return (sums["right"] / sums["train_samples"]).unstack("seed")


def test_the_first_page_says_of_the_paper_s_scale_what_was_measured_there() -> None:
    pooled, early = at_the_paper_s_scale("pooled"), at_the_paper_s_scale("pooled", 3)
    fedavg, soft = ("fedavg", "global", ""), ("apfl", "personalized", "soft-labels")
    ours = pooled.loc[("apfl", "personalized")]
    assert ours.notna().all(axis=None) and len(ours) == 3 and len(pooled.columns) == 3
    assert (ours < pooled.loc[fedavg]).all(axis=None)
    assert (early.loc[soft] > early.loc[fedavg]).sum() == 1
    for test in ("pooled", "own"):
        table = at_the_paper_s_scale(test)
        assert (table.loc[("apfl-plus", "personalized", "")] > table.loc[fedavg]).all()
    assert (table.loc[("apfl-plus", "personalized", "")] < table.loc[("local", "local", "")]).all()


def test_the_page_on_the_paper_s_scale_says_what_was_measured_there() -> None:
    pooled, lead = at_the_paper_s_scale("pooled"), {}
    fedavg = pooled.loc[("fedavg", "global", "")]
    assert (own_classes("paper_scale") < 100 * fedavg).all()
    published, tenth, quarter = (pooled.loc[("apfl", f"beta{beta}", "soft-labels")] for beta in (0.01, 0.1, 0.25))
    assert (tenth > published).all() and (quarter > published).all()
    for method in ("scaffold", "fedprox"):
        lead[method] = pooled.loc[(method, "global", "")] - fedavg
        assert (lead[method] > 0).any() and (lead[method] < 0).any()
    assert (pooled.loc[("local", "local", "")] > 0.1571).all()
    before = at_the_paper_s_scale("pooled", 9).loc[("fedavg", "global", "")]
    assert (fedavg > before).all()


def test_the_notebook_s_means_are_those_of_table_2() -> None:
    means = notebook()[0]["means"]
    table = pd.read_csv(REFERENCE / "tables" / "table2.csv", keep_default_na=False)
    table = table[(table["dataset"] == "cifar10") & (table["setting"] == "dirichlet-alpha0.1-clients5-train3000")]
    table = table[~table["column"].str.endswith(TUNED)]
    table = table.set_index(["method", "reading", "test"])
    for name in ("mean", "std"):
        printed = table.loc[means.index, f"reproduced_{name}"].astype(float)
        assert printed.tolist() == pytest.approx(means[name].tolist(), abs=1e-3)


def made_anew(command: list[str]) -> None:
    done = CliRunner().invoke(register(), command, catch_exceptions=False)
    assert done.exit_code == 0, done.output


def check_page(page: str) -> None:
    assert len(open_words(page)) < 6000
    assert section_ids(page)[:2] == ["conclusion", "verdicts"] and section_ids(page)[-1] == "missing"
    table = pd.read_csv(REFERENCE / "tables" / "table2.csv")
    run = table[(table["seeds"] > 0) & (table["test"] == "pooled") & table["published_mean"].notna()]
    run = run[run["column"].isin(["AP-FL", "FedAvg"])]
    rows = {f"{row.dataset}-{row.setting}-{row.column}" for row in run.itertuples()}
    assert len(rows) == len(run) > 12
    assert dumbbells(page) == {f"{row}-{what}" for row in rows for what in ("published", "reproduced")}


def test_the_page_begins_with_what_came_out_ends_with_what_is_missing_and_is_short() -> None:
    check_page((REFERENCE / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module", params=STUDIES)
def remade(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """An archive's name and a folder with its tables, figures and verdicts, made again from its metrics."""
    folder, place = tmp_path_factory.mktemp(request.param), STUDIES[request.param]
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("APFL_DATA_ROOT", "APFL_SEMANTICS_ROOT"):
            patch.setenv(variable, "unpacked")
        study = unpack(ROOT / "results" / request.param, folder / "results")
        patch.chdir(folder)
        (folder / place).parent.mkdir()
        study.rename(folder / place)
        for command, made in (("tables", "tables"), ("figures", "figures"), ("claims", "verdict")):
            made_anew([command, place, "--results", "results", "--partial", "--out", str(folder / made)])
        yield request.param, folder


@pytest.mark.slow
def test_tables_points_and_verdicts_are_made_from_the_metrics_again(remade: tuple[str, Path]) -> None:
    name, folder = remade
    archive = ROOT / "results" / name
    kept = [path for path in archive.rglob("*") if path.suffix in (".csv", ".md")]
    committed = [path for path in kept if path.name != "README.md"]
    assert len(committed) > 5
    for path in committed:
        assert path.read_text() == (folder / path.relative_to(archive)).read_text(), path.relative_to(archive)


@pytest.mark.slow
@pytest.mark.parametrize("remade", ["reference"], indirect=True)
def test_the_page_that_is_made_from_the_metrics_again_is_so_too(remade: tuple[str, Path]) -> None:
    name, folder = remade
    command = ["report", str(folder / STUDIES[name]), "--results", str(folder / "results")]
    made_anew([*command, "--out", str(folder / "page.html")])
    check_page((folder / "page.html").read_text(encoding="utf-8"))


PREAMBLE = r"""
\documentclass[a4paper]{article}
\usepackage[T1]{fontenc}
\usepackage{booktabs,graphicx}
\usepackage[margin=2cm]{geometry}
\begin{document}
"""
TROUBLE = ("Overfull", "Float too large", "undefined", "multiply defined", "Missing character", "Unicode character")
"""What LaTeX says where a table is cut off, a reference leads nowhere, or a letter is lost."""


@pytest.mark.slow
def test_latex_sets_every_table_without_a_complaint(remade: tuple[str, Path]) -> None:
    made = remade[1] / "tables"
    if not shutil.which("pdflatex") and not os.environ.get("CI"):
        pytest.skip("needs pdflatex (Debian: texlive-latex-recommended)")
    tables = sorted(made.glob("*.tex"))
    assert tables
    body = "\n".join(rf"\input{{{path.name}}}\clearpage" for path in tables)
    (made / "all.tex").write_text(f"{PREAMBLE}{body}\n\\end{{document}}\n")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    for _ in range(2):  # the second time references are known
        done = subprocess.run(command, cwd=made, capture_output=True, text=True, errors="replace")
        assert done.returncode == 0, done.stdout[-3000:]
    log = (made / "all.log").read_text(errors="replace")
    assert not [line for line in log.splitlines() if any(word in line for word in TROUBLE)]
