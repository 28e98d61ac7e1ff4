"""``apfl federate``, ``apfl memorize`` and ``apfl personalize``: the stages that compute."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from apfl.errors import UserError

Spec = Annotated[
    str, typer.Option(help="The run's specification as JSON, or @FILE; `apfl plan --json` prints those of a study.")
]
Data = Annotated[Path, typer.Option(help="Data set made by `apfl data`.")]
PartitionPath = Annotated[Path, typer.Option("--partition", help="Partition made by `apfl partition`.")]
Semantics = Annotated[Path | None, typer.Option(help="Class embeddings made by `apfl semantics`.")]
Proxy = Annotated[Path | None, typer.Option(help="Unlabelled images for distillation, made by `apfl data`.")]
Base = Annotated[Path, typer.Option("--run", help="Folder of the federated run to start from.")]
Generator = Annotated[Path | None, typer.Option(help="Folder made by `apfl memorize`.")]
Out = Annotated[Path, typer.Option(help="Folder for the results.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(initial)
    app.command()(federate)
    app.command()(memorize)
    app.command()(personalize)


def initial(
    spec: Spec, data: Data, out: Annotated[Path, typer.Option(help="File for the parameters (safetensors).")]
) -> None:  # fmt: skip
    """Write the initial model that all methods of a seed share, for foreign methods."""
    from apfl.artifacts import require_output, write_tensors
    from apfl.data.dataset import load_dataset
    from apfl.nets import initial_parameters
    from apfl.stages.inputs import check_values

    given = _specification(spec)
    check_values(given)
    require_output(out, ".safetensors")
    dataset = load_dataset(data)
    network = given.get("network", {"name": "cnn"})
    write_tensors(out, initial_parameters(network, dataset.channels, dataset.classes, given.get("seed", 0)), given)


def federate(
    spec: Spec, data: Data, partition: PartitionPath, out: Out, semantics: Semantics = None, proxy: Proxy = None,
    device: Device = "auto",
) -> None:  # fmt: skip
    """Train a federated method and record the accuracies of its models."""
    from apfl.artifacts import require_output
    from apfl.stages.federate import federate as stage
    from apfl.stages.inputs import Inputs
    from apfl.tuning import tune_process

    tune_process()
    require_output(out)
    stage(_specification(spec), Inputs(data, partition, semantics, proxy), out, device)


def memorize(
    spec: Spec,
    data: Data,
    partition: PartitionPath,
    semantics: Semantics,
    base: Base,
    out: Out,
    device: Device = "auto",
) -> None:
    """Train AP-FL's semantic generator on the models of a federated run."""
    from apfl.artifacts import require_output
    from apfl.stages.inputs import Inputs
    from apfl.stages.memorize import memorize_run
    from apfl.tuning import tune_process

    tune_process()
    require_output(out)
    memorize_run(_specification(spec), Inputs(data, partition, semantics), base, out, device)


def personalize(
    spec: Spec, data: Data, partition: PartitionPath, base: Base, out: Out, generator: Generator = None,
    device: Device = "auto",
) -> None:  # fmt: skip
    """Derive personalized models (fine-tuning, AP-FL) from a federated run and record their accuracies."""
    from apfl.artifacts import require_output
    from apfl.stages.inputs import Inputs
    from apfl.stages.personalize import personalize_run
    from apfl.tuning import tune_process

    tune_process()
    require_output(out)
    personalize_run(_specification(spec), Inputs(data, partition), base, generator, out, device)


def _specification(text: str) -> dict[str, Any]:
    from apfl.artifacts import require_file

    try:
        path = text.removeprefix("@")
        value = json.loads(text if path == text else require_file(path, "specification").read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"--spec: not JSON ({error}); `apfl plan --json` prints the specifications of a study"
        ) from None
    if not isinstance(value, dict):
        raise UserError("--spec: must be a JSON object; `apfl plan --json` prints the specifications of a study")
    return value
