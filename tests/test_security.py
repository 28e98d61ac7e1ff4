"""Nothing that a user is given can run code or write outside the results: files, names, titles, and the shell."""

from __future__ import annotations

import ast
import csv
import io
import json
import os
import pickle
import re
import shlex
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
import yaml
from paper_runs import both, write_run
from PIL import Image
from studies import tiny
from test_workflow import Project

from apfl.artifacts import atomic_path, write_json, write_text
from apfl.cli import main
from apfl.data.dataset import load_dataset, save_dataset
from apfl.data.decode import make_dataset
from apfl.data.partition import make_partition, save_partition
from apfl.data.sources import digits
from apfl.errors import UserError
from apfl.registry import ROOT
from apfl.study import artefacts, cells, load_study, runs

SETTING = "dirichlet-alpha0.1-clients3"


# What the source may not say.

LOADERS = {"torch.load", "torch.jit.load", "yaml.load", "yaml.full_load", "yaml.unsafe_load", "os.system", "os.popen"}
MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "pty", "xmlrpc"}
CALLS = {"eval", "exec", "compile", "__import__"}
SOURCES = sorted(
    path for folder in ("apfl", "baselines", "benchmarks", "workflow") for path in (ROOT / folder).rglob("*.py")
)


def forbidden(source: str) -> list[str]:
    """The lines of a program that could run what they read."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names: set[str] = set()
        if isinstance(node, ast.Import):
            names = {alias.name.split(".")[0] for alias in node.names} & MODULES
        elif isinstance(node, ast.ImportFrom):
            names = {(node.module or "").split(".")[0]} & MODULES
            names |= {f"{node.module}.{alias.name}" for alias in node.names} & LOADERS
        elif isinstance(node, ast.Name) and node.id in CALLS:
            names = {node.id}
        elif isinstance(node, ast.Attribute):
            text = ast.unparse(node)
            names = {text} & LOADERS | {name for name in ("read_pickle", "to_pickle") if node.attr == name}
        elif isinstance(node, ast.Call):
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if ast.unparse(node.func) in ("np.load", "numpy.load") and keywords.get("allow_pickle") != "False":
                names = {"np.load without allow_pickle=False"}
            if keywords.get("allow_pickle", "False") != "False" or keywords.get("shell", "False") != "False":
                names = {"allow_pickle or shell"}
            if keywords.get("weights_only", "True") != "True" or keywords.get("trust_remote_code", "False") != "False":
                names = {"weights_only or trust_remote_code"}
        found += [f"line {node.lineno}: {name}" for name in names]
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_loads_pickles_or_runs_what_it_reads(path: Path) -> None:
    assert forbidden(path.read_text()) == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(path, weights_only=True)",
        "from torch import load",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "np.save(path, x, allow_pickle=True)",
        "yaml.load(text, Loader=Loader)",
        "eval(text)",
        "subprocess.run(text, shell=True)",
        "pd.read_pickle(path)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
    ],
)
def test_the_search_finds_what_it_looks_for(line: str) -> None:
    assert forbidden(line)


# Pickles in every place where a file is read.


class Bomb:
    """A pickle that leaves a folder behind when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def as_pickle(path: Path, marker: Path) -> None:
    path.write_bytes(pickle.dumps(Bomb(marker)))


def as_torch(path: Path, marker: Path) -> None:
    import torch

    torch.save({"embedding": Bomb(marker)}, path)


def as_objects(path: Path, marker: Path) -> None:
    """An npz with an object array under every name that a reader asks for."""
    names = "images labels class_names name source client is_train counts dropout unseen specification embedding names"
    with path.open("wb") as stream:
        np.savez(stream, **{name: np.array([Bomb(marker)], dtype=object) for name in names.split()}, allow_pickle=True)


def as_yaml(path: Path, marker: Path) -> None:
    path.write_text(f"name: !!python/object/apply:os.mkdir [{marker}]\n")


def as_template(path: Path, marker: Path) -> None:
    path.write_text(f"__use_yte__: true\nname: ?__import__('os').mkdir({str(marker)!r})\n")


