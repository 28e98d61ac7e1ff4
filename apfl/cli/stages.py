"""``apfl federate``, ``apfl memorize`` and ``apfl personalize``: the stages that compute."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apfl.errors import UserError, require
from apfl.storage.files import read_record, require_file, require_output

if TYPE_CHECKING:
    from apfl.stages.several import Call, Stage
    from apfl.stages.specification import Specification

EXAMPLES = "`apfl plan STUDY --json` prints the specifications of a study"
WRITTEN = "specification as JSON, or @FILE; `apfl plan STUDY --json` prints those of a study."
Spec = Annotated[str, typer.Option(help=f"The run's {WRITTEN}")]
NONE = "-"
Specs = Annotated[
    list[str],
    typer.Option(
        "--spec",
        help=f"A run's {WRITTEN} Repeat the option for several runs; every option for a file or folder must then be "
        "repeated as often, in the same order.",
    ),
]


def _each(name: str, what: str, optional: bool = True) -> Any:
    """An option that is given once for each run."""
    without = f", with {NONE} for a run that reads none" if optional else ""
    return typer.Option(name, help=f"{what}; repeated for each run{without}.")


Data = Annotated[Path, typer.Option(help="Data set made by `apfl data`.")]
Datas = Annotated[list[Path], _each("--data", "Data set made by `apfl data`", optional=False)]
Partitions = Annotated[list[Path], _each("--partition", "Partition made by `apfl partition`", optional=False)]
Semantics = Annotated[list[Path] | None, _each("--semantics", "Class embeddings made by `apfl semantics`")]
Proxies = Annotated[list[Path] | None, _each("--proxy", "Unlabelled images for distillation, made by `apfl data`")]
Bases = Annotated[list[Path], _each("--run", "Folder of the federated run to start from", optional=False)]
Generators = Annotated[list[Path] | None, _each("--generator", "Folder made by `apfl memorize`")]
Tunings = Annotated[
    list[Path] | None, _each("--tuning", "Choice made by `apfl tune`, from which a tuned run takes its settings")
]
Outs = Annotated[list[Path], _each("--out", "Folder for the results", optional=False)]
Store = Annotated[
    Path | None,
    typer.Option("--store", envvar="APFL_STORE_ROOT", help="Folder of finished runs, from which equal runs are taken."),
]
LastState = Annotated[
    bool,
    typer.Option(
        envvar="APFL_LAST_STATE", help="Keep the state from which a finished run can be continued with more rounds."
    ),
]
Device = Annotated[str, typer.Option(help="One of auto, cpu and cuda.")]


def initial(
    spec: Spec, data: Data, out: Annotated[Path, typer.Option(help="File for the parameters (safetensors).")]
) -> None:  # fmt: skip
    """Write the initial model that all methods of a seed share, for foreign methods."""
    from apfl.data.dataset import load_dataset
    from apfl.engine.networks import initial_parameters
    from apfl.stages.specification import InitialSpecification, configure
    from apfl.storage.tensors import write_tensors

    given = configure(InitialSpecification, _json(spec), "spec")
    require_output(out, ".safetensors")
    dataset = load_dataset(data)
    params = initial_parameters(given.network, dataset.channels, dataset.classes, given.seed)
    write_tensors(out, params, asdict(given))


def federate(
    spec: Specs, data: Datas, partition: Partitions, out: Outs, semantics: Semantics = None, proxy: Proxies = None,
    tuning: Tunings = None, device: Device = "auto", store: Store = None, last_state: LastState = True,
) -> None:  # fmt: skip
    """Train a federated method and record the accuracies of its models."""
    from apfl.engine.process import tune_process
    from apfl.stages.several import federate_all

    tune_process()
    paths = {"data": data, "partition": partition, "semantics": semantics, "proxy": proxy}
    federate_all(_calls(spec, out, tuning, paths, store, last_state), device)


def memorize(
    spec: Specs, data: Datas, partition: Partitions, semantics: Semantics, run: Bases, out: Outs,
    tuning: Tunings = None, device: Device = "auto", store: Store = None,
) -> None:  # fmt: skip
    """Train AP-FL's semantic generator on the models of a federated run."""
    from apfl.stages.memorize import memorize_run

    paths = {"data": data, "partition": partition, "semantics": semantics, "run": run}
    _one_after_another(memorize_run, _calls(spec, out, tuning, paths, store), device)


