"""Methods that lie beside a study: what is found, how it is named afterwards, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from apfl.errors import UserError
from apfl.federation.method import load_method
from apfl.jobs.calls import Plan
from apfl.registry.code import code_digest
from apfl.registry.trees import ROOT
from apfl.study.cells import runs
from apfl.study.load import load_study
from apfl.study.study import Study
from tests.helpers.studies import tiny

PROX = (ROOT / "baselines/fedprox.py").read_text()


def study(folder: Path, methods: dict[str, Any], **changes: Any) -> Path:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({**tiny(methods={"fedavg": {}, **methods}), "apfl": {}, **changes}))
    return path


def load(folder: Path, entry: dict[str, Any], **changes: Any) -> Study:
    return load_study(study(folder, {"mine": entry}, **changes))


def test_a_file_beside_the_study_is_a_method_wherever_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path.parent)
    (tmp_path / "prox_here.py").write_text(PROX.replace('"FedProx"', '"Prox here"'))
    loaded = load(tmp_path, {"module": "./prox_here.py", "mu": 0.5})
    (run,) = (run for run in runs(loaded) if run.method == "mine")
    assert run.spec["module"] == "prox_here" and run.spec["parameters"]["mu"] == 0.5
    assert loaded.methods["mine"].title == "Prox here [mine]"
    assert load_method("prox_here", {"mu": 0.5}).mu == 0.5
    assert code_digest(*run.modules) != code_digest("apfl.stages.federate")
    text = Plan.of(loaded).text(yaml.safe_load((tmp_path / "study.yaml").read_text()))
    assert f'"module": "./{tmp_path.name}/prox_here.py"' in text
    kept = tmp_path / "results/tiny/study.json"
    kept.parent.mkdir(parents=True)
    kept.write_text(text)
    assert [run.spec for run in runs(load_study(kept))] == [run.spec for run in runs(loaded)]


def test_a_method_s_file_may_use_another_one_beside_it(tmp_path: Path) -> None:
    (tmp_path / "prox_base.py").write_text(PROX)
    (tmp_path / "prox_above.py").write_text(
        '"""Above."""\nfrom baselines.prox_base import FedProx\n\nMETHOD = FedProx\n'
    )
    (run,) = (run for run in runs(load(tmp_path, {"module": "./prox_above.py"})) if run.method == "mine")
    assert "mu" in run.spec["parameters"]


@pytest.mark.parametrize(
    ("entry", "line"),
    [
        ({"module": "./gone.py"}, "methods.mine.module './gone.py': there is no such file beside the study"),
        ({"module": "./Mine.py"}, "methods.mine.module './Mine.py': is not a name for a method's file"),
        ({"module": "./fedprox.py"}, "baselines/fedprox.py is called so too; rename the file"),
        ({"external": {}}, "methods.mine.external: give either the command of the program, or the name of its rule"),
        ({"external": {"command": "python gone.py"}}, "names no file beside the study; name the program's"),
        ({"external": {"command": "python 'Mine.py"}}, "No closing quotation; correct the quotes"),
        ({"external": {"rule": "mine"}}, "methods.mine.external.rule 'mine': there is no such rule in a file *.smk"),
        ({"external": {"command": "python Mine.py", "env": "gone"}}, "external.env 'gone': is not a folder with bin/"),
        ({"external": {"command": "python Mine.py", "model": "best"}}, "external.model 'best': unknown; choose one of"),
    ],
)
def test_what_is_not_there_is_refused_in_one_line(tmp_path: Path, entry: dict[str, Any], line: str) -> None:
    for name in ("Mine.py", "fedprox.py"):
        (tmp_path / name).write_text(PROX)
    with pytest.raises(UserError) as refused:
        load(tmp_path, entry)
    assert line in str(refused.value) and "\n" not in str(refused.value)


def test_a_folder_without_rules_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rules").mkdir()
    with pytest.raises(UserError, match=r"rules './rules': is not a folder beside the study with files \*\.smk"):
        load(tmp_path, {"module": "local"}, rules="./rules")


def test_a_program_gets_its_hyper_parameters_also_those_of_one_data_set(tmp_path: Path) -> None:
    (tmp_path / "program.py").touch()
    entry = {
        "external": {"command": "python program.py"},
        "width": 3,
        "rate": 0.5,
        "datasets": {"digits": {"width": 5}},
    }
    loaded = load(tmp_path, entry)
    (run,) = (run for run in runs(loaded) if run.method == "mine")
    assert (run.stage, run.spec["parameters"]) == ("external", {"width": 5, "rate": 0.5})
    plan = Plan.of(loaded)
    assert plan.programs("command") == {"mine"} and plan.programs("rule") == set()
    assert plan.program_files([run]) == [str(tmp_path / "program.py")]
    with pytest.raises(UserError, match=r"unknown hyper-parameter 'depth'; known: rate, .*width"):
        load(tmp_path, entry | {"datasets": {"digits": {"depth": 5}}})


def test_a_virtual_environment_comes_first_in_the_program_s_path(tmp_path: Path) -> None:
    (tmp_path / "program.py").touch()
    (tmp_path / "venv/bin").mkdir(parents=True)
    loaded = load(tmp_path, {"external": {"command": "python program.py", "env": "venv"}})
    (run,) = (run for run in runs(loaded) if run.method == "mine")
    assert Plan.of(loaded).path([run]) == f"{tmp_path}/venv/bin:"