def as_parquet(path: Path, marker: Path) -> None:
    """A column of pyarrow's old extension type whose description is a pickle."""
    metadata = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(Bomb(marker)),
    }
    field = pa.field("label", pa.int64(), metadata=metadata)
    pa.parquet.write_table(pa.table({"label": pa.array([0])}, schema=pa.schema([field])), path)


KINDS = (as_pickle, as_torch, as_objects, as_yaml, as_parquet)


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set, a partition and a specification that are in order."""
    folder = tmp_path_factory.mktemp("ready")
    dataset = make_dataset("digits", digits("digits"), max_samples=60)
    save_dataset(folder / "data.npz", dataset)
    save_partition(folder / "partition.npz", make_partition(dataset, SETTING, 0))
    training = {"rounds": 2, "local_epochs": 1, "evaluate_rounds": [2], "save_rounds": [2], "checkpoint_every": 1}
    spec = {"dataset": "digits", "setting": SETTING, "method": "fedavg", "module": "fedavg", "seed": 0}
    write_json(folder / "federate.json", spec | {"training": training})
    generator = {"semantics": "minilm", "rounds": [2], "parameters": {"epochs": 1, "width": 4}, "base": "fedavg"}
    write_json(folder / "memorize.json", spec | {"training": training} | generator)
    apfl = {"method": "apfl", "module": "apfl", "rounds": [2], "semantics": "minilm", "reading": "literal"}
    write_json(folder / "personalize.json", spec | {"training": training} | apfl)
    main_ok("semantics", "--source", "packaged", "--data", folder / "data.npz", "--out", folder / "minilm.npz")
    return folder


def main_ok(*arguments: object) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert not ended.value.code


def data_and(ready: Path, stage: str, **others: Path) -> list[object]:
    """A stage's command line on files that are in order, but for ``others``."""
    files = {"data": ready / "data.npz", "partition": ready / "partition.npz"} | others
    spec = files.pop("spec", f"@{ready / stage}.json")
    return [stage, "--spec", spec, *(word for name, path in files.items() for word in (f"--{name}", path))]


Plant = Callable[[Path, Path, Callable[[Path], None]], list[object]]
"""Called with the folder of good files, an empty folder and what plants a bomb at a path; gives the command line."""
PLACES: dict[str, Plant] = {}


def place(plant: Plant) -> Plant:
    PLACES[plant.__name__] = plant
    return plant


@place
def image_in_a_folder(ready: Path, folder: Path, bomb: Callable) -> list[object]:
    (folder / "in/cat").mkdir(parents=True)
    bomb(folder / "in/cat/1.png")
    return ["data", "pets", "--source", "folder", "--path", folder / "in", "--out", folder / "x.npz"]


@place
def parquet_file(ready: Path, folder: Path, bomb: Callable) -> list[object]:
    (folder / "in").mkdir()
    bomb(folder / "in/train.parquet")
    return ["data", "pets", "--source", "parquet", "--path", folder / "in", "--out", folder / "x.npz"]


@place
def embedding_table(ready: Path, folder: Path, bomb: Callable) -> list[object]:
    bomb(folder / "t.npz")
    source = ["--source", "table", "--path", folder / "t.npz"]
    return ["semantics", *source, "--data", ready / "data.npz", "--out", folder / "x.npz"]


@place
def data_set_of_a_partition(ready: Path, folder: Path, bomb: Callable) -> list[object]:
    bomb(folder / "data.npz")
    return ["partition", "--data", folder / "data.npz", "--setting", SETTING, "--out", folder / "x.npz"]


@place
def data_set_of_initial_parameters(ready: Path, folder: Path, bomb: Callable) -> list[object]:
    bomb(folder / "data.npz")
    return ["initial", "--spec", '{"seed": 0}', "--data", folder / "data.npz", "--out", folder / "x.safetensors"]


@place
def specification(ready: Path, folder: Path, bomb: Callable) -> list[object]:
    bomb(folder / "spec.json")
    return [*data_and(ready, "federate", spec=f"@{folder / 'spec.json'}"), "--out", folder / "out"]


@place
def partition(ready: Path, folder: Path, bomb: Callable) -> list[object]:
    bomb(folder / "partition.npz")
    return [*data_and(ready, "federate", partition=folder / "partition.npz"), "--out", folder / "out"]


