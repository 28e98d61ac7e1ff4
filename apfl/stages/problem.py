"""From artefacts and a specification to a `Problem`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch

from apfl.data.dataset import Dataset, load_dataset
from apfl.data.partition import check_match, load_partition
from apfl.engine.device import Engine
from apfl.engine.images import Images
from apfl.engine.networks import Model, build_network, initial_parameters
from apfl.errors import UserError, require
from apfl.federation.problem import Problem
from apfl.semantics.table import load_semantics, standardize
from apfl.stages.specification import Specification, training_of


@dataclass(frozen=True)
class Inputs:
    """Paths of the artefacts that a stage reads; those it has no use for are None. ``run`` and ``generator`` are the
    folders of the federated run that it starts from, and of the generator that was trained on that."""

    data: Path
    partition: Path
    semantics: Path | None = None
    proxy: Path | None = None
    run: Path | None = None
    generator: Path | None = None

    def required(self, name: str) -> Path:
        """A path that a stage cannot do without; a `UserError` if it is not given."""
        path: Path | None = getattr(self, name)
        if path is None:
            raise UserError(f"--{name}: missing; give its path")
        return path


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


def load_problem(specification: Specification, inputs: Inputs, device: str = "auto") -> Problem:
    """The problem that a specification states, on the artefacts that a stage is given."""
    training = training_of(specification)
    engine = Engine.choose(training.precision, device)
    seed, network = specification.seed, specification.network or {}
    dataset, partition = load_dataset(inputs.data), load_partition(inputs.partition)
    check_match(dataset, partition)
    for key, asked, path, there in (
        ("dataset", specification.dataset, inputs.data, dataset.name),
        ("setting", specification.setting, inputs.partition, partition.specification["setting"]),
    ):
        require(asked == there, f"spec.{key} {asked!r}: {path} is of {there!r}; give the files of one of them")
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
