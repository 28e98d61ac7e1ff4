"""Numbers and paths as YAML, the command line and the environment hand them over: read, or refused with a remedy that
is accepted."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from apfl.cli import main
from apfl.errors import UserError
from apfl.registry.cards import written
from apfl.storage.files import expanded
from apfl.study.cells import artefacts
from apfl.study.load import load_study
from tests.helpers.studies import tiny


def refusal(study: Any) -> str:
    with pytest.raises(UserError) as error:
        load_study(study)
    assert "\n" not in str(error.value)
    return str(error.value)


def changed(text: str) -> dict[str, Any]:
    """The tiny study with one value, ``a.b: value`` as YAML reads it."""
    field, _, value = text.partition(": ")
    return tiny(**{field.replace(".", "__"): yaml.safe_load(f"x: {value}")["x"]})


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_is_written_as_yaml_takes_it(number: float) -> None:
    for text in {repr(number), f"{number:e}", f"{number:.17g}", repr(number).replace("e", "E")}:
        form = written(text, whole=False)
        assert form is not None and type(read := yaml.safe_load(form)) in (int, float)
        assert math.isclose(read, float(text), rel_tol=1e-15)


@pytest.mark.parametrize(
    "text",
    [
        "training.learning_rate: 1e-3",
        "training.learning_rate: 1e1",
        "training.learning_rate: 1.0e1",
        "training.learning_rate: 1.5E3",
        "training.learning_rate: '0.1'",
        "training.learning_rate: '0,1'",
        "training.learning_rate: 5%",
        "training.rounds: 1e1",
        "training.rounds: 4.0",
        "training.rounds: 1.0e+1",
        "training.batch_size: '50'",
        "training.keep_local_models: 'true'",
        "data.digits.max_samples: 3e2",
        "methods.fedprox.mu: 1e1",
        "methods.fedprox.mu: 1.0e1",
        "methods.fedprox.mu: '0,1'",
        "methods.apfl.samples_per_class: 1e1",
        "methods.apfl.samples_per_class: 10.0",
        "apfl.parameters.beta: 1e-1",
        "name: 2024",
    ],
)
def test_what_a_refusal_says_to_write_is_accepted(text: str) -> None:
    said = refusal(changed(text))
    remedy = re.search(r"; write ([^, ]+)", said)
    field, _, value = text.partition(": ")
    load_study(changed(f"{field}: {remedy[1] if remedy else repr(value)}"))
    assert remedy or "; put it in quotes" in said


@pytest.mark.parametrize("text", ["seeds: [010]", "training: {rounds: 0100}", "training: {learning_rate: 1:30.5}"])
def test_numbers_of_another_base_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(f"name: x\n{text}\n")
    assert "line 2: YAML takes" in refusal(path)


def test_zeros_and_small_numbers_are_no_numbers_of_another_base(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(tiny(seeds=[0, 10, 100], training__learning_rate=0.05)))
    assert load_study(path).seeds == (0, 10, 100)


@pytest.mark.parametrize("given", ["~/data", "$FOLDER/data", "${FOLDER}/data"])
def test_home_and_variables_in_a_root_are_written_out(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FOLDER", str(tmp_path))
    assert load_study(tiny(data_root=given)).data_root == str(tmp_path / "data")
    monkeypatch.setenv("APFL_SEMANTICS_ROOT", given)
    assert load_study(tiny()).semantics_root == str(tmp_path / "data")


@pytest.mark.parametrize("given", ["~nobody_of_this_name/data", "$NO_SUCH_VARIABLE/data", "${NO_SUCH_VARIABLE}"])
def test_a_home_or_a_variable_that_there_is_not_is_named(given: str) -> None:
    said = refusal(tiny(data_root=given))
    assert said.startswith(f"data_root {given}: there is nothing that") and "write the whole path" in said


def test_a_folder_whose_name_only_looks_like_that_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "$HOMEWARD").mkdir()
    assert expanded(tmp_path / "$HOMEWARD", "x") == str(tmp_path / "$HOMEWARD")


def test_a_folder_below_the_root_cannot_begin_at_home() -> None:
    assert "data.pets.folder" in refusal(
        tiny(data_root="x", data__pets={"source": "folder", "folder": "~/pets", "classes": 2})
    )


def test_the_command_line_writes_out_home_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    pets(tmp_path / "pets", 2)
    for where in ("--root=~", "--path=~/pets"):
        with pytest.raises(SystemExit) as ended:
            main(["data", "pets", "--source", "folder", where, "--out", str(tmp_path / "pets.npz")])
        assert ended.value.code == 0, capsys.readouterr().err


def pets(folder: Path, classes: int) -> None:
    for number in range(classes):
        (folder / f"kind{number}").mkdir(parents=True)
        for row in range(20):
            pixels = np.full((8, 8, 3), 10 * number + row, np.uint8)
            Image.fromarray(pixels).save(folder / f"kind{number}" / f"{row}.png")


def test_a_wrong_number_of_classes_is_refused_before_and_when_the_images_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refusal(tiny(data__digits__classes=12)) == "data.digits.classes 12: it has 10; correct the number"
    own = {"data_root": str(tmp_path), "data__pets": {"source": "folder", "classes": 12}}
    own |= {"methods": {"fedavg": {}}}
    (entry,) = (one for one in artefacts(load_study(tiny(**own))) if one.path == "data/pets.npz")
    assert entry.spec["classes"] == 12  # nobody can see yet how many there are
    pets(tmp_path / "pets", 3)
    assert refusal(tiny(**own)) == "data.pets.classes 12: it has 3; correct the number"
    with pytest.raises(SystemExit):
        main(["data", "pets", "--source", "folder", "--root", str(tmp_path), "--classes", "12", "--out", "x.npz"])
    assert "data set pets: has 3 classes, not 12; correct the number" in capsys.readouterr().err
    assert load_study(tiny(**own | {"data__pets": {"source": "folder", "classes": 3}})).classes("pets") == 3


def test_an_option_of_the_network_that_is_a_text_is_refused_as_a_number() -> None:
    assert refusal(tiny(network={"name": "cnn", "width": "1e1"})) == (
        "network.width '1e1': is a text, not a number; write 10"
    )