@place
def embedding(ready: Path, folder: Path, bomb: Callable) -> list[object]:
    bomb(folder / "s.npz")
    return [*data_and(ready, "federate", semantics=folder / "s.npz"), "--out", folder / "out"]


@place
def proxy(ready: Path, folder: Path, bomb: Callable) -> list[object]:
    bomb(folder / "p.npz")
    return [*data_and(ready, "federate", proxy=folder / "p.npz"), "--out", folder / "out"]


@place
def state(ready: Path, folder: Path, bomb: Callable) -> list[object]:
    (folder / "run").mkdir()
    bomb(folder / "run/state.safetensors")
    write_json(folder / "run/run.json", {"status": "finished"})
    command = data_and(ready, "memorize", semantics=ready / "minilm.npz", run=folder / "run")
    return [*command, "--out", folder / "out"]


@place
def record(ready: Path, folder: Path, bomb: Callable) -> list[object]:
    (folder / "run").mkdir()
    (folder / "run/state.safetensors").touch()
    bomb(folder / "run/run.json")
    command = data_and(ready, "memorize", semantics=ready / "minilm.npz", run=folder / "run")
    return [*command, "--out", folder / "out"]


@place
def generator(ready: Path, folder: Path, bomb: Callable) -> list[object]:
    main_ok(*data_and(ready, "federate"), "--out", folder / "run")
    (folder / "generator").mkdir()
    bomb(folder / "generator/generator.safetensors")
    write_json(folder / "generator/run.json", {"status": "finished"})
    command = data_and(ready, "personalize", run=folder / "run", generator=folder / "generator")
    return [*command, "--out", folder / "out"]


@place
def study(ready: Path, folder: Path, bomb: Callable) -> list[object]:
    bomb(folder / "study.yaml")
    return ["check", folder / "study.yaml"]


@place
def study_as_json(ready: Path, folder: Path, bomb: Callable) -> list[object]:
    bomb(folder / "study.json")
    return ["plan", folder / "study.json"]


@place
def trace(ready: Path, folder: Path, bomb: Callable) -> list[object]:
    bomb(folder / "speeds.csv")
    given = tiny(schedules={"measured": {"latency": "trace", "trace": "speeds.csv"}})
    write_json(folder / "study.json", given)
    return ["check", folder / "study.json"]


@place
def metrics(ready: Path, folder: Path, bomb: Callable) -> list[object]:
    write_json(folder / "study.json", tiny())
    for run in runs(load_study(tiny())):
        write_run(folder / "results", run.path, both(0.5), module=run.spec.get("module", ""))
        bomb(folder / "results" / run.path / "metrics.parquet")
    return ["tables", folder / "study.json", "--results", folder / "results"]


@place
def table(ready: Path, folder: Path, bomb: Callable) -> list[object]:
    write_json(folder / "study.json", tiny())
    (folder / "results/tiny/tables").mkdir(parents=True)
    bomb(folder / "results/tiny/tables/table2.csv")
    return ["check-tables", folder / "study.json", "--results", folder / "results"]


@pytest.mark.parametrize("where", PLACES)
def test_a_pickle_is_refused_in_one_line_wherever_a_file_is_read(
    ready: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], where: str
) -> None:
    for kind in KINDS:
        folder, marker = tmp_path / kind.__name__, tmp_path / f"ran-{kind.__name__}"
        folder.mkdir()
        command = PLACES[where](ready, folder, lambda path: kind(path, marker))  # noqa: B023
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in command])
        said = capsys.readouterr().err.splitlines()
        assert not marker.exists(), f"{where}, {kind.__name__}: it was run"
        if (where, kind) == ("table", as_yaml):  # text is a table, though one with holes
            assert ended.value.code == 1 and not said
            continue
        assert ended.value.code == 2 and len(said) == 1, f"{where}, {kind.__name__}: {said}"
        assert said[0].startswith("apfl: error: "), said


def test_a_pickle_in_place_of_a_checkpoint_is_not_run(ready: Path, tmp_path: Path) -> None:
    for kind in KINDS:
        marker, out = tmp_path / f"ran-{kind.__name__}", tmp_path / kind.__name__
        out.mkdir()
        kind(out / "checkpoint.safetensors", marker)
        with pytest.raises(SystemExit):  # refused, or begun again
            main([str(word) for word in [*data_and(ready, "federate"), "--out", out]])
        assert not marker.exists()


