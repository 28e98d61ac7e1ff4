"""What a study may say, and the one line that answers what it may not."""

from __future__ import annotations

import json
import re
from datetime import date
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from apfl.cli.study import check
from apfl.errors import UserError
from apfl.registry.trees import ROOT
from apfl.stages.try_out import try_out
from apfl.study.cells import runs
from apfl.study.load import SCHEMA, load_study, schema
from tests.helpers.studies import tiny

STUDIES = sorted((ROOT / "config").glob("*.yaml"))


@pytest.fixture(autouse=True)
def no_roots(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("APFL_DATA_ROOT", "APFL_SEMANTICS_ROOT"):
        monkeypatch.delenv(variable, raising=False)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"seeds": []}, r"seeds: \[\] .*such as \[0, 1, 2\]"),
    ({"seeds": [0, 0]}, "seeds: .*non-unique"),
    ({"seeds": ["0"]}, "seeds.0: '0' .*whole number"),
    ({"name": "A study"}, "name: 'A study' .*lower-case"),
    ({"name": "data"}, "name: 'data' "),
    ({"trainin": {}}, "unknown key 'trainin'; known: .*training"),
    ({"training__round": 3}, "training: unknown key 'round'; known: rounds"),
    ({"training__rounds": 0}, "training.rounds: 0 is less than the minimum of 1"),
    ({"training__learning_rate": "1e-3"}, r"training.learning_rate: '1e-3' .*1\.0e-3"),
    ({"training__optimizer": "lion"}, "training.optimizer 'lion': unknown; choose one of adam, sgd"),
    ({"training__checkpoint_every": 0}, "training.checkpoint_every: 0 is less than the minimum of 1"),
    ({"training__keep_local_models": False}, "training.keep_local_models false: methods.fedavg-ft .* keep them"),
    ({"training__datasets": {"digits": {"keep_local_models": False}}}, "keep_local_models false: .*'digits'"),
    ({"training__learning_rate": float("nan")}, "training.learning_rate nan: is not finite; give a finite number"),
    ({"seeds": [0, float("inf")]}, "seeds.1 inf: is not finite"),
    ({"training__datasets": {"mnist": {}}}, "training.datasets 'mnist': unknown data set; choose from digits"),
    ({"data": {}}, "data: {} should be non-empty"),
    ({"data__mnist": {"source": "parquet"}}, "data.mnist: unknown data set; choose from .*cifar10"),
    ({"data__cifar10": {"source": "zip"}}, "data.cifar10.source 'zip': unknown; choose one of digits"),
    ({"data__cifar10": {"source": "parquet"}}, "data.cifar10: data_root is not set; set APFL_DATA_ROOT or"),
    ({"data__cifar10": {"source": "digits"}}, "data.cifar10.source 'digits'"),
    ({"data__nist_letters": {"source": "parquet"}}, "data.nist_letters.source 'parquet': .* use it for both"),
    ({"data__nist_letters": {"source": "nist_letters"}}, "data.nist_letters: data_root is not set; set APFL_DATA_ROOT"),
    ({"data__ocr_letters": {"source": "torchvision"}}, "data.ocr_letters.source 'torchvision'.*emnist"),
    ({"data__digits__folder": 'a"; rm -rf b'}, "data.digits.folder: .*without quotes"),
    ({"data__digits__train_samples": 271}, "data.digits.train_samples 271: 270 images are not for tests; use fewer"),
    ({"methods": {1: {}}}, "methods: key 1 is not text; put it in quotes"),
    ({"training": {1: 2, "round": 3}}, "training: key 1 is not text"),
    ({"description": date(2020, 1, 1)}, "description 2020-01-01: is neither text nor number; put it in quotes"),
    ({"methods": {}}, "methods: {} should be non-empty"),
    ({"methods__fed-foo": {}}, "method 'fed_foo': there is no baselines/fed_foo.py; .*fedavg"),
    ({"methods__fed_foo": {}}, "methods: 'fed_foo' is not a valid name"),
    ({"methods__fedavg": {"mu": 1}}, "methods.fedavg: unknown hyper-parameter 'mu'"),
    ({"methods__fedavg": {"datasets": {"mnist": {}}}}, "methods.fedavg.datasets 'mnist': unknown data set; .*digits"),
    ({"methods__fedavg": {"datasets": {"digits": {"mu": 1}}}}, "methods.fedavg.datasets.digits: unknown hyper-par.*mu"),
    ({"methods__apfl": {"beta": "much"}}, "methods.apfl: beta 'much' is not of type float"),
    ({"methods__apfl": {"base": "scaffolding"}}, "methods.apfl: starts from 'scaffolding', which is not among"),
    ({"methods__apfl": {"base": "fedavg-ft"}}, "methods.apfl.base 'fedavg-ft': is not a federated method"),
    ({"methods__apfl": {"base": "local"}}, "methods.apfl.base 'local': Local keeps no global model .*fedavg"),
    ({"methods__fedavg": {"base": "local"}}, "methods.fedavg.base 'local': FedAvg does not start from another"),
    (
        {"methods__again": {"module": "fedavg", "title": "Local"}},
        "methods.again: has the title 'Local', as 'local' has",
    ),
    ({"apfl__semantics": "clip"}, "apfl.semantics 'clip': unknown semantics; choose from minilm, shuffled"),
    ({"apfl__readings": ["my-own"]}, "apfl.readings 'my-own': unknown reading; choose from literal"),
    ({"apfl__parameters": {"gamma": 1}}, "apfl.parameters: unknown hyper-parameter 'gamma'; known: .*beta"),
    ({"apfl__datasets": {"digits": {"gamma": 1}}}, "apfl.datasets.digits: unknown hyper-parameter 'gamma'"),
    ({"semantics__clip": {"source": "table"}}, "semantics.clip: has no path"),
    ({"semantics__clip": {"source": "table", "path": "x"}}, "semantics.clip: semantics_root is not set"),
    ({"semantics__mixed": {"source": "shuffled", "of": "mixed"}}, "semantics.mixed.of 'mixed': unknown embedding"),
    ({"proxy": {"digits": "photos"}}, "proxy.digits 'photos': unknown data set"),
    ({"tables__table2__alphas": ["0"]}, "tables.table2.alphas.0: '0' .*above 0"),
    ({"tables__table2__alphas": ["-0.1"]}, "tables.table2.alphas.0: '-0.1' .*above 0"),
    ({"tables__table2__alphas": [0.1]}, "tables.table2.alphas.0: 0.1 .*quoted"),
    ({"tables__table2__alphas": ["0.10"]}, "tables.table2.alphas.0: '0.10' .*shortest"),
    ({"tables__table2__datasets": ["cifar10"]}, "table2 'cifar10': unknown data set; choose from digits"),
    ({"tables__table2__methods": ["fedfoo"]}, "table2 'fedfoo': unknown method; choose from local"),
    ({"tables__table2__partitions": {"digits": "zipf"}}, "'zipf-clients5': unknown kind 'zipf'"),
    ({"tables__table3__missing": [100]}, "tables.table3.missing.0: 100 .*maximum of 99"),
    ({"tables__table4": {"semantics": ["clip"]}}, "table4.semantics 'clip': unknown semantics"),
    ({"tables__table4": {"method": "fedavg-ft"}}, "table4.method 'fedavg-ft': makes no friend model"),
    ({"figures__figure4__panels": {"digits": "dirichlet-alpha0"}}, "alpha is '0'"),
]


