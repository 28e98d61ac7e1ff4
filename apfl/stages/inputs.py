"""From artefacts and a specification to a `Problem`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from apfl.artifacts import canonical_json, read_json, read_record, sha256_file
from apfl.data.dataset import Dataset, load_dataset
from apfl.data.partition import check_match, load_partition
from apfl.errors import UserError
from apfl.federation import Problem, load_method
from apfl.nets import Model, build_network, initial_parameters
from apfl.registry import card
from apfl.registry import check_values as check_parameters
from apfl.semantics.table import load_semantics, standardize
from apfl.stages.kept import KEPT, RECORD, is_kept, keep, restore
from apfl.training import Engine, Images, TrainingConfig


@dataclass(frozen=True)
class Inputs:
    """Paths of the artefacts that a stage reads; those it has no use for are None."""

    data: Path
    partition: Path
    semantics: Path | None = None
    proxy: Path | None = None


WHOLE, TEXT, OBJECT, ROUNDS = "a whole number from 0", "a text", "an object", "a list of whole numbers from 0"
SPECIFICATION: Mapping[str, str] = {
    "dataset": TEXT, "setting": TEXT, "seed": WHOLE, "network": OBJECT, "training": OBJECT, "method": TEXT,
    "module": TEXT, "parameters": OBJECT, "schedule": OBJECT, "semantics": TEXT, "reading": TEXT, "rounds": ROUNDS,
    "base": TEXT, "generator": TEXT,
}  # fmt: skip
"""The keys of a run's specification, and what their values are."""


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


IS: Mapping[str, Callable[[Any], bool]] = {
    WHOLE: _is_whole,
    TEXT: lambda value: isinstance(value, str),
    OBJECT: lambda value: isinstance(value, Mapping),
    ROUNDS: lambda value: isinstance(value, list | tuple) and len(value) > 0 and all(map(_is_whole, value)),
}
TYPES: Mapping[str, Callable[[Any], bool]] = {
    "int": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "float": lambda value: isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf,
    "bool": lambda value: isinstance(value, bool),
    "str": IS[TEXT],
    "tuple[int, ...]": lambda value: isinstance(value, tuple) and all(map(_is_whole, value)),
}
"""What a field of a configuration takes, by its annotation."""