def personalize(
    spec: Specs, data: Datas, partition: Partitions, run: Bases, out: Outs, generator: Generators = None,
    tuning: Tunings = None, device: Device = "auto", store: Store = None,
) -> None:  # fmt: skip
    """Derive personalized models (fine-tuning, AP-FL) from a federated run and record their accuracies."""
    from apfl.stages.personalize import personalize_run

    paths = {"data": data, "partition": partition, "run": run, "generator": generator}
    _one_after_another(personalize_run, _calls(spec, out, tuning, paths, store), device)


def accept(
    spec: Spec, data: Data, partition: Annotated[Path, typer.Option(help="Partition made by `apfl partition`.")],
    metrics: Annotated[Path, typer.Option(help="The metrics that the program wrote, as .csv or .parquet.")],
    out: Annotated[Path, typer.Option(help="Folder for the run.")],
    model: Annotated[str, typer.Option(help="Role of the program's models, if its metrics name none.")] = "global",
    code: Annotated[str, typer.Option(help="Text that stands for the program's code in run.json.")] = "",
) -> None:  # fmt: skip
    """Check the metrics that a foreign program wrote, and turn them into a run that tables can show."""
    from apfl.stages.external import accept as accepted
    from apfl.stages.problem import Inputs

    require_output(out)
    accepted(_specification(spec), Inputs(data, partition), out, metrics, model, code)


def _one_after_another(stage: Stage, calls: list[Call], device: str) -> None:
    from apfl.engine.process import tune_process
    from apfl.stages.several import one_after_another

    tune_process()
    one_after_another(stage, calls, device)


def _calls(
    specs: list[str], outs: list[Path], tuning: list[Path] | None, paths: Mapping[str, list[Path] | None],
    store: Path | None, last_state: bool = True,
) -> list[Call]:  # fmt: skip
    """The runs that a command line asks for: of each option the value that stands at the run's place."""
    from apfl.stages.job import Keeping
    from apfl.stages.problem import Inputs
    from apfl.stages.several import Call

    for name, values in {"out": outs, "tuning": tuning, **paths}.items():
        if values and len(values) != len(specs):
            raise UserError(
                f"--{name}: given {len(values)} times, but --spec {len(specs)} times; give both once for every run"
            )
    if len({out.resolve() for out in outs}) < len(outs):
        raise UserError("--out: two runs have the same folder; give each run its own")
    for out in outs:
        require_output(out)
    given = [
        {name: values[place] for name, values in paths.items() if values and str(values[place]) != NONE}
        for place in range(len(specs))
    ]
    for name in ("data", "partition"):
        if not all(name in one for one in given):
            raise UserError(f"--{name} {NONE}: every run reads one; give its path")
    choices = [None if str(choice) == NONE else choice for choice in tuning or [Path(NONE)] * len(specs)]
    asked = [_specification(spec, choice) for spec, choice in zip(specs, choices, strict=True)]
    keeping = Keeping(store if store and store.name else None, last_state)
    return [Call(spec, Inputs(**one), out, keeping) for spec, one, out in zip(asked, given, outs, strict=True)]


def _specification(text: str, choice: Path | None = None) -> Specification:
    """The specification in a text or file, with the settings of the choice that it names."""
    from apfl.stages.specification import Specification

    asked = Specification.parse(_json(text))
    if (asked.tuned is None) != (choice is None):
        raise UserError(
            f"--tuning {choice or NONE}: goes with a specification that names its choice (`tuned`); give both or none"
        )
    if choice is None:
        return asked
    made = read_record(require_file(choice, "choice"), "choice")
    try:
        return asked.tuned_by(made["method"], made["chosen"]["parameters"])
    except (AttributeError, KeyError, TypeError):
        raise UserError(
            f"choice {choice}: does not say which trial is chosen; make it again with `apfl tune`"
        ) from None


def _json(text: str) -> dict[str, Any]:
    try:
        path = text.removeprefix("@")
        value = json.loads(text if path == text else require_file(path, "specification").read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"--spec: not JSON ({error}); {EXAMPLES}") from None
    require(isinstance(value, dict), f"--spec: must be a JSON object; {EXAMPLES}")
    return dict(value)