@pytest.mark.parametrize(("changes", "line"), REFUSED, ids=[str(changes)[:60] for changes, _ in REFUSED])
def test_a_mistake_is_answered_in_one_line_that_names_the_field_and_the_remedy(
    changes: dict[str, Any], line: str
) -> None:
    with pytest.raises(UserError) as error:
        load_study(tiny(**changes) if list(changes) != ["data"] else {**tiny(), **changes})
    text = str(error.value)
    assert re.search(line, text), text
    assert "\n" not in text and len(text) < 330


@pytest.mark.parametrize("base", ["fedrep", "ffgg"])
def test_ap_fl_cannot_start_from_a_method_without_a_global_model(base: str) -> None:
    with pytest.raises(UserError, match=rf"methods.apfl-x.base '{base}': .* keeps no global model"):
        load_study(tiny(**{f"methods__{base}": {}, "methods__apfl-x": {"module": "apfl", "base": base}}))


@pytest.mark.parametrize("text", ["", "[1, 2]", "a: [1", "name: x"])
def test_a_file_that_holds_no_study_is_answered_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"study\.yaml") as error:
        load_study(path)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="no such file"):
        load_study(tmp_path / "other.yaml")


def test_a_file_that_is_not_utf_8_is_answered_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_bytes("name: caf\u00e9".encode("latin-1"))
    with pytest.raises(UserError, match=r"study\.yaml: not UTF-8 \(byte 9\); save it as UTF-8"):
        load_study(path)


