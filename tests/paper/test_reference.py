"""results/reference: its tables, figures and verdicts are what its metrics give, and documents say nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from apfl.cli import register
from apfl.jobs.archive import unpack
from apfl.registry.trees import ROOT
from apfl.study.tuning import TUNED
from tests.documents import PARTS, REFERENCE, SMALL, documents, parts
from tests.helpers.pages import dumbbells, open_words, section_ids
from tests.pictures import notebook

STUDIES = {"reference": "config/grid.yaml", "small": "config/cpu.yaml"}
"""Where the study as an archive has it is put, so that commands name the file that one would run it by."""


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_the_numbers_of_documents_are_those_of_committed_files(path) -> None:
    for name, body in parts(path.read_text(encoding="utf-8")).items():
        assert body == PARTS[name]() + "\n", f"{path.name}: {name}; run: python -m tests.documents"


def test_every_made_part_stands_in_a_document() -> None:
    assert {name for path in documents() for name in parts(path.read_text(encoding="utf-8"))} == set(PARTS)


def test_the_words_of_the_first_page_are_what_the_numbers_say() -> None:
    table = pd.read_csv(REFERENCE / "tables" / "table2.csv")
    table = table[table["status"] == "ok"]
    index = ["dataset", "clients", "alpha"]
    own, pooled = (
        table[table["test"] == test].pivot_table(index=index, columns="column", values="reproduced_mean", dropna=False)
        for test in ("own", "pooled")
    )
    soft = own["AP-FL [soft-labels]"]
    literal = own["AP-FL"].dropna()
    assert (literal < own["Local"][literal.index]).all() and (literal > own["FedAvg"][literal.index]).all()
    assert (soft < own["FedAvg"]).sum() > soft.count() / 2
    assert (pooled["AP-FL [soft-labels]"] > pooled["AP-FL"])[literal.index].all()
    teachers = pd.read_csv(REFERENCE / "verdict" / "teachers.csv")
    literal = teachers[
        (teachers["dataset"] == "cifar10") & (teachers["reading"] == "literal") & (teachers["seeds"] > 0)
    ]
    in_table2 = literal[literal["setting"].str.startswith("dirichlet")]
    assert len(in_table2) and (in_table2["teachers_mean"] < in_table2["global_mean"]).all()


def test_the_words_of_the_first_page_about_the_small_study_are_what_its_numbers_say() -> None:
    curve = pd.read_csv(SMALL / "figures" / "figure_multiverse.csv")
    assert (curve.loc[curve["test"] == "pooled", "mean"] < 0).all()
    controls = pd.read_csv(SMALL / "verdict" / "controls.csv", keep_default_na=False)
    controls = controls[controls["seeds"].astype(int) > 0]
    each = controls[controls["kind"] != "difference"].set_index(["reading", "semantics"])["monopoly_mean"].astype(float)
    assert each["literal", "shuffled"] > each["literal", "w2v"]
    assert (each["uniform-soft-labels"] == 0).all()


def test_the_first_page_says_of_the_paper_s_scale_what_was_measured_there() -> None:
    frame = pd.read_parquet(ROOT / "results" / "paper_scale" / "metrics.parquet")
    frame = frame[(frame["setting"] == "dirichlet-alpha0.01-clients5") & (frame["test"] == "pooled")]
    frame = frame[frame["round"] == frame.groupby("run")["round"].transform("max")]
    frame = frame.assign(right=frame["accuracy"] * frame["train_samples"])
    sums = frame.groupby(["method", "model", "reading", "seed"])[["right", "train_samples"]].sum()
    means = (sums["right"] / sums["train_samples"]).unstack("seed")
    ours, fedavg = means.loc[("apfl", "personalized")], means.loc[("fedavg", "global", "")]
    assert ours.notna().all(axis=None) and len(ours) == len(fedavg) == 3
    assert (ours < fedavg).all(axis=None)
    assert (means.loc[("apfl-plus", "personalized")] > fedavg).all(axis=None)


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
    assert len(committed) > 10
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
    assert len(tables) >= 4
    body = "\n".join(rf"\input{{{path.name}}}\clearpage" for path in tables)
    (made / "all.tex").write_text(f"{PREAMBLE}{body}\n\\end{{document}}\n")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    for _ in range(2):  # the second time references are known
        done = subprocess.run(command, cwd=made, capture_output=True, text=True, errors="replace")
        assert done.returncode == 0, done.stdout[-3000:]
    log = (made / "all.log").read_text(errors="replace")
    assert not [line for line in log.splitlines() if any(word in line for word in TROUBLE)]
