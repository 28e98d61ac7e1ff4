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
from tests.documents import PARTS, REFERENCE, archived, documents, parts
from tests.helpers.pages import dumbbells, open_words, section_ids
from tests.pictures import notebook

STUDY = "config/cpu.yaml"
"""Where the study as the archive has it is put, so that commands name the file that one would run it by."""


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_the_numbers_of_documents_are_those_of_committed_files(path) -> None:
    for name, body in parts(path.read_text(encoding="utf-8")).items():
        assert body == PARTS[name]() + "\n", f"{path.name}: {name}; run: python -m tests.documents"


def test_every_made_part_stands_in_a_document() -> None:
    assert {name for path in documents() for name in parts(path.read_text(encoding="utf-8"))} == set(PARTS)


def test_the_grid_s_numbers_are_those_of_table_2_s_seeds_and_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, found = PARTS["grid"](), archived("grid", "dataset", "setting")
    (first, *_) = found.index.unique("setting")
    dropping = {first: "pathological-classes2-missing10-clients10-train3000"}
    tried, elsewhere = found.rename(index={0: 100}, level="seed"), found.rename(index=dropping, level="setting")
    more = pd.concat([found, tried, elsewhere])
    monkeypatch.setattr("tests.documents.archived", lambda *_: more[~more.index.duplicated()])
    assert PARTS["grid"]() == shown
    monkeypatch.setattr("tests.documents.archived", lambda *_: found.drop(4, level="seed"))
    assert all("(4)" in cell for cell in PARTS["grid"]().splitlines()[2].split("|")[2:-1])


def test_the_words_of_the_first_page_are_what_the_numbers_say() -> None:
    table = pd.read_csv(REFERENCE / "tables" / "table2.csv")
    own = table[(table["seeds"] > 0) & (table["test"] == "own")].pivot_table(
        index=["dataset", "clients", "alpha"], columns="column", values="reproduced_mean"
    )
    assert (own["AP-FL"] < own["Local"]).all()
    assert list(own.index[own["AP-FL"] < own["FedAvg"]].get_level_values("dataset")) == ["emnist_letters_a_to_l"]
    curve = pd.read_csv(REFERENCE / "figures" / "figure_multiverse.csv")
    assert (curve.loc[curve["test"] == "pooled", "mean"] < 0).all()
    teachers = pd.read_csv(REFERENCE / "verdict" / "teachers.csv")
    literal = teachers[
        (teachers["dataset"] == "cifar10") & (teachers["reading"] == "literal") & (teachers["seeds"] > 0)
    ]
    in_table2 = literal[literal["setting"].str.startswith("dirichlet")]
    assert len(in_table2) and (in_table2["teachers_mean"] < in_table2["global_mean"]).all()
    controls = pd.read_csv(REFERENCE / "verdict" / "controls.csv", keep_default_na=False)
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
    table = table[(table["dataset"] == "cifar10") & (table["setting"] == "dirichlet-alpha0.1-clients5")]
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
    assert len(rows) == 16
    assert dumbbells(page) == {f"{row}-{what}" for row in rows for what in ("published", "reproduced")}


def test_the_page_begins_with_what_came_out_ends_with_what_is_missing_and_is_short() -> None:
    check_page((REFERENCE / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def remade(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with tables, figures and verdicts, made again from the metrics of the reference."""
    folder = tmp_path_factory.mktemp("reference")
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("APFL_DATA_ROOT", "APFL_SEMANTICS_ROOT"):
            patch.setenv(variable, "unpacked")
        study = unpack(REFERENCE, folder / "results")
        patch.chdir(folder)
        (folder / STUDY).parent.mkdir()
        study.rename(folder / STUDY)
        for command, made in (("tables", "tables"), ("figures", "figures"), ("claims", "verdict")):
            made_anew([command, STUDY, "--results", "results", "--partial", "--out", str(folder / made)])
        yield folder


@pytest.mark.slow
def test_tables_points_and_verdicts_are_made_from_the_metrics_again(remade: Path) -> None:
    kept = [path for path in REFERENCE.rglob("*") if path.suffix in (".csv", ".md")]
    committed = [path for path in kept if path.name != "README.md"]
    assert len(committed) > 10
    for path in committed:
        assert path.read_text() == (remade / path.relative_to(REFERENCE)).read_text(), path.relative_to(REFERENCE)


@pytest.mark.slow
def test_what_the_grid_decides_is_made_from_its_metrics_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("APFL_DATA_ROOT", "APFL_SEMANTICS_ROOT"):
        monkeypatch.setenv(variable, "unpacked")
    study = unpack(ROOT / "results" / "grid", tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").mkdir()
    study.rename("config/grid.yaml")
    made_anew(["claims", "config/grid.yaml", "--partial", "--results", "results", "--out", "verdict"])
    assert Path("verdict/claims.csv").read_text() == (ROOT / "results" / "grid" / "claims.csv").read_text()


@pytest.mark.slow
def test_the_page_that_is_made_from_the_metrics_again_is_so_too(remade: Path) -> None:
    made_anew(["report", str(remade / STUDY), "--results", str(remade / "results"), "--out", str(remade / "page.html")])
    check_page((remade / "page.html").read_text(encoding="utf-8"))


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
def test_latex_sets_every_table_without_a_complaint(remade: Path) -> None:
    if not shutil.which("pdflatex") and not os.environ.get("CI"):
        pytest.skip("needs pdflatex (Debian: texlive-latex-recommended)")
    tables = sorted((remade / "tables").glob("*.tex"))
    assert len(tables) > 4
    body = "\n".join(rf"\input{{{path.name}}}\clearpage" for path in tables)
    (remade / "tables/all.tex").write_text(f"{PREAMBLE}{body}\n\\end{{document}}\n")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    for _ in range(2):  # the second time references are known
        done = subprocess.run(command, cwd=remade / "tables", capture_output=True, text=True, errors="replace")
        assert done.returncode == 0, done.stdout[-3000:]
    log = (remade / "tables/all.log").read_text(errors="replace")
    assert not [line for line in log.splitlines() if any(word in line for word in TROUBLE)]
