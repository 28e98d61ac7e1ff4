"""Mistakes in specifications, and in the runs that others start from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from apfl.storage.files import read_json, write_json
from apfl.storage.tensors import read_tensors, write_tensors
from tests.bad_input import (
    MEMORY,
    SETTING,
    TRAINING,
    Case,
    Damage,
    both,
    copied,
    federate,
    folder_instead,
    memorize,
    nothing,
    personalize,
    shortened,
    spec,
    text,
    unreadable,
    without,
)

APFL = spec("apfl", rounds=[1], parameters={"samples_per_class": 5})
STATE, RECORD = "base/state.safetensors", "base/run.json"


def wrong(name: str, line: str, given: Any = None, /, **changes: Any) -> Case:
    """A specification that `apfl federate` refuses."""
    return Case(f"spec: {name}", nothing, federate(spec(**changes) if given is None else given), line)


def training(name: str, line: str, /, **changes: Any) -> Case:
    return wrong(name, line, training=TRAINING | changes)


def tensors(name: str, /, **changes: Any) -> Damage:
    """Other tensors in a file of a run, with a checksum as if nothing had happened: a function or ... to leave out."""

    def damage(world: Path) -> None:
        there, header = read_tensors(world / name, "state")
        for key, change in changes.items():
            key = key.replace("__", "/").replace("_dot_", ".")
            there[key] = change if change is ... or isinstance(change, torch.Tensor) else change(there[key])
        write_tensors(world / name, {key: value for key, value in there.items() if value is not ...}, header)
        _forget_outputs((world / name).with_name("run.json"))

    return damage


def rounds_renamed(world: Path) -> None:
    there, header = read_tensors(world / STATE, "state")
    write_tensors(world / STATE, {name.replace("round1", "round7"): one for name, one in there.items()}, header)
    _forget_outputs(world / RECORD)


def flipped(name: str) -> Damage:
    """One bit of the last byte of a file."""

    def damage(world: Path) -> None:
        content = bytearray((world / name).read_bytes())
        content[-1] ^= 1
        (world / name).write_bytes(content)
        _forget_outputs((world / name).with_name("run.json"))

    return damage


def unsigned(world: Path) -> None:
    """A state in which the word for its checksum has changed, and a model with it."""
    content = (world / STATE).read_bytes().replace(b"sha256", b"sha257")
    (world / STATE).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    _forget_outputs(world / RECORD)


def recorded(name: str, /, **changes: Any) -> Damage:
    """Other entries in a run.json."""
    return lambda world: write_json(world / name, read_json(world / name) | changes)


def _forget_outputs(record: Path) -> None:
    """What run.json says of its files would betray the mistake before what is tested can."""
    if record.is_file():
        write_json(record, {key: value for key, value in read_json(record).items() if key != "outputs"})


CASES = [
    # Specifications.
    wrong("no JSON", r"--spec: not JSON \(.*\); `apfl plan STUDY --json` prints", "{'method': 'fedavg'}"),
    wrong("cut short", r"--spec: not JSON", json.dumps(spec())[:-5]),
    wrong("a list", r"--spec: must be a JSON object; `apfl plan STUDY --json`", "[]"),
    wrong("a number", r"--spec: must be a JSON object", "3"),
    wrong("nested too deep", r"--spec: not JSON", "[" * 99999),
    wrong("file missing", r"specification nowhere\.json: no such file; make it first", "@nowhere.json"),
    Case("spec: file binary", text("s.json", bytes(range(256))), federate("@s.json"), r"--spec: not JSON \(.*utf-8"),
    wrong("empty", r"spec\.dataset: missing; `apfl plan STUDY --json` prints", "{}"),
    wrong("key missing", r"spec\.seed: missing; `apfl plan STUDY --json` prints", seed=...),
    wrong("unknown key", r"spec\.sede: unknown; spec has dataset, setting, seed", sede=1),
    wrong("seed a text", r"spec\.seed '0': is not a whole number; `apfl plan", seed="0"),
    wrong("seed negative", r"spec\.seed -1: is not a whole number from 0", seed=-1),
    wrong("seed of 70 bits", r"spec\.seed 1180591620717411303424: is not a whole number", seed=2**70),
    wrong("training a list", r"spec\.training \[1\]: is not an object", training=[1]),
    wrong("parameters a list", r"spec\.parameters \['mu'\]: is not an object", parameters=["mu"]),
    wrong("parameter unknown", r"spec\.parameters: unknown hyper-parameter 'mu'; known: none", parameters={"mu": 1}),
    wrong("parameter of another type", r"spec\.parameters: mu 'much' is not of type float; give", method="fedprox",
          module="fedprox", parameters={"mu": "much"}),
    wrong("parameter negative", r"fedprox\.mu -2\.0: must not be negative; 0 is FedAvg", module="fedprox",
          parameters={"mu": -2}),
    wrong("not finite", r"spec.*not finite; give a finite one|mu.*finite", module="fedprox",
          parameters={"mu": float("inf")}),
    wrong("module unknown", r"method 'fedfoo': there is no baselines/fedfoo\.py; add it", module="fedfoo"),
    wrong("module a path", r"method '\.\./conftest': there is no", module="../tests/conftest".replace("tests/", "")),
    wrong("module a number", r"spec\.module 5: is not a text", module=5),
    wrong("network a text", r"spec\.network 'cnn': is not an object", network="cnn"),
    wrong("network without kind", r"network\.name 3: is not a text; name a network", network={"name": 3}),
    wrong("network unknown", r"network\.name 'vgg': unknown; choose .* lenet, resnet", network={"name": "vgg"}),
    wrong("option of the network", r"network\.name 'resnet': .*colour.*; see the class",
          network={"name": "resnet", "colour": 1}),
    wrong("data set of another name", r"spec\.dataset 'cifar10': data\.npz is of 'noise'; give the files",
          dataset="cifar10"),
    training("rounds of training as a text", r"training\.rounds '4': is not a whole number; `apfl plan", rounds="4"),
    training("rounds zero", r"training\.rounds 0: must be at least 1", rounds=0),
    training("rate as a text", r"training\.learning_rate '1e-3': is not a finite number", learning_rate="1e-3"),
    training("rounds to evaluate late", r"training\.evaluate_rounds \[9\]: must be from 0 to 1", evaluate_rounds=[9]),
    training("rounds to evaluate as texts",
             r"training\.evaluate_rounds \['1'\]: is not a list of whole", evaluate_rounds=["1"]),
    training("unknown key of training", r"training\.epochs: unknown; training has rounds", epochs=3),
    training("optimizer", r"training\.optimizer 'lion': unknown; choose adam or sgd", optimizer="lion"),
    wrong("schedule a list", r"spec\.schedule \[1\]: is not an object", schedule=[1]),
    wrong("schedule's mean a text", r"schedule\.mean 'long': is not a finite number", schedule={"mean": "long"}),
    wrong("schedule's mean negative", r"schedule\.mean -1: time cannot be negative; give", schedule={"mean": -1}),
    wrong("trace of unknown clients", r"schedule\.trace: client 77 is not one of \[0, ",
          schedule={"latency": "trace", "trace": [[77, 0, 1]]}),
    wrong("trace of texts", r"schedule\.trace \['a', 'b', 'c'\]: is not a client and two times; correct",
          schedule={"latency": "trace", "trace": [["a", "b", "c"]]}),
    wrong("absences of texts", r"schedule\.absences \[0, 'soon', None\]: is not a client and two times; correct",
          schedule={"absences": [[0, "soon", None]]}),
    Case("spec: rounds as a text", nothing, personalize(spec("fedavg_ft", rounds="1")),
         r"spec\.rounds '1': is not a list"),
    Case("spec: no rounds", nothing, personalize(spec("fedavg_ft", rounds=[])), r"spec\.rounds \[\]: is not a list"),
    Case("spec: no semantics", nothing, memorize(spec(rounds=[1])), r"spec\.semantics: missing"),
    Case("spec: generator negative", nothing, memorize(spec(semantics="x", rounds=[1], module=...,
         parameters=MEMORY | {"epochs": -1})),
         r"generator\.epochs -1: must be at least 1"),
    Case("spec: wrong stage", nothing, federate(spec("apfl")),
         r"method 'apfl': is derived from another one; use `apfl per"),
    Case("spec: other wrong stage", nothing, personalize(spec(rounds=[1])),
         r"method 'fedavg': is a federated method; use"),
    # Checkpoints and states.
    Case("run missing", without(STATE), personalize(), r"run base/state\.safetensors: no such file; make it first"),
    Case("run's folder missing", nothing, personalize(run="nowhere"), r"run nowhere/state\.safetensors: no such file"),
    Case("state a folder", folder_instead(STATE), personalize(),
         r"run base/state\.safetensors: is a folder, not a file"),
    Case("state unreadable", unreadable(STATE), personalize(), r"(state\.safetensors|mem): .*; "),
    Case("state truncated", both(shortened(STATE), recorded(RECORD, outputs={})), personalize(),
         r"run state base/state\.safetensors: cannot be read \(.*\); remove it and run again"),
    Case("state empty", both(text(STATE, ""), recorded(RECORD, outputs={})), personalize(),
         r"state\.safetensors: cannot"),
    Case("state of noise", both(text(STATE, bytes(range(256))), recorded(RECORD, outputs={})), personalize(),
         r"cannot be"),
    Case("state with a flipped bit", flipped(STATE), personalize(),
         r"cannot be read \(not what was written to it\); remove"),
    Case("state without its checksum", unsigned, personalize(), r"cannot be read \(not what was written"),
    Case("state not the run's", text(STATE, "x"), personalize(),
         r"not the file that base/run\.json speaks of; remove both"),
    Case("state of other data", recorded(RECORD, inputs={"data": "another"}), personalize(),
         r"base/state\.safetensors: was made from another data than data\.npz; make it again"),
    Case("state of another partition", recorded(RECORD, inputs={"partition": "another"}), personalize(),
         r"was made from another partition than partition\.npz; make it again, or give that one"),
    Case("state of another network", nothing, personalize(spec("fedavg_ft", rounds=[1], network={"name": "cnn"})),
         r"base/state\.safetensors: is of another network: body\.\S+ is .*; give that network"),
    Case("state with another shape", tensors(STATE, round1__global__head_dot_bias=torch.zeros(7)), personalize(),
         r"is of another network: head\.bias is \[7\] there and \[10\] in this one"),
    Case("state without a layer", tensors(STATE, round1__global__head_dot_bias=...), personalize(),
         r"is of another network: head\.bias is absent there"),
    Case("state without the global model", tensors(STATE, **{
        f"round1__global__{name}".replace(".", "_dot_"): ... for name in
        ("body.2.weight", "body.2.bias", "head.weight", "head.bias")}), personalize(),
        r"has no global model to start from"),
    Case("state of nobody's models", tensors(STATE, round1__local__nobody__x=torch.ones(1)), personalize(),
         r"models of round 1 are not by client; make the run again"),
    Case("round missing", rounds_renamed, personalize(), r"rounds 1: not kept in base/state\.safetensors \(it has 7\)"),
    Case("record missing", without(RECORD), personalize(), r"run record base/run\.json: no such file; make it first"),
    Case("record no JSON", text(RECORD, "{"), personalize(),
         r"run record base/run\.json: not JSON \(.*\); make it again"),
    Case("record a list", text(RECORD, "[]"), personalize(),
         r"run record base/run\.json: holds no JSON object; remove it"),
    Case("record binary", text(RECORD, bytes(range(256))), memorize(), r"run record base/run\.json: not JSON"),
    # Generators.
    Case("generator missing", nothing, personalize(APFL), r"method 'apfl': needs --generator; give the folder"),
    Case("generator's folder missing", nothing, personalize(APFL, generator="nowhere"),
         r"generator nowhere/generator\.safetensors: no such file"),
    Case("generator of another run", recorded("generator/run.json", inputs={"run": "another"}),
         personalize(APFL, generator="generator"),
         r"was made from another run than base/state\.safetensors; make it again"),
    Case("generator truncated", both(shortened("generator/generator.safetensors"), recorded("generator/run.json",
         outputs={})),
         personalize(APFL, generator="generator"), r"generator generator/generator\.safetensors: cannot be read"),
    Case("generator of other rounds", tensors("generator/generator.safetensors"),
         personalize(APFL | {"rounds": [3]}, generator="generator"), r"rounds 3: not kept"),
    Case("generator without embeddings", tensors("generator/generator.safetensors", embeddings=...),
         personalize(APFL, generator="generator"), r"lacks its configuration or its embeddings; train it again"),
    Case("generator of other embeddings", tensors("generator/generator.safetensors", embeddings=torch.ones(10, 3)),
         personalize(APFL, generator="generator"), r"is not of its own configuration \(.*\); train it again"),
    Case("state for a generator", both(copied(STATE, "generator/generator.safetensors"),
         recorded("generator/run.json", outputs={})),
         personalize(APFL, generator="generator"), r"generator\.safetensors: .*; train it again"),
    Case("setting of a run unknown", nothing, federate(spec(setting="iid-clients5")),
         rf"spec\.setting 'iid-clients5': partition\.npz is of '{SETTING}'; give"),
]  # fmt: skip
