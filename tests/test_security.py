"""No file that a user is given can run code: the source holds nothing that would, and planted pickles do not go off."""

from __future__ import annotations

import ast
import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from apfl.cli import main
from apfl.data.dataset import save_dataset
from apfl.data.decode import make_dataset
from apfl.data.partition import make_partition, save_partition
from apfl.data.sources import digits
from apfl.registry.trees import ROOT
from apfl.storage.files import write_json
from apfl.study.cells import runs
from apfl.study.load import load_study
from tests.helpers.bombs import as_objects, as_parquet, as_pickle, as_template, as_torch, as_yaml
from tests.helpers.paper_runs import both, write_run
from tests.helpers.project import Project
from tests.helpers.studies import tiny

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
    spec = '{"dataset": "noise", "setting": "iid-clients3", "seed": 0, "training": {"rounds": 1}}'
    return ["initial", "--spec", spec, "--data", folder / "data.npz", "--out", folder / "x.safetensors"]


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
    for command in ("check", "plan", "status"):
        with pytest.raises(SystemExit) as ended:
            main([command, str(path)])
        assert ended.value.code == 2 and "__use_yte__ makes it a template" in capsys.readouterr().err
    assert not marker.exists()


def test_snakemake_runs_no_study_that_is_a_template_or_holds_an_object(tmp_path: Path) -> None:
    """A template is evaluated by Snakemake before the workflow can refuse it, so this one has nothing to evaluate."""
    project = Project(tmp_path, {"__use_yte__": True} | tiny())
    done = project.run("snakemake", "--dry-run")
    assert done.returncode == 2 and "__use_yte__ makes it a template" in done.stderr
    marker = tmp_path / "ran"
    as_yaml(tmp_path / "config/demo.yaml", marker)
    assert project.run("snakemake", "--dry-run").returncode and not marker.exists()


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
