"""What a user names leads nowhere else: paths stay below their folders, the shell and the pages take text for text."""

from __future__ import annotations

import csv
import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from apfl.cli import main
from apfl.data.dataset import load_dataset
from apfl.errors import UserError
from apfl.registry.trees import ROOT
from apfl.storage.files import atomic_path, write_json, write_text
from apfl.study.cells import artefacts, cells, runs
from apfl.study.load import load_study
from tests.helpers.paper_runs import both, write_run
from tests.helpers.project import Project
from tests.helpers.studies import tiny

SETTING = "dirichlet-alpha0.1-clients3"


# Names and paths.


@pytest.mark.parametrize(
    "changes",
    [
        *({"name": name} for name in ("..", "../x", "/x", "a/b", "x\n", "data", "semantics", "reference", "logs", "")),
        *({"data": {name: {"source": "digits"}}} for name in ("../x", "/x", "digits\n", "a/b", ".")),
        *({"semantics": {name: {"source": "packaged"}}} for name in ("../x", "/x", "a/b", "x\n")),
        *({"methods": {name: {"module": "local"}}} for name in ("../x", "/x", "a/b", "x\n")),
        *({"methods__local": {"module": name}} for name in ("../local", "external/../x", "/x", "local\n", "a.b")),
        *({"methods__fedavg-ft": {"base": name}} for name in ("../x", "fedavg\n")),
        *({"schedules": {name: {}}} for name in ("../x", "a/b", "x\n")),
        *({"apfl__readings": [name]} for name in ("../x", "literal\n")),
        *({"tables__table2__alphas": [name]} for name in ("../x", "0.1/..", "0.1\n", "٣")),
        *(
            {"tables__table2__partitions": {"digits": name}}
            for name in ("../x", "iid/../..", "iid\n", "dirichlet-alpha../x")
        ),
        *(
            {"figures__figure4": {"panels": {"digits": name}}}
            for name in ("../x", "iid-clients5/..", "quantity-alpha/")
        ),
        *(
            {"data__x": {"source": kind, "folder": path, "classes": 2}, "data_root": "/somewhere"}
            for kind in ("folder", "parquet")
            for path in ("..", "../x", "a/../../x", "a/..", "/etc", "x\n", "$HOME", 'a"b', "`x`", "a\\b", "")
        ),
        *(
            {"semantics__x": {"source": "table", "path": path}, "semantics_root": "/somewhere"}
            for path in ("../x", "/etc/x", "a/../x", "$(x)")
        ),
        *(
            {"semantics__x": {"source": "table", "paths": {"digits": path}}, "semantics_root": "/somewhere"}
            for path in ("../x", "/etc/x", "{dataset}/../x")
        ),
        *({"schedules": {"a": {"latency": "trace", "trace": path}}} for path in ("/etc/passwd", "../x", "a/../../x")),
    ],
    ids=lambda changes: json.dumps(changes)[:70],
)
def test_a_name_or_path_that_leads_out_of_its_folder_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError) as refused:
        load_study(tiny(**changes))
    assert "\n" not in " ".join(str(refused.value).split())