def test_a_study_written_as_json_keeps_its_small_numbers(tmp_path: Path) -> None:
    path = tmp_path / "study.json"
    path.write_text(json.dumps(tiny(training__learning_rate=5e-5)))
    assert "5e-05" in path.read_text()
    assert load_study(path).training["learning_rate"] == 5e-5
    path.write_text("{'name': 1}")
    with pytest.raises(UserError, match=r"study\.json: not JSON"):
        load_study(path)


def test_local_models_are_kept_and_rounds_checkpointed_as_the_study_says() -> None:
    methods = {"fedavg": {}, "local": {}}
    study = load_study(tiny(methods=methods, training__keep_local_models=False, training__checkpoint_every=2))
    (spec, *_) = [run.spec["training"] for run in runs(study)]
    assert spec["keep_local_models"] is False and spec["checkpoint_every"] == 2
    usual = load_study(tiny()).training
    assert usual["keep_local_models"] is True and usual["checkpoint_every"] == 5


UNRUNNABLE: list[tuple[dict[str, Any], str]] = [
    ({"methods__fedprox": {"mu": -1.0}}, "methods.fedprox: fedprox.mu -1.0"),
    ({"methods__scaffold": {"option": "III"}}, "methods.scaffold: scaffold.option 'III'"),
    ({"apfl__parameters": {"beta": 2.0}}, "methods.apfl: apfl.beta 2.0"),
    ({"apfl__parameters": {"learning_rate": -1.0}}, "generator.learning_rate -1.0: must be positive"),
    ({"apfl__parameters": {"batch_size": 0}}, "generator.batch_size 0: must be at least 1"),
    ({"apfl__parameters": {"epochs": 0}}, "generator.epochs 0: must be at least 1"),
    ({"methods__apfl": {"width": 0}, "tables": {}}, "generator.width 0: must be at least 1"),
    ({"network": {"name": "cnnn"}}, "network.name 'cnnn': unknown; choose one of cnn, lenet, resnet"),
    ({"network": {"name": "resnet", "wdith": 3}}, "network.name 'resnet': .*wdith"),
    ({"network": {"name": "resnet", "width": 12}}, "network.name 'resnet': .*divisible"),
    ({"network": {"name": "resnet", "width": -8}}, "network.name 'resnet': .*negative"),
    ({"training__momentum": 0.9}, "training.momentum 0.9: adam has moments of its own; leave it out, or choose sgd"),
    ({"training__clients_per_round": 4}, "clients_per_round 4: dirichlet-alpha0.1-clients3 has 3 clients; lower it"),
    ({"training__clients_per_round": 1.5}, "clients_per_round 1.5: must be a whole number from 1 or a fraction"),
    ({"training__clients_per_round": 2, "methods__flower": {"module": "external/flower"}}, "draws no clients"),
    (
        {
            "training__clients_per_round": 2,
            "schedules": {"fast": {"mode": "async"}, "slow": {"mode": "sync"}},
            "tables__dropout": {
                "clients": 3,
                "entries": [{"method": "fedavg", "schedule": "slow"}, {"method": "fedavg", "schedule": "fast"}],
            },
        },
        "clients_per_round 2: an async schedule has no rounds; .* concurrency",
    ),
]


@pytest.mark.parametrize(("changes", "line"), UNRUNNABLE, ids=[str(changes)[:60] for changes, _ in UNRUNNABLE])
def test_a_value_that_would_stop_a_run_is_refused_before_anything_is_trained(
    changes: dict[str, Any], line: str
) -> None:
    with pytest.raises(UserError, match=line) as error:
        try_out(load_study(tiny(**changes)))
    assert "\n" not in str(error.value)


