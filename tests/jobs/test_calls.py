"""What jobs read, make and are called with, as the rules of the workflow say it, without Snakemake."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from apfl.errors import UserError
from apfl.jobs.calls import (
    Plan,
    any_of,
    data_options,
    in_container,
    inputs,
    run_code,
    run_options,
    semantics_options,
    shell_prefix,
    tried,
)
from apfl.jobs.paths import COURSE, KINDS
from apfl.registry.code import code_digest
from apfl.registry.trees import ROOT
from apfl.study.cells import cells
from apfl.study.load import load_study
from apfl.study.runs import Artefact
from tests.helpers.studies import tiny


@pytest.fixture(scope="module")
def plan() -> Plan:
    methods = {"local": {}, "fedavg": {}, "apfl": {}, "flower": {"module": "external/flower"}}
    return Plan.of(load_study(tiny(seeds=[0, 1], methods=methods)))


@pytest.fixture(scope="module")
def tuned() -> Plan:
    tuning = {"seeds": [70], "partitions": {"digits": "dirichlet-alpha0.1-clients3"}, "trials": 3, "methods": ["apfl"]}
    return Plan.of(load_study(tiny(seeds=[0]) | {"tuning": tuning}))


def wildcards(kind: str, path: str) -> dict[str, str]:
    """What Snakemake makes of a path: a value for each name in braces."""
    pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(KINDS[kind].path))
    return re.fullmatch(pattern, path).groupdict()


def test_wildcards_find_the_job_that_makes_a_path(plan: Plan) -> None:
    for path, run in plan.runs.items():
        assert plan.jobs(run.stage, wildcards(run.stage, path)) == [run]
    for path, entry in plan.artefacts.items():
        assert plan.jobs(entry.kind, wildcards(entry.kind, path)) == [entry]


def test_without_a_seed_they_find_the_runs_of_all_seeds(plan: Plan) -> None:
    first, second = (run for run in plan.runs.values() if run.stage == "memorize")
    given = wildcards("memorize", first.path)
    assert plan.jobs("memorize", {name: value for name, value in given.items() if name != "seed"}) == [first, second]


def test_jobs_read_what_other_jobs_make_and_nothing_twice(plan: Plan) -> None:
    made = set(plan.run_files()) | {f"results/{path}" for path in plan.artefacts}
    for run in plan.runs.values():
        read = [file for files in inputs([run]).values() for file in files]
        assert set(read) <= made and len(read) == len(run.inputs), run.path
    cell = [run for run in plan.runs.values() if run.stage == "personalize"]
    assert [len(files) for files in inputs(cell).values()] == [1, 2, 2, 2], (
        "data are shared by both seeds, runs are not"
    )


def test_a_run_is_called_with_its_specification_its_inputs_and_its_folder(plan: Plan) -> None:
    runs = [run for run in plan.runs.values() if run.stage == "personalize"]
    assert run_options(runs) == " ".join(run_options([run]) for run in runs) and len(runs) == 2
    words = shlex.split(run_options(runs[:1]))
    given = dict(zip(words[::2], words[1::2], strict=True))
    assert json.loads(given.pop("--spec")) == json.loads(json.dumps(dict(runs[0].spec)))
    assert given.pop("--out") == f"results/{runs[0].path}"
    assert given == {f"--{name}": f"results/{path}" for name, path in runs[0].inputs.items()}
    assert run_code(runs) == code_digest(*runs[0].modules)


@pytest.mark.parametrize(
    ("spec", "options"),
    [
        ({"source": "digits", "max_samples": None}, "x --source digits"),
        ({"source": "parquet", "max_samples": 30}, 'x --source parquet --path "$APFL_DATA_ROOT/f" --max-samples 30'),
        ({"source": "torchvision", "max_samples": 0}, 'x --source torchvision --path "${APFL_DATA_ROOT:-downloads}/f"'),
    ],
)
def test_images_are_looked_for_where_the_shell_of_the_job_says(spec: dict[str, Any], options: str) -> None:
    assert data_options([Artefact("data", "data/x.npz", {"dataset": "x", "folder": "f", **spec})]) == options


def test_words_of_an_embedding_are_quoted(plan: Plan) -> None:
    spec = {"source": "model", "model": "a b", "path": "w.npz", "template": ["a {}", "it's"]}
    entry = Artefact("semantics", "semantics/x/m.npz", spec, {"data": "data/x.npz"})
    words = shlex.split(semantics_options([entry]))
    assert words == ["--data", "results/data/x.npz", "--source", "model", "--model", "a b",
                     "--path", "$APFL_SEMANTICS_ROOT/w.npz", "--template", "a {}", "--template", "it's"]  # fmt: skip


def test_the_shell_of_a_job_knows_where_data_are_and_finds_the_interpreter_first() -> None:
    study = load_study(tiny(data_root="/my data", semantics_root="/s", store_root="/runs", keep_last_state=False))
    said = (
        "export PYTHONPATH=/code${PYTHONPATH:+:$PYTHONPATH}; export APFL_DATA_ROOT='/my data'; "
        "export APFL_SEMANTICS_ROOT=/s; export APFL_STORE_ROOT=/runs; export APFL_LAST_STATE=0; "
    )
    assert shell_prefix(study, "/code", "") == said
    assert shell_prefix(study, "/code", "/opt/bin") == f"{said}export PATH=/opt/bin:$PATH; "


def test_a_container_sees_the_code_the_data_and_a_store_that_is_there_and_has_to_be_named(tmp_path: Path) -> None:
    store = tmp_path / "all runs"
    study = load_study(tiny(data_root="/my data", semantics_root="/s", store_root=str(store)))
    words = shlex.split(in_container(study, {"APFL_CONTAINER": "image.sif"}))
    assert words[::2] == ["--bind"] * 4 and words[1::2] == [str(ROOT), "/my data", "/s", str(store)]
    assert store.is_dir(), "apptainer wants folders that are there"
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"store_root: .*file.*; name a folder that can be written"):
        in_container(load_study(tiny(store_root=str(tmp_path / "file" / "runs"))), {"APFL_CONTAINER": "image.sif"})
    with pytest.raises(UserError, match=r"set APFL_CONTAINER to one, docs/environments.md says how"):
        in_container(study, {})


def test_outputs_show_metrics_and_records_of_their_runs_and_table_1_its_partition(plan: Plan) -> None:
    shown = plan.shown(["table2"])
    folders = {f"results/{path}" for cell in plan.cells["table2"] for path in cell.runs}
    assert set(shown) == {f"{path}/{name}" for path in folders for name in ("metrics.parquet", "run.json")}
    assert len(shown) == len(set(shown)) and set(shown) < set(plan.page_inputs())
    study = load_study(tiny(tables__table1={"dataset": "digits", "clients": 3}))
    assert [path.rpartition("/")[2] for path in Plan.of(study).shown(["table1"])] == ["seed0.npz"]


def test_methods_stand_in_the_study_s_text_as_the_study_lists_them(plan: Plan) -> None:
    given = {"methods": {"fedprox": {}, "ditto": {}, "fedavg": {}}}
    assert list(json.loads(plan.text(given))["methods"]) == ["fedprox", "ditto", "fedavg"]


def test_a_study_s_text_plans_the_same_runs_and_cells_in_the_same_order_as_the_study() -> None:
    data = {name: {"source": "folder", "classes": 10} for name in ("zebras", "ants")}
    places = {name: "dirichlet-alpha0.1-clients3" for name in ("ants", "zebras")}
    given = tiny(
        methods__fedprox={"mu": [0.1, 1.0], "training": {"local_epochs": [1, 2], "batch_size": [8, 16]}},
        data=data,
        figures__figure4={"panels": dict.fromkeys(reversed(data), "dirichlet-alpha0.1"), "clients": 3},
        tuning={"seeds": [70], "partitions": places, "trials": 2},
        data_root="/data",
    )
    study = load_study(given)
    again = load_study({**json.loads(Plan.of(study).text(given)), "data_root": "/data"})
    for output in ("table2", "figure4", "tuning"):
        assert cells(again, output) == cells(study, output)
        assert list(dict.fromkeys(cell.dataset for cell in cells(study, output))) == ["zebras", "ants"]


def test_where_the_data_are_is_no_part_of_the_study_s_text(plan: Plan) -> None:
    assert json.loads(plan.text({"name": "tiny", "data_root": "/here"})) == {"name": "tiny", "schedules": {}}


def test_tuned_runs_wait_for_the_choice_and_that_waits_for_every_trial(tuned: Plan) -> None:
    (path,) = tuned.choices()
    (job,) = tuned.jobs("tune", wildcards("tune", path.removeprefix("results/")))
    trials = [run for run in tuned.runs.values() if run.seed == 70 and run.stage == "personalize"]
    assert set(tried([job])) == {
        f"results/{run.path}/{name}" for run in trials for name in ("metrics.parquet", "run.json")
    }
    waiting = [run for run in tuned.runs.values() if path in inputs([run]).get("tuning", ())]
    assert [run.stage for run in waiting] == ["federate", "memorize", "personalize"] and tuned.tuned() == {"apfl"}
    assert all(f"--tuning {path}" in run_options([run]) for run in waiting)
    assert path in tuned.page_inputs()


def test_a_wildcard_takes_the_values_that_are_named_and_no_other() -> None:
    pattern = re.compile(any_of(["a.b", "c"]))
    assert pattern.fullmatch("a.b") and pattern.fullmatch("c") and not pattern.fullmatch("axb")


def test_every_file_of_a_kind_has_the_wildcards_of_its_path() -> None:
    for kind, entry in KINDS.items():
        names = set(re.findall("{.*?}", entry.path))
        assert all(set(re.findall("{.*?}", file)) == names for file in entry.files.values()), kind


@pytest.mark.parametrize("stage", ["federate", "memorize", "personalize"])
def test_the_rules_of_a_stage_make_every_file_of_its_runs_once(plan: Plan, stage: str) -> None:
    ours = [run for run in plan.runs.values() if run.stage == stage]
    files = {f"results/{run.path}/{file.rpartition('/')[2]}" for run in ours for file in KINDS[stage].files.values()}
    given = [wildcards(stage, run.path) for run in ours]
    for unit in ("seed", "cell", "2 cells"):
        rules = plan.rules(stage, unit)
        made = [path for rule in rules for name in KINDS[stage].files for path in rule.made(name)]
        named = {path.format_map(values) for path in made for values in given}
        assert named == files and len(made) == len(set(made))
        logs = {rule.log.format_map(values) for rule in rules for values in given}
        assert len(logs) == {"seed": len(ours), "cell": len(ours) // 2, "2 cells": len(rules)}[unit]
    assert [run for rule in rules for run in rule.runs] == sorted(ours, key=lambda run: run.cell != ours[0].cell)


def test_a_run_of_a_batch_that_lacks_an_input_of_the_others_says_so(plan: Plan) -> None:
    one, other = (run for run in plan.runs.values() if run.stage == "memorize")
    lacking = dataclasses.replace(other, inputs={"data": "d", "partition": "p"})
    words = shlex.split(run_options([one, lacking]))
    given = [words[place + 1] for place, word in enumerate(words) if word == "--run"]
    assert given == [f"results/{one.inputs['run']}", "-"] and words.count("--semantics") == 2


def test_a_call_that_the_system_would_not_take_is_refused(plan: Plan) -> None:
    with pytest.raises(UserError, match=r"one_job_per: the call of a job has \d+ characters; put fewer runs"):
        run_options(list(plan.runs.values()) * 50)


def test_those_that_others_wait_for_start_first() -> None:
    order = [KINDS[kind].priority for kind in ("data", "partition", "federate", "memorize", "personalize", "table")]
    assert order == sorted(order, reverse=True) and len(set(order)) == len(order)


def test_the_rules_name_no_file_that_stands_in_paths() -> None:
    """So that a name is changed in one place."""
    named = ("metrics.parquet", "state.safetensors", "generator.safetensors", "/logs/data", "/logs/runs", "claims.json")
    for file in (ROOT / "workflow").rglob("*.smk"):
        assert not [name for name in named if name in file.read_text()], file


def test_figures_of_the_course_of_events_have_every_format() -> None:
    assert set(COURSE) == {"csv", "svg", "pdf", "png"}