@pytest.mark.parametrize("path", sorted((ROOT / "config").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_file_of_a_study_lies_below_the_results(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APFL_DATA_ROOT", "/somewhere")
    monkeypatch.setenv("APFL_SEMANTICS_ROOT", "/somewhere")
    loaded = load_study(path)
    names = [entry.path for entry in artefacts(loaded)] + [run.path for run in runs(loaded)]
    names += [
        run for output in (*loaded.tables, *loaded.figures) for cell in cells(loaded, output) for run in cell.runs
    ]
    for name in names:
        assert re.fullmatch(r"[A-Za-z0-9._/+-]+", name) and ".." not in name.split("/") and not name.startswith("/")


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", "x\n", "", "A", "-x"])
def test_the_command_line_takes_no_such_name_of_a_data_set(tmp_path: Path, name: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["data", "--source", "digits", "--out", str(tmp_path / "x.npz"), "--", name])
    assert ended.value.code == 2 and not list(tmp_path.iterdir())


def test_a_file_is_never_written_through_a_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside.txt"
    outside.write_text("mine")
    link = tmp_path / "results.json"
    link.symlink_to(outside)
    write_text(link, "new")
    assert outside.read_text() == "mine" and link.read_text() == "new" and not link.is_symlink()
    with atomic_path(link) as part:
        assert part.parent == link.parent and not part.is_symlink() and part.stat().st_mode & 0o077 == 0
        part.write_text("newer")


# The shell.

HOSTILE = 'it\'s; touch ran1 & $(touch ran2) `touch ran3` "q" #x'


def test_spaces_quotes_and_commands_in_names_and_roots_are_only_names(tmp_path: Path) -> None:
    root = tmp_path / HOSTILE / "root"
    folder = "im ages; touch ran4 & (touch ran5) #'x'".replace("'", "")
    for name in ("a", "b"):
        (root / folder / name).mkdir(parents=True)
        for number in range(20):
            Image.new("L", (32, 32), number * 10).save(root / folder / name / f"{number}.png")
    table = "ta ble; touch ran6.npz"
    np.savez(root / table, embedding=np.ones((2, 4), np.float32), names=np.array(["a", "b"]))
    template = "a \"$(touch ran7)\" 'of; touch ran8' {}"
    given = tiny(
        data={"pets": {"source": "folder", "folder": folder, "classes": 2}},
        semantics={"w2v": {"source": "table", "path": table}, "odd": {"source": "table", "path": table}},
        methods={"fedavg": {}, "apfl": {"title": HOSTILE}, "other": {"module": "apfl", "semantics": "odd"}},
        apfl={"semantics": "w2v"},
        description=HOSTILE,
        data_root=str(root),
        semantics_root=str(root),
    )
    given["semantics"]["odd"]["template"] = [template]
    checkout = tmp_path / HOSTILE / "checkout; touch ran9"
    checkout.mkdir()
    project = Project(checkout, given)
    targets = ["results/data/pets.npz", "results/semantics/pets/w2v.npz", "results/tiny/study.json"]
    targets += [f"results/tiny/partitions/pets/{SETTING}/seed0.npz", "results/semantics/pets/odd.npz"]
    done = project.run("snakemake", *targets, "--quiet", "host", "--printshellcmds")
    assert not list(tmp_path.rglob("ran[0-9]*")), "something was run"
    dataset = load_dataset(project.root / "results/data/pets.npz")
    assert len(dataset) == 40 and dataset.class_names == ("a", "b"), done.stderr
    assert (project.root / targets[1]).is_file() and (project.root / targets[3]).is_file(), done.stderr
    assert json.loads((project.root / targets[2]).read_text())["description"] == HOSTILE
    # A table reads no prompts, so this job alone fails; its command held the prompt as one word.
    assert done.returncode == 1 and not (project.root / targets[4]).exists()
    command = next(line for line in done.stderr.splitlines() if re.search(r"python .* --template ", line))
    assert template in shlex.split(command.split(" > ")[0])


@pytest.mark.slow
def test_a_foreign_program_gets_the_files_of_its_rule_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = tiny(methods={"fedavg-flower": {"module": "external/flower"}}, apfl={}, semantics={})
    project = Project(tmp_path, given)
    seen = tmp_path.with_suffix(".json")
    python = project.root / ".venv-flower/bin/python"
    python.parent.mkdir(parents=True)
    script = f"import json, os, sys; json.dump([sys.argv[1:], dict(os.environ)], open({str(seen)!r}, 'w')); sys.exit(3)"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -c {shlex.quote(script)} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("HF_TOKEN", "secret")
    done = project.run("snakemake")
    assert done.returncode == 1
    (_, *arguments), environment = json.loads(seen.read_text())
    allowed = {"PATH", "HOME", "TMPDIR", "OMP_NUM_THREADS", "LD_LIBRARY_PATH"}
    assert set(environment) - {"PWD", "SHLVL", "_", "OLDPWD", "LC_CTYPE"} <= allowed
    (run,) = runs(load_study(given))
    options = dict(zip(arguments[::2], arguments[1::2], strict=True))
    files = {f"--{name}": f"results/{path}" for name, path in run.inputs.items()}
    assert options == files | {"--spec": options["--spec"], "--out": f"results/{run.path}"}
    assert json.loads(options["--spec"]) == json.loads(json.dumps(dict(run.spec)))


# What is shown.

TITLE = "<script>alert(1)</script> & $x^{$ % # _a_ | \\input{x} 'q\" *b*"


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables, figures and report of a study that has markup in every text; its runs are made up."""
    folder = tmp_path_factory.mktemp("shown")
    given = tiny(
        methods__apfl={"title": f"AP-FL {TITLE}"},
        description=TITLE,
        figures={"figure4": {"panels": {"digits": "dirichlet-alpha0.1"}, "clients": 3}},
        methods__local={"title": TITLE},
    )
    write_json(folder / "study.json", given)
    for run in runs(load_study(given)):
        model = {"local": "local", "fedavg-ft": "localized", "apfl": "personalized"}.get(run.method, "global")
        write_run(folder / "results", run.path, both(0.5, model=model), module=run.spec.get("module", ""))
        (folder / "results" / run.path / "state.safetensors").touch()
    for command in ("tables", "figures", "report"):
        with pytest.raises(SystemExit) as ended:
            main([command, str(folder / "study.json"), "--results", str(folder / "results")])
        assert not ended.value.code
    return folder / "results/tiny"


def test_pages_escape_what_they_show(shown: Path) -> None:
    pages = [shown / "report.html", shown / "tables/table2.html"]
    for page in pages:
        text = page.read_text()
        assert "<script>alert" not in text and "&lt;script&gt;alert(1)&lt;/script&gt;" in text, page
    for picture in (shown / "figures").glob("*.svg"):
        assert "<script" not in picture.read_text()


def test_markdown_and_latex_escape_what_they_show(shown: Path) -> None:
    text = (shown / "tables/table2.md").read_text()
    assert "<script" not in text and "&lt;script>alert(1)&lt;/script>" in text
    for panel in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", row)) for row in panel.splitlines()}
        assert len(widths) == 1, "a bar in a title makes no column"
    text = (shown / "tables/table2.tex").read_text()
    assert r"\input" not in text.replace(r"\textbackslash{}input", "")
    assert r"\$x\textasciicircum{}\{\$ \% \# \_a\_" in text


@pytest.mark.parametrize("title", ["=1+1", "+1", "-1", "@x", "=cmd|' /C calc'!A0", "\t=1", " =1", "\n=1"])
def test_a_title_is_no_formula_of_a_spreadsheet(title: str) -> None:
    with pytest.raises(UserError, match="title"):
        load_study(tiny(methods__local={"title": title}))
    entry = {"method": "fedavg", "schedule": "sync", "title": title}
    with pytest.raises(UserError, match="title"):
        load_study(tiny(schedules={"sync": {"mode": "sync"}}, tables={"dropout": {"entries": [entry]}}))


def test_no_cell_of_text_in_a_csv_file_is_a_formula(shown: Path) -> None:
    files = [*shown.rglob("*.csv")]
    assert len(files) >= 2
    for file in files:
        frame = pd.read_csv(file, keep_default_na=False, dtype=str)
        for _, row in frame.iterrows():
            for cell in row:
                number = re.fullmatch(r"[-+]?[0-9.]+(e[-+]?[0-9]+)?", cell)
                assert number or cell == "-" or not cell.startswith(("=", "+", "-", "@")), f"{file}: {cell}"
    with (shown / "tables/table2.csv").open(newline="") as stream:
        assert TITLE in {row["title"] for row in csv.DictReader(stream)}