def configure(kind: type, values: Mapping[str, Any], section: str) -> Any:
    """A configuration dataclass from a section of the specification; unknown or missing keys, and values of another
    type, are a `UserError`."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if not isinstance(values, Mapping):
        raise UserError(f"{section} {values!r:.80}: is no object; {section} has {', '.join(fields)}")
    if unknown := sorted(set(values) - set(fields)):
        raise UserError(f"{section}.{unknown[0]}: unknown; {section} has {', '.join(fields)}")
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    for name, value in values.items():
        wanted, *others = str(fields[name].type).split(" | ")
        if not (TYPES.get(wanted, lambda value: True)(value) or (value is None and "None" in others)):
            raise UserError(f"{section}.{name} {value!r:.80}: is not of type {fields[name].type}; correct it")
    try:
        return kind(**values)
    except TypeError as error:
        raise UserError(f"{section}: {error}; it has {', '.join(fields)}") from None


def images_of(dataset: Dataset, statistics_of: torch.Tensor, device: torch.device) -> Images:
    """The images on the device, normalised by the per-channel statistics of the images at ``statistics_of``."""
    # `contiguous` would leave one channel with the strides of channels first, in which convolutions are slower.
    pixels = torch.from_numpy(dataset.images).permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format)
    chosen = pixels[statistics_of]
    channels = chosen.reshape(-1, chosen.shape[-1])
    # Sums of bytes are exact in float64 (below 2^53), so the statistics do not depend on the order of the images.
    total = channels.sum(0, dtype=torch.float64)
    squares = torch.stack([_sum_of_squares(column) for column in channels.T])
    mean = total / len(channels)
    std = (squares / len(channels) - mean**2).clamp_min(1e-12).sqrt().clamp_min(1.0)
    return Images(
        pixels.to(device), torch.from_numpy(dataset.labels).to(device), mean.float().to(device), std.float().to(device)
    )


def _sum_of_squares(column: torch.Tensor) -> torch.Tensor:
    histogram = torch.bincount(column.long(), minlength=256).double()
    return (histogram * torch.arange(256, dtype=torch.float64) ** 2).sum()


def check_specification(specification: Mapping[str, Any], *more: str) -> None:
    """A `UserError` if the specification lacks one of the keys that every stage reads, or one of ``more``, or has
    keys or values that mean nothing."""
    check_values(specification)
    for key in ("dataset", "setting", "seed", "training", *more):
        if key not in specification:
            raise UserError(f"spec.{key}: missing; `apfl plan --json` prints the specifications of a study")


def check_values(specification: Mapping[str, Any]) -> None:
    """A `UserError` for a key that no specification has, or a value of another kind than it has there."""
    for key, value in specification.items():
        if key not in SPECIFICATION:
            raise UserError(f"spec.{key}: unknown; a specification has {', '.join(SPECIFICATION)}")
        if not IS[SPECIFICATION[key]](value):
            raise UserError(
                f"spec.{key} {value!r:.80}: is not {SPECIFICATION[key]}; `apfl plan --json` prints examples"
            )
    if not isinstance(specification.get("network", {}).get("name", ""), str):
        raise UserError(f"spec.network.name {specification['network']['name']!r:.80}: is no text; name a network")
    try:
        canonical_json(specification)
    except ValueError:
        raise UserError("spec: holds a number that is not finite; give a finite one") from None


def method_of(specification: Mapping[str, Any]) -> Any:
    """The method that a specification names, with its hyper-parameters."""
    module, parameters = specification["module"], specification.get("parameters", {})
    parameters = check_parameters(card(module).fields, parameters, "spec.parameters")
    return load_method(module, parameters)


def engine_of(specification: Mapping[str, Any], device: str = "auto", precision: str | None = None) -> Engine:
    """What a run is computed with."""
    training = configure(TrainingConfig, specification["training"], "training")
    return Engine.choose(precision or training.precision, device)


def load_problem(
    specification: Mapping[str, Any], inputs: Inputs, device: str = "auto", precision: str | None = None
) -> Problem:
    """The problem that a specification states, on the artefacts that a stage is given."""
    training = configure(TrainingConfig, specification["training"], "training")
    engine = engine_of(specification, device, precision)
    seed, network = specification["seed"], specification.get("network", {"name": "cnn"})
    dataset, partition = load_dataset(inputs.data), load_partition(inputs.partition)
    check_match(dataset, partition)
    for key, path, there in (
        ("dataset", inputs.data, dataset.name),
        ("setting", inputs.partition, partition.specification["setting"]),
    ):
        if specification[key] != there:
            raise UserError(f"spec.{key} {specification[key]!r}: {path} is of {there!r}; give the files of one of them")
    clients = range(partition.clients)
    train, validation, test = (
        tuple(torch.from_numpy(part(client)) for client in clients)
        for part in (partition.train, partition.validation, partition.test)
    )
    heard = [part for part, dropped in zip(train, partition.dropout, strict=True) if not dropped]
    images = images_of(dataset, torch.cat(heard), engine.device)
    channels, classes = dataset.images.shape[1], len(dataset.class_names)
    return Problem(
        model=Model(build_network(network, channels, classes).to(engine.device)),
        images=images,
        train=tuple(part.to(engine.device) for part in train),
        test=tuple(part.to(engine.device) for part in test),
        validation=tuple(part.to(engine.device) for part in validation) if partition.is_validation.any() else (),
        counts=torch.from_numpy(partition.counts).to(engine.device),
        dropout=tuple(bool(dropped) for dropped in partition.dropout),
        unseen=torch.from_numpy(partition.unseen).to(engine.device),
        training=training,
        seed=seed,
        start=initial_parameters(network, channels, classes, seed, engine.device),
        engine=engine,
        semantics=None if inputs.semantics is None else _semantics(inputs.semantics, dataset, engine),
        proxy=None if inputs.proxy is None else _proxy(inputs.proxy, channels, engine),
    )


def _semantics(path: Path, dataset: Dataset, engine: Engine) -> torch.Tensor:
    return torch.from_numpy(standardize(load_semantics(path, dataset.class_names))).to(engine.device)


def _proxy(path: Path, channels: int, engine: Engine) -> Images:
    """Unlabelled images of another data set, normalised by their own statistics, with the channels of the problem's."""
    dataset = load_dataset(path)
    pixels = dataset.images
    if pixels.shape[1] != channels:
        grey = pixels.mean(axis=1, keepdims=True).round().astype("uint8")
        pixels = grey.repeat(channels, axis=1)
    converted = dataclasses.replace(dataset, images=pixels)
    return images_of(converted, torch.arange(len(pixels)), engine.device)


def finished(folder: Path, record: Mapping[str, Any]) -> bool:
    """Whether ``folder`` holds this very run, whole, made by this very code from these very inputs; says so. A run that
    was, and is still kept, is put back."""
    fault = _fault(folder, record)
    if fault is not None:
        restored = _fault(folder / KEPT, record) is None
        if fault:
            print(f"{fault}; {'put back as it was kept' if restored else 'running again'}")
        if not restored:
            return False
        restore(folder)
    elif not is_kept(folder):  # it is older than this habit, or what was kept is damaged
        keep(folder, read_record(folder / RECORD))
    print(f"{folder}: finished already, nothing to do")
    return True


def _fault(folder: Path, record: Mapping[str, Any]) -> str | None:
    """What is wrong with this run in ``folder``; nothing to speak of ("") if it is another run or none; None if it is
    whole."""
    path = folder / RECORD
    if not path.is_file():
        return ""
    try:
        there = read_json(path, "run record")
    except UserError as error:
        return str(error)
    if not isinstance(there, dict) or any(
        canonical_json(there.get(name)) != canonical_json(record[name]) for name in ("specification", "inputs", "code")
    ):
        return ""
    outputs = there.get("outputs")
    for name, sha256 in outputs.items() if isinstance(outputs, dict) else [("outputs", "")]:
        if not (folder / name).is_file() or sha256_file(folder / name) != sha256:
            return f"{folder / name}: missing, or not as {path.name} says"
    return None
