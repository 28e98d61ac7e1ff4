"""The stages on real files: what they write, that they resume to the same bits, and what they refuse."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import typer

from apfl.cli import main, register
from apfl.data.dataset import Dataset, load_dataset, save_dataset
from apfl.data.partition import load_partition, make_partition, save_partition
from apfl.errors import UserError
from apfl.federation.problem import run_all
from apfl.semantics.packaged import packaged
from apfl.semantics.table import save_semantics
from apfl.stages import checkpoint as checkpoint_module
from apfl.stages import federate as federate_stage
from apfl.stages.federate import federate
from apfl.stages.memorize import memorize_run
from apfl.stages.personalize import personalize_run
from apfl.stages.problem import Inputs, load_problem
from apfl.stages.specification import Specification
from apfl.storage.files import read_json
from apfl.storage.metrics_table import COLUMNS
from apfl.storage.tensors import read_tensors
from baselines.fedavg import FedAvg

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SETTING = "pathological-classes2-clients10-missing20"


@dataclasses.dataclass(frozen=True)
class Files:
    folder: Path
    inputs: Inputs

    def after(self, run: Path, generator: Path | None = None) -> Inputs:
        """What a stage reads that starts from a run."""
        return dataclasses.replace(self.inputs, run=run, generator=generator)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Files:
    """A data set of 300 noisy images, Table 1's partition of it, and embeddings."""
    folder = tmp_path_factory.mktemp("artefacts")
    stream = np.random.default_rng(0)
    labels = np.arange(300, dtype=np.int64) % 10
    images = stream.integers(0, 80, (300, 1, 32, 32), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[0, 3 * label : 3 * label + 3] += 150
    dataset = Dataset("noise", images, labels, NAMES, {"kind": "test"})
    save_dataset(folder / "data.npz", dataset)
    save_partition(folder / "partition.npz", make_partition(dataset, SETTING, 0))
    save_semantics(folder / "semantics.npz", packaged(NAMES))
    return Files(folder, Inputs(folder / "data.npz", folder / "partition.npz", folder / "semantics.npz"))


def given(method: str = "fedavg", **changes) -> dict:
    """A specification as JSON."""
    training = {"rounds": 4, "local_epochs": 1, "learning_rate": 1e-3, "checkpoint_every": 1, "precision": "fp32"}
    training |= {"evaluate_rounds": [0, 2, 4], "save_rounds": [2, 4]}
    spec = {
        "dataset": "noise", "setting": SETTING, "method": method, "module": method, "parameters": {}, "seed": 0,
        "network": {"name": "tests.helpers.problems:Tiny"}, "training": training | changes.pop("training", {}),
    }  # fmt: skip
    return spec | changes


def specification(method: str = "fedavg", **changes) -> Specification:
    return Specification.parse(given(method, **changes))


MEMORY = {"samples_per_class": 10, "epochs": 1, "width": 4, "noise_dimension": 5}
CLOCK = {"latency": "exponential", "heterogeneity": 0.5, "buffer": 2, "merge": "delta", "staleness": "polynomial"}


@pytest.fixture(scope="module")
def fedavg(files) -> Path:
    out = files.folder / "fedavg"
    federate(specification(), files.inputs, out)
    return out


def contents(folder: Path) -> dict[str, object]:
    """What a run decided: its metrics and its tensors."""
    tensors, _ = read_tensors(folder / "state.safetensors", "state")
    return {"metrics": pd.read_parquet(folder / "metrics.parquet"), "tensors": tensors}


def same(first: Path, second: Path) -> bool:
    one, two = contents(first), contents(second)
    equal = all(torch.equal(one["tensors"][name], two["tensors"][name]) for name in one["tensors"])
    return equal and one["tensors"].keys() == two["tensors"].keys() and one["metrics"].equals(two["metrics"])


def test_a_run_writes_a_tidy_table_the_states_asked_for_and_how_to_run_it_again(fedavg) -> None:
    frame = pd.read_parquet(fedavg / "metrics.parquet")
    assert tuple(frame.columns) == COLUMNS
    assert set(frame["round"]) == {0, 2, 4} and set(frame["client"]) == set(range(10))
    assert set(frame.query("client_role == 'dropout'")["client"]) == {8}
    assert set(frame.query("client == 8")["test"]) == {"pooled", "own", "monopoly"}
    assert set(frame.query("client == 0")["test"]) == {"pooled", "own"}
    assert frame["accuracy"].between(0, 1).all() and frame["loss"].notna().all()
    tensors, _ = read_tensors(fedavg / "state.safetensors", "state")
    assert {name.split("/")[0] for name in tensors} == {"round2", "round4"}
    record = read_json(fedavg / "run.json")
    assert record["specification"] == given() and record["status"] == "finished"
    assert {"code", "commit", "versions", "device", "precision", "seconds", "peak_memory"} <= record.keys()


def test_the_metrics_of_a_run_can_be_read_while_it_trains(files, fedavg, tmp_path) -> None:
    seen = []

    def watched(problem, work):
        seen.append(pd.read_csv(tmp_path / "metrics.csv"))
        if len(seen) == 4 and interrupted:
            raise KeyboardInterrupt
        return run_all(problem, work)

    interrupted = True
    with pytest.raises(KeyboardInterrupt):
        federate(specification(), files.inputs, tmp_path, carry_out=watched)
    assert [sorted(set(frame["round"])) for frame in seen] == [[0], [0], [0, 2], [0, 2]], "before rounds 1 to 4"
    interrupted = False
    federate(specification(), files.inputs, tmp_path, carry_out=watched)
    whole = pd.read_parquet(fedavg / "metrics.parquet").fillna("")
    early = whole[whole["round"] <= 2].reset_index(drop=True)
    for frame in seen[3:]:
        pd.testing.assert_frame_equal(frame.fillna(""), early, check_dtype=False)
    assert len(seen) == 5 and same(fedavg, tmp_path) and not (tmp_path / "metrics.csv").exists()


def test_pooled_accuracy_is_the_mean_over_own_tests_weighted_by_test_samples(fedavg) -> None:
    frame = pd.read_parquet(fedavg / "metrics.parquet").query("model == 'global' and round == 4")
    own = frame.query("test == 'own'")
    pooled = frame.query("test == 'pooled'")["accuracy"].unique()
    assert len(pooled) == 1
    assert pooled[0] == pytest.approx((own["accuracy"] * own["samples"]).sum() / own["samples"].sum())


def test_monopoly_tests_are_the_dropout_clients_images_of_unseen_classes_alone(files, tmp_path) -> None:
    dataset = load_dataset(files.inputs.data)
    partition = make_partition(dataset, "pathological-classes2-clients10-missing10", 0)
    save_partition(tmp_path / "partition.npz", partition)
    inputs = dataclasses.replace(files.inputs, partition=tmp_path / "partition.npz")
    federate(specification(setting="pathological-classes2-clients10-missing10"), inputs, tmp_path / "run")
    (dropout,) = np.flatnonzero(partition.dropout)
    tested = dataset.labels[partition.test(dropout)]
    frame = pd.read_parquet(tmp_path / "run" / "metrics.parquet")
    samples = frame.query("client == @dropout and round == 4 and model == 'global'").set_index("test")["samples"]
    assert samples["monopoly"] == partition.unseen[tested].sum() < samples["own"] == len(tested)


def test_a_finished_run_is_not_repeated(files, fedavg, capsys, monkeypatch) -> None:
    monkeypatch.setattr(federate_stage, "load_problem", lambda *a: pytest.fail("trained again"))
    before = {path.name: path.stat().st_mtime_ns for path in fedavg.iterdir()}
    federate(specification(), files.inputs, fedavg)
    assert "nothing to do" in capsys.readouterr().out
    assert before == {path.name: path.stat().st_mtime_ns for path in fedavg.iterdir()}


@pytest.mark.parametrize(
    ("method", "extra"),
    [
        ("fedavg", {}),
        ("local", {}),
        ("fedavg", {"schedule": CLOCK}),
        ("scaffold", {"schedule": CLOCK}),
        ("local", {"schedule": CLOCK}),
    ],
    ids=["synchronous", "local", "asynchronous", "asynchronous-scaffold", "asynchronous-local"],
)
def test_an_interrupted_run_resumes_to_the_same_bits(files, tmp_path, monkeypatch, method, extra) -> None:
    spec = specification(method, **extra)
    federate(spec, files.inputs, tmp_path / "whole")
    real, calls = checkpoint_module.write_checkpoint, itertools.count(1)

    def interrupted(*arguments):
        real(*arguments)
        if next(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(federate_stage, "write_checkpoint", interrupted)
    with pytest.raises(KeyboardInterrupt):
        federate(spec, files.inputs, tmp_path / "parts")
    assert not (tmp_path / "parts" / "run.json").exists()
    assert (tmp_path / "parts" / "checkpoint.safetensors").exists()
    federate(spec, files.inputs, tmp_path / "parts")
    assert same(tmp_path / "whole", tmp_path / "parts")
    assert not (tmp_path / "parts" / "checkpoint.safetensors").exists()


def test_a_run_with_a_checkpoint_of_another_configuration_starts_anew(files, tmp_path, monkeypatch, capsys) -> None:
    def interrupted(*arguments):
        write(*arguments)
        raise KeyboardInterrupt

    write = checkpoint_module.write_checkpoint
    monkeypatch.setattr(federate_stage, "write_checkpoint", interrupted)
    with pytest.raises(KeyboardInterrupt):
        federate(specification(), files.inputs, tmp_path)
    monkeypatch.undo()
    changed = specification(training={"learning_rate": 0.02})
    federate(changed, files.inputs, tmp_path)
    assert "of another configuration; starting again" in capsys.readouterr().out
    federate(changed, files.inputs, tmp_path.with_name("never-interrupted"))
    assert same(tmp_path, tmp_path.with_name("never-interrupted"))


def test_evaluating_more_often_changes_no_bit_of_the_models(files, fedavg, tmp_path) -> None:
    for name, schedule in (("plain", {}), ("clock", {"schedule": CLOCK})):
        rare, often = tmp_path / f"{name}-rare", tmp_path / f"{name}-often"
        federate(specification(**schedule), files.inputs, rare)
        federate(specification(training={"evaluate_rounds": [0, 1, 2, 3, 4]}, **schedule), files.inputs, often)
        one, two = contents(rare), contents(often)
        assert all(torch.equal(one["tensors"][name], two["tensors"][name]) for name in one["tensors"])
        assert len(two["metrics"]) > len(one["metrics"])


def test_ap_fl_end_to_end(files, fedavg, tmp_path) -> None:
    spec = specification("apfl", base="fedavg", semantics="minilm", rounds=[2, 4], parameters=MEMORY)
    memorize_run(spec, files.after(fedavg), tmp_path / "generator")
    record = read_json(tmp_path / "generator" / "run.json")
    assert record["teachers"].keys() == {"2", "4"} and 0 <= record["teachers"]["4"]["teachers"] <= 1
    assert (tmp_path / "generator" / "samples.png").stat().st_size > 5000
    assert record["cycles"].keys() == {"2", "4"} and record["cycles"]["2"] > 0
    spec = specification(
        "apfl", parameters={"samples_per_class": 6}, semantics="minilm", reading="literal", rounds=[2, 4]
    )
    inputs = files.after(fedavg, tmp_path / "generator")
    personalize_run(spec, inputs, tmp_path / "apfl")
    frame = pd.read_parquet(tmp_path / "apfl" / "metrics.parquet")
    assert set(frame["model"]) == {"local", "localized", "friend", "personalized"} and set(frame["round"]) == {2, 4}
    assert set(frame.query("model == 'localized'")["client"]) == {8}
    assert set(frame.query("model == 'personalized'")["client"]) == set(range(10))
    assert set(frame["semantics"]) == {"minilm"} and set(frame["reading"]) == {"literal"}
    made = read_json(tmp_path / "apfl" / "run.json")
    assert {number: cost["server"] for number, cost in made["cycles"].items()} == record["cycles"]
    assert all(set(cost["clients"]) == set(map(str, range(10))) for cost in made["cycles"].values())
    tensors, _ = read_tensors(tmp_path / "generator" / "generator.safetensors", "generator")
    assert made["generator_bytes"] == sum(value.nbytes for name, value in tensors.items() if "round2" not in name)
    personalize_run(dataclasses.replace(spec, method="again"), inputs, tmp_path / "again")
    again = pd.read_parquet(tmp_path / "again" / "metrics.parquet")
    assert frame["accuracy"].equals(again["accuracy"])


def test_fine_tuning_starts_from_the_base_run(files, fedavg, tmp_path) -> None:
    personalize_run(specification("fedavg_ft", rounds=[4]), files.after(fedavg), tmp_path / "ft")
    tuned = pd.read_parquet(tmp_path / "ft" / "metrics.parquet").query("client_role == 'dropout' and test == 'own'")
    base = pd.read_parquet(fedavg / "metrics.parquet").query(
        "client_role == 'dropout' and test == 'own' and model == 'global' and round == 4"
    )
    assert tuned["loss"].item() < base["loss"].item()


def test_an_asynchronous_run_records_its_timeline_and_virtual_time(files, tmp_path) -> None:
    federate(specification(schedule=CLOCK), files.inputs, tmp_path)
    record = read_json(tmp_path / "run.json")
    assert len(record["timeline"]["rows"]) == 4 * 9 and record["payload"] > 0
    frame = pd.read_parquet(tmp_path / "metrics.parquet")
    assert frame["virtual_time"].is_monotonic_increasing and frame["virtual_time"].max() > 0
    assert frame["virtual_time"].max() <= max(row[3] for row in record["timeline"]["rows"])
    tensors, _ = read_tensors(tmp_path / "state.safetensors", "state")
    assert "round4/staleness/0" in tensors


def test_changing_a_dropout_clients_images_changes_no_server_artefact(files, fedavg, tmp_path) -> None:
    dataset, partition = load_dataset(files.inputs.data), load_partition(files.inputs.partition)
    images = dataset.images.copy()
    images[partition.client == 8] = 255 - images[partition.client == 8]
    save_dataset(tmp_path / "data.npz", dataclasses.replace(dataset, images=images))
    inputs = dataclasses.replace(files.inputs, data=tmp_path / "data.npz")
    federate(specification(), inputs, tmp_path / "fedavg")
    assert (tmp_path / "fedavg" / "state.safetensors").read_bytes() == (fedavg / "state.safetensors").read_bytes()
    spec = specification(base="fedavg", semantics="minilm", rounds=[4], parameters=MEMORY)
    for name, read, base in (("one", files.inputs, fedavg), ("two", inputs, tmp_path / "fedavg")):
        memorize_run(spec, dataclasses.replace(read, run=base), tmp_path / name)
    generators = [(tmp_path / name / "generator.safetensors").read_bytes() for name in ("one", "two")]
    assert generators[0] == generators[1]
    first, second = load_problem(specification(), files.inputs), load_problem(specification(), inputs)
    assert torch.equal(first.images.mean, second.images.mean) and torch.equal(first.images.std, second.images.std)


def test_normalisation_is_that_of_the_training_images_that_the_server_hears_of(files) -> None:
    problem = load_problem(specification(), files.inputs)
    heard = torch.cat([problem.train[client] for client in problem.participants])
    pixels = problem.images.pixels[heard].double()
    assert problem.images.mean.item() == pytest.approx(pixels.mean().item(), rel=1e-6)
    assert problem.images.std.item() == pytest.approx(pixels.std(correction=0).item(), rel=1e-6)


def test_a_method_without_a_model_for_some_client_is_refused(files, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(FedAvg, "client_models", lambda self, state, *_: {"global": {0: state["global"]}})
    with pytest.raises(UserError, match=r"FedAvg: client_models returns no 'global' model for client 1; return one"):
        federate(specification(), files.inputs, tmp_path)


def test_a_diverged_run_says_so_and_leaves_a_table_without_the_lost_rounds(files, tmp_path, capsys) -> None:
    spec = specification(training={"optimizer": "sgd", "learning_rate": 1e38, "evaluate_rounds": [0, 4]})
    federate(spec, files.inputs, tmp_path)
    assert read_json(tmp_path / "run.json")["status"] == "diverged"
    said = r"fedavg: round \d: client \d \(local model\): the loss is not finite; lower training\.learning_rate"
    assert re.search(said, capsys.readouterr().out)
    assert set(pd.read_parquet(tmp_path / "metrics.parquet")["round"]) == {0}


def test_a_server_that_ends_in_numbers_that_are_not_finite_has_diverged(files, tmp_path, monkeypatch) -> None:
    def broken(self, state, problem, round, results):
        return {"global": {name: value * float("nan") for name, value in state["global"].items()}}

    monkeypatch.setattr("baselines.fedavg.FedAvg.server_update", broken)
    federate(
        specification(training={"rounds": 2, "evaluate_rounds": [0, 2], "save_rounds": [2]}), files.inputs, tmp_path
    )
    assert read_json(tmp_path / "run.json")["status"] == "diverged"
    assert set(pd.read_parquet(tmp_path / "metrics.parquet")["round"]) == {0}


def test_what_starts_from_a_diverged_run_is_diverged_too_and_says_so(files, tmp_path) -> None:
    federate(specification(training={"optimizer": "sgd", "learning_rate": 1e38}), files.inputs, tmp_path / "base")
    spec = specification(base="fedavg", semantics="minilm", rounds=[4], parameters=MEMORY)
    memorize_run(spec, files.after(tmp_path / "base"), tmp_path / "generator")
    assert read_json(tmp_path / "generator" / "run.json")["status"] == "diverged"
    assert (tmp_path / "generator" / "samples.png").stat().st_size > 500
    for method, generator in (("fedavg_ft", None), ("apfl", tmp_path / "generator")):
        personalize_run(specification(method, rounds=[4]), files.after(tmp_path / "base", generator), tmp_path / method)
        assert read_json(tmp_path / method / "run.json")["status"] == "diverged"
        assert pd.read_parquet(tmp_path / method / "metrics.parquet").empty


def test_a_generator_that_diverges_is_recorded_and_so_is_what_is_made_of_it(files, fedavg, tmp_path) -> None:
    parameters = MEMORY | {"learning_rate": 1e30, "epochs": 4}
    spec = specification(base="fedavg", semantics="minilm", rounds=[4], parameters=parameters)
    memorize_run(spec, files.after(fedavg), tmp_path / "generator")
    assert read_json(tmp_path / "generator" / "run.json")["status"] == "diverged"
    inputs = files.after(fedavg, tmp_path / "generator")
    personalize_run(specification("apfl", rounds=[4]), inputs, tmp_path / "apfl")
    assert read_json(tmp_path / "apfl" / "run.json")["status"] == "diverged"


def test_a_run_on_other_inputs_is_not_taken_for_finished(files, tmp_path) -> None:
    dataset = load_dataset(files.inputs.data)
    save_partition(tmp_path / "partition.npz", make_partition(dataset, SETTING, 1))
    federate(specification(), files.inputs, tmp_path / "run")
    before = (tmp_path / "run" / "state.safetensors").read_bytes()
    federate(specification(), dataclasses.replace(files.inputs, partition=tmp_path / "partition.npz"), tmp_path / "run")
    assert (tmp_path / "run" / "state.safetensors").read_bytes() != before


@pytest.mark.parametrize("device", ["tpu", "cuda"])
def test_a_device_that_is_not_there_is_refused(files, tmp_path, device) -> None:
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match=f"device '{device}': not available here"):
        federate(specification(), files.inputs, tmp_path, device)


BAD = [
    (given(module="fedfoo"), "no baselines/fedfoo.py"),
    (given(parameters={"mu": 1}), "mu"),
    (given("apfl"), "use `apfl personalize`"),
    (given(training={"precision": "fp8"}), "precision"),
    (given(training={"epochs": 3}), "training.epochs"),
    (given(network={"name": "vgg"}), "network.name"),
    (given(schedule={"buffer": 99}), "schedule.buffer"),
    (given(schedule={"speed": 1}), "schedule.speed"),
    ({"dataset": "noise"}, "spec.setting"),
]


@pytest.mark.parametrize(("spec", "message"), BAD, ids=[message for _, message in BAD])
def test_a_bad_specification_ends_in_one_line_with_status_2_and_writes_nothing(files, tmp_path, spec, message, capsys):
    arguments = ["federate", "--spec", json.dumps(spec), "--data", str(files.inputs.data)]
    arguments += ["--partition", str(files.inputs.partition), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as end:
        main(arguments)
    error = capsys.readouterr().err
    assert end.value.code == 2 and error.count("\n") == 1 and message in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", ["missing", "truncated", "other"])
def test_damaged_inputs_end_in_one_line(files, tmp_path, damage) -> None:
    broken = tmp_path / "data.npz"
    if damage != "missing":
        whole = files.inputs.data.read_bytes()
        broken.write_bytes(whole[: len(whole) // 2] if damage == "truncated" else b"not an archive")
    with pytest.raises(UserError, match=r"data\.npz"):
        federate(specification(), dataclasses.replace(files.inputs, data=broken), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_partition_of_other_data_is_refused(files, tmp_path) -> None:
    small = dataclasses.replace(load_dataset(files.inputs.data))
    small = dataclasses.replace(small, images=small.images[:200], labels=small.labels[:200])
    save_dataset(tmp_path / "data.npz", small)
    with pytest.raises(UserError, match="partition"):
        load_problem(specification(), dataclasses.replace(files.inputs, data=tmp_path / "data.npz"))


def test_a_round_that_was_not_kept_is_named(files, fedavg, tmp_path) -> None:
    with pytest.raises(UserError, match=r"rounds 3: not kept .* 2, 4"):
        personalize_run(specification("fedavg_ft", rounds=[3]), files.after(fedavg), tmp_path)


def test_every_command_has_a_line_of_help() -> None:
    commands = typer.main.get_command(register()).commands
    assert {"data", "partition", "semantics", "federate", "memorize", "personalize"} <= commands.keys()
    assert all(command.help for command in commands.values())