def test_the_bombs_would_go_off(tmp_path: Path) -> None:
    import torch

    as_pickle(tmp_path / "a", tmp_path / "ran-a")
    pickle.loads((tmp_path / "a").read_bytes())
    as_torch(tmp_path / "b", tmp_path / "ran-b")
    torch.load(tmp_path / "b", weights_only=False)
    as_objects(tmp_path / "c", tmp_path / "ran-c")
    with np.load(tmp_path / "c", allow_pickle=True) as archive:
        archive["images"]
    as_yaml(tmp_path / "d", tmp_path / "ran-d")
    yaml.unsafe_load((tmp_path / "d").read_text())
    assert len(list(tmp_path.glob("ran-*"))) == 4


def test_a_study_is_no_template(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, marker = tmp_path / "study.yaml", tmp_path / "ran"
    as_template(path, marker)
    with pytest.raises(SystemExit) as ended:
        main(["check", str(path)])
    assert ended.value.code == 2 and "unknown key '__use_yte__'" in capsys.readouterr().err
    assert not marker.exists()


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
        semantics={"w2v": {"source": "table", "path": table}, "bert": {"source": "bert", "path": table}},
        methods={"fedavg": {}, "apfl": {"title": HOSTILE}, "other": {"module": "apfl", "semantics": "bert"}},
        apfl={"semantics": "w2v"},
        description=HOSTILE,
        data_root=str(root),
        semantics_root=str(root),
    )
    given["semantics"]["bert"]["template"] = [template]
    checkout = tmp_path / HOSTILE / "checkout; touch ran9"
    checkout.mkdir()
    project = Project(checkout, given)
    targets = ["results/data/pets.npz", "results/semantics/pets/w2v.npz", "results/tiny/study.json"]
    targets += [f"results/tiny/partitions/pets/{SETTING}/seed0.npz", "results/semantics/pets/bert.npz"]
    done = project.run("snakemake", *targets, "--quiet", "host")
    assert not list(tmp_path.rglob("ran[0-9]*")), "something was run"
    dataset = load_dataset(project.root / "results/data/pets.npz")
    assert len(dataset) == 40 and dataset.class_names == ("a", "b"), done.stderr
    assert (project.root / targets[1]).is_file() and (project.root / targets[3]).is_file(), done.stderr
    assert json.loads((project.root / targets[2]).read_text())["description"] == HOSTILE
    # The table is no model of transformers, so this job alone fails; its command held the prompt as one word.
    assert done.returncode == 1 and not (project.root / targets[4]).exists()
    command = next(line for line in done.stderr.splitlines() if re.match(r" +python .* --template ", line))
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
    python.write_text(f'#!/bin/sh\nexec {os.sys.executable} -c {shlex.quote(script)} "$@"\n')
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

TITLE = "<script>alert(1)</script> & $x^{ % # _a_ | \\input{x} 'q\" *b*"


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
        main_ok(command, folder / "study.json", "--results", folder / "results")
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
    assert r"\$x\textasciicircum{}\{ \% \# \_a\_" in text


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


def test_an_archive_with_paths_that_lead_out_is_only_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ones((2, 3), np.float32))
    with zipfile.ZipFile(tmp_path / "t.npz", "w") as archive:
        archive.writestr("../../embedding.npy", buffer.getvalue())
        archive.writestr("/tmp/embedding.npy", buffer.getvalue())
    before = sorted(tmp_path.parent.rglob("*"))
    save_dataset(tmp_path / "data.npz", make_dataset("digits", digits("digits"), max_samples=30))
    with pytest.raises(SystemExit) as ended:
        main(["semantics", "--source", "table", "--path", str(tmp_path / "t.npz"), "--data",
              str(tmp_path / "data.npz"), "--out", str(tmp_path / "x.npz")])  # fmt: skip
    assert ended.value.code == 2 and "embedding" in capsys.readouterr().err
    assert set(tmp_path.parent.rglob("*")) - set(before) == {tmp_path / "data.npz"}