def test_apfl_check_refuses_such_a_value(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "study.json"
    path.write_text(json.dumps(tiny(methods__fedprox={"mu": -1.0})))
    with pytest.raises(UserError, match=r"fedprox\.mu"):
        check(path)
    path.write_text(json.dumps(tiny()))
    check(path)
    assert "jobs" in capsys.readouterr().out


def test_defaults_come_from_the_schema_at_every_level() -> None:
    study = load_study(tiny(tables={"table2": {}, "table3": {}}, figures={"figure5": {}}))
    assert study.training["batch_size"] == 50 and study.training["optimizer"] == "adam"
    assert study.tables["table2"]["alphas"] == ["0.01", "0.05", "0.1"] and study.tables["table3"]["clients"] == 10
    assert study.figures["figure5"]["alpha"] == "0.1" and study.figures["figure5"]["clients"] == 5
    assert study.network == {"name": "cnn"} and study.apfl["readings"] == ["literal"]


def test_roots_come_from_the_study_or_else_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = {"data__cifar10": {"source": "parquet"}}
    assert load_study(tiny(data_root="here", **parquet)).data_root == "here"
    monkeypatch.setenv("APFL_DATA_ROOT", "there")
    assert load_study(tiny(**parquet)).data_root == "there"
    assert load_study(tiny(data_root="here", **parquet)).data_root == "here"


def test_a_method_on_another_base_and_a_variant_of_a_method_have_titles_that_say_so() -> None:
    methods = load_study(
        tiny(
            **{
                "methods__fedprox": {},
                "methods__fedprox-weak": {"module": "fedprox", "mu": 0.001},
                "methods__apfl-fedprox": {"module": "apfl", "base": "fedprox"},
                "methods__mine": {"module": "fedavg", "title": "Mine"},
            }
        )
    ).methods
    titles = {name: entry.title for name, entry in methods.items()}
    assert titles["apfl"] == "AP-FL" and titles["apfl-fedprox"] == "AP-FL (FedProx)"
    assert titles["fedprox-weak"] == "FedProx [fedprox-weak]" and titles["mine"] == "Mine"
    assert methods["apfl-fedprox"].base == "fedprox"


def test_a_data_set_without_an_embedding_is_refused_where_it_is_the_default_and_skipped_where_it_is_compared() -> None:
    letters = {"data_root": "x", "semantics_root": "x", "data__ocr_letters": {"source": "parquet"}}
    w2v = {"semantics__w2v": {"source": "table", "paths": {"digits": "w2v/digits.npz"}}}
    with pytest.raises(UserError, match=r"apfl.semantics 'w2v': .*'ocr_letters'; set apfl.datasets.ocr_letters"):
        load_study(tiny(**letters, **w2v, apfl__semantics="w2v"))
    study = load_study(
        tiny(**letters, **w2v, apfl__semantics="w2v", apfl__datasets={"ocr_letters": {"semantics": "minilm"}})
    )
    assert study.has_semantics("w2v", "digits") and not study.has_semantics("w2v", "ocr_letters")
    assert study.semantics_of(study.methods["apfl"], "ocr_letters") == "minilm"


def test_the_schema_is_closed_and_explains_every_key() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    assert schema()["$schema"].endswith("2020-12/schema")

    def visit(part: dict[str, Any], where: str) -> None:
        target = schema()["$defs"][part["$ref"].rsplit("/", 1)[-1]] | part if "$ref" in part else part
        assert where == "" or target.get("description"), f"{where} is not explained"
        if target.get("type") == "object":
            assert "additionalProperties" in target, f"{where} takes any key"
        for name, child in target.get("properties", {}).items():
            visit(child, f"{where}.{name}")
        if isinstance(target.get("additionalProperties"), dict):
            visit(target["additionalProperties"] | {"description": "by name"}, f"{where}.*")

    visit(schema(), "")
    assert yaml.safe_load(SCHEMA.read_text())["additionalProperties"] is False


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_the_studies_of_the_project_are_valid(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("APFL_DATA_ROOT", "APFL_SEMANTICS_ROOT"):
        monkeypatch.setenv(variable, "anywhere")
    # Snakemake's catalogue asks for the name config.yaml, which says nothing of a study.
    assert load_study(path).name == ("first" if path.stem == "config" else path.stem)
