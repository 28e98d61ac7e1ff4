"""The chain of runs behind one number: a federated run, perhaps a generator on it, perhaps a personalization of both.

Paths are relative to results/ and tell a run from any other of its study.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import PurePosixPath
from typing import Any

from apfl.data.catalogue import folder_of
from apfl.data.setting import parse_setting
from apfl.registry.cards import Field
from apfl.registry.code import modules_of
from apfl.storage.files import digest
from apfl.study.readings import reading as reading_options
from apfl.study.schedules import Timing
from apfl.study.study import TRAINING, MethodEntry, Study, generator_fields
from apfl.study.tuning import tunes_training

ORDINARY = Timing()
UNNAMED = (("class_weight", "class"), ("steps_as_with", 0))
"""Hyper-parameters of the generator that came after runs had been named: at these defaults they change no name."""
MOST_NAMED = 3
"""Values that are written out in the name of a run's folder; for more, and for texts with other characters than those
of a name, there is their digest."""
ROUND_LISTS = ("rounds", "evaluate_rounds", "save_rounds")


@dataclass(frozen=True)
class Artefact:
    """A file that runs read: its kind (data, partition, initial, semantics, tune), how it is made, and from which
    files."""

    kind: str
    path: str
    spec: Mapping[str, Any]
    inputs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """One job: its folder, its specification, and its inputs by name (data, partition, run, ...).

    ``stage`` is federate, memorize, personalize or external (a foreign method, by its own rule); ``method`` is the
    method's id, or the generator's for memorize.
    """

    stage: str
    path: str
    dataset: str
    setting: str
    seed: int
    method: str
    spec: Mapping[str, Any]
    inputs: Mapping[str, str]

    @property
    def variant(self) -> str:
        """The folder below the setting: the method's id, and what differs from the study's default."""
        return self.path.split("/")[-2]

    @property
    def cell(self) -> str:
        """The folder of the runs of all seeds."""
        return self.path.rpartition("/")[0]

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules whose code decides the result, with all that they import."""
        if self.stage == "external":
            return ()  # its rule lists its script as an input
        return modules_of(self.stage, self.spec.get("module"))


def job_unit(one_job_per: str) -> str:
    """Whether a training job makes the run of one "seed", those of a "cell", or those of several, such as "8 cells":
    what a study says, or for "auto" a cell where there is a GPU."""
    return ("cell" if gpus() else "seed") if one_job_per == "auto" else one_job_per


@cache
def gpus() -> int:
    """How many GPUs of this machine answer. A driver without a device, or one that has broken down, has none; nor has
    who is shown none (CUDA_VISIBLE_DEVICES, in which a cluster may write a word such as NoDevFiles)."""
    try:
        done = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return 0
    there = sum(line.startswith(b"GPU ") for line in done.stdout.splitlines())
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    return there if shown is None else min(there, len(re.findall(r"(?:^|,)\s*(?:\d|GPU-|MIG-)", shown)))


def jobs_of(runs: Iterable[Run], unit: str) -> dict[str, list[Run]]:
    """The runs that each training job makes, by what names the job: the run's folder, the cell, or a batch of cells.

    A batch is of one stage in one setting, whose cells are shared out evenly, in their order: what is added to a study
    leaves the batches of other settings as they are, and what starts from a batch waits for its setting alone. Foreign
    methods make one run a job.
    """
    found: dict[str, list[Run]] = {}
    settings: dict[str, dict[str, list[Run]]] = {}
    for run in runs:
        if unit == "seed" or run.stage == "external":
            found[run.path] = [run]
        elif unit == "cell":
            found.setdefault(f"{run.cell}/seeds", []).append(run)
        else:
            study = run.path.partition("/")[0]
            setting = f"{study}/batches/{run.stage}/{run.dataset}/{run.setting}"
            setting += "/tuned" if "tuning" in run.inputs else ""  # which wait for trials in other batches
            settings.setdefault(setting, {}).setdefault(run.cell, []).append(run)
    for setting, cells in settings.items():
        number = -(-len(cells) // int(unit.split()[0]))
        for place, one in enumerate(cells.values()):
            found.setdefault(f"{setting}/{place * number // len(cells) + 1}", []).extend(one)
    return found


def generators(runs: Iterable[Run]) -> dict[tuple[str, str], list[Run]]:
    """By data set and semantics the runs that train a generator: of the lowest seed first, where most classes are
    missing."""
    found: dict[tuple[str, str], list[Run]] = {}
    ours = (run for run in runs if run.stage == "memorize")
    for run in sorted(ours, key=lambda run: (run.seed, -(parse_setting(run.setting).missing or 0), run.path)):
        found.setdefault((run.dataset, run.spec["semantics"]), []).append(run)
    return found


@dataclass(frozen=True)
class RunContext:
    """The study, data set, partition and seed of a chain of runs: what all of them read and are trained by."""

    study: Study
    dataset: str
    setting: str
    seed: int

    @property
    def inputs(self) -> dict[str, str]:
        return {"data": self.data.path, "partition": self.partition.path}

    @property
    def data(self) -> Artefact:
        return data_artefact(self.study, self.dataset)

    @property
    def partition(self) -> Artefact:
        path = f"{self.study.name}/partitions/{self.dataset}/{self.setting}/seed{self.seed}.npz"
        spec = {"dataset": self.dataset, "setting": self.setting, "seed": self.seed}
        spec |= {"validation": True} if self.study.validation else {}
        if self.setting.startswith("natural-") and (saved := self.study.data[self.dataset].get("partition")):
            spec |= {"saved": saved}
        return Artefact("partition", path, spec, {"data": self.data.path})

    @property
    def initial(self) -> Artefact:
        """The model that all methods of a seed start from, as a file for foreign methods."""
        path = f"{self.study.name}/initial/{self.dataset}/seed{self.seed}.safetensors"
        spec = {"dataset": self.dataset, "seed": self.seed, "network": dict(self.study.network)}
        return Artefact("initial", path, spec, {"data": self.data.path})

    @property
    def spec(self) -> dict[str, Any]:
        network = dict(self.study.network)
        return {"dataset": self.dataset, "setting": self.setting, "seed": self.seed, "network": network}

    @property
    def training(self) -> dict[str, Any]:
        """The training of this data set, as the engine takes it; which rounds to evaluate is said apart."""
        values = dict(self.study.training) | self.study.training["datasets"].get(self.dataset, {})
        return {name: value for name, value in values.items() if name not in ("datasets", "evaluate_every")}

    @property
    def evaluate_every(self) -> int:
        other = self.study.training["datasets"].get(self.dataset, {})
        return int(other.get("evaluate_every", self.study.training["evaluate_every"]))

    def run(self, stage: str, method: str, name: str, spec: Mapping[str, Any], inputs: Mapping[str, str]) -> Run:
        kind = "generators" if stage == "memorize" else "runs"
        path = f"{self.study.name}/{kind}/{self.dataset}/{self.setting}/{name}/seed{self.seed}"
        spec, inputs = {**self.spec, **spec}, {**self.inputs, **inputs}
        return Run(stage, path, self.dataset, self.setting, self.seed, method, spec, inputs)


@dataclass(frozen=True)
class Variant:
    """What the runs behind one number have otherwise than the study; what is empty, they have as the study does.

    reading, semantics: of AP-FL; parameters: hyper-parameters for this number alone; timing: the schedule of the
    federated run; choice: the file of the trial whose hyper-parameters are taken when the run starts.
    """

    reading: str = ""
    semantics: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    timing: Timing = ORDINARY
    choice: str = ""

    def name(self, method: MethodEntry) -> str:
        """The method's id and, after double dashes, what differs."""
        parts = {"semantics": self.semantics, "reading": "" if self.reading == "literal" else self.reading}
        named = [f"{name}-{value}" for name, value in {**parts, **self.parameters}.items() if value != ""]
        if len(self.parameters) > MOST_NAMED or not all(re.fullmatch(r"[\w.+-]+", name) for name in named):
            values = digest(dict(self.parameters))[:8]
            named = [f"{name}-{value}" for name, value in {**parts, "values": values}.items() if value]
        of = PurePosixPath(self.choice).stem
        named += [] if not of else ["tuned"] if of == method.id else [f"tuned-{of}"]
        return "--".join([method.id, *self.timing.parts, *named])


def chain(
    context: RunContext, method: MethodEntry, variant: Variant, rounds: Iterable[int] = (), save: bool = False
) -> list[Run]:
    """The runs behind one number, the method's own last.

    ``rounds`` are those after which a derived method is carried out, besides the last; with ``save`` their states are
    kept for those who start there. A derived method starts from a federated run with the same local training.
    """
    last = context.training["rounds"]
    wanted = sorted({*(number for number in rounds if number <= last), last})
    usual = settings(context, method, variant.reading)
    # Of several values in a study each has its name in a folder's, so that no name changes if there is another value.
    several = {} if variant.choice else method.variants(context.dataset)[0]
    changed = {
        name: value
        for name, value in {**several, **variant.parameters}.items()
        if name in several or any(filled.get(name, value) != value for filled in usual.values())
    }
    local = _filled(TRAINING, usual["training"] | changed)
    differs = {name.removeprefix("training."): value for name, value in local.items()}
    training = context.training | {n: value for n, value in differs.items() if value != context.training[n]}
    default = context.study.semantics_of(method, context.dataset)
    semantics = variant.semantics or default
    named = replace(variant, semantics=semantics if semantics != default else "", parameters=changed).name(method)
    if method.card.stage in ("federate", "external"):
        parameters = _filled(method.card.fields, usual["friend"] | changed)
        return [_tuned(_federate(context, method, named, parameters, training, variant.timing, wanted, save), variant)]
    choice = variant.choice if variant.choice and tunes_training(context.study, method.id) else ""
    begun = Variant(parameters=local, timing=variant.timing, choice=choice)
    (start,) = before = chain(context, context.study.methods[method.base], begun, wanted, save=True)
    inputs = {"run": start.path}
    if method.generative:
        parameters = _filled(generator_fields(), usual["generator"] | changed)
        before.append(_memorize(context, start, semantics, parameters, training, wanted, variant, method))
        inputs |= {"generator": before[-1].path}
    spec = {
        "method": method.id,
        "module": method.card.module,
        "parameters": _filled(method.card.fields, usual["friend"] | changed),
        "semantics": semantics if method.generative else "",
        "reading": variant.reading,
        "rounds": wanted,
        "training": training,
    }
    return [*before, _tuned(context.run("personalize", method.id, named, spec, inputs), variant)]


def settings(context: RunContext, method: MethodEntry, reading: str) -> dict[str, dict[str, Any]]:
    """Every hyper-parameter of a method in a reading, as the study has it: its own (``friend``), its generator's if it
    starts from one, and those of local training."""
    kinds: dict[str, Mapping[str, Field]] = {"friend": method.card.fields, "training": TRAINING}
    kinds |= {"generator": generator_fields()} if method.generative else {}
    options = reading_options(reading) if reading else {}
    values = _given(context, method)
    return {kind: _filled(fields, values | options.get(kind, {})) for kind, fields in kinds.items()}


def _tuned(run: Run, variant: Variant) -> Run:
    """The run, which takes its hyper-parameters from the variant's choice if it has one."""
    if not variant.choice:
        return run
    return replace(run, spec={**run.spec, "tuned": variant.choice}, inputs={**run.inputs, "tuning": variant.choice})


def merge(one: Run, other: Run) -> Run:
    """The same run for two readers: the union of the rounds that they ask for."""
    return replace(one, spec=_merged(one.spec, other.spec, one.path))


def data_artefact(study: Study, dataset: str) -> Artefact:
    """The data set, or the subset of it that the study takes."""
    entry = study.data[dataset]
    size = f"-{entry['max_samples']}" if entry["max_samples"] else ""
    spec = {"dataset": dataset, "folder": entry.get("folder", folder_of(dataset))} | {
        name: entry[name] for name in ("source", "max_samples")
    }
    spec |= {"classes": entry["classes"]} if "classes" in entry else {}
    return Artefact("data", f"data/{dataset}{size}.npz", spec)


def semantics_artefacts(study: Study, semantics: str, dataset: str) -> list[Artefact]:
    """An embedding; before it, the one whose rows it shuffles."""
    entry = study.semantics[semantics]
    options = {name: entry[name] for name in ("source", "model", "template", "dimension") if name in entry}
    spec = {"dataset": dataset, "semantics": semantics} | options
    inputs = {"data": data_artefact(study, dataset).path}
    before: list[Artefact] = []
    if (path := study.semantics_path(semantics, dataset)) is not None:
        spec |= {"path": path}
    if entry["source"] == "shuffled":
        before = semantics_artefacts(study, entry["of"], dataset)
        inputs |= {"of": before[-1].path}
    return [*before, Artefact("semantics", _semantics_path(semantics, dataset), spec, inputs)]


def _federate(
    context: RunContext, method: MethodEntry, name: str, parameters: Mapping[str, Any], training: Mapping[str, Any],
    timing: Timing, rounds: Sequence[int], save: bool,
) -> Run:  # fmt: skip
    """The federated run, evaluated after ``rounds``; with ``save`` their states are kept for those who start there."""
    every = range(context.evaluate_every, context.training["rounds"] + 1, context.evaluate_every)
    asked = {"evaluate_rounds": sorted({*every, *rounds}), "save_rounds": list(rounds) if save else []}
    spec = {
        "method": method.id,
        "module": method.card.module,
        "parameters": parameters,
        "training": {**training, **asked},
    }
    if not timing.ordinary:
        spec |= {"schedule": dict(timing.values)}
    inputs: dict[str, str] = {}
    if "semantics" in method.card.needs:
        semantics = context.study.semantics_of(method, context.dataset)
        spec |= {"semantics": semantics}
        inputs |= {"semantics": _semantics_path(semantics, context.dataset)}
    if "proxy" in method.card.needs:
        inputs |= {"proxy": data_artefact(context.study, context.study.proxy[context.dataset]).path}
    if method.card.stage == "external":
        inputs |= {"initial": context.initial.path}
    return context.run(method.card.stage, method.id, name, spec, inputs)


def _memorize(
    context: RunContext, start: Run, semantics: str, parameters: Mapping[str, Any], training: Mapping[str, Any],
    rounds: Sequence[int], variant: Variant, method: MethodEntry,
) -> Run:  # fmt: skip
    """The generator on a federated run, shared by all that ask for the same parameters."""
    named = {name: value for name, value in parameters.items() if (name, value) not in UNNAMED}
    which = f"tuned-{method.id}" if variant.choice else digest(named)[:8]
    generator = f"{start.variant}--{semantics}--{which}"
    spec = {
        "base": start.method,
        "generator": generator,
        "semantics": semantics,
        "rounds": list(rounds),
        "training": dict(training),
        "parameters": dict(parameters),
    }
    inputs = {"semantics": _semantics_path(semantics, context.dataset), "run": start.path}
    return _tuned(context.run("memorize", generator, generator, spec, inputs), variant)


def _semantics_path(semantics: str, dataset: str) -> str:
    return f"semantics/{dataset}/{semantics}.npz"


def _given(context: RunContext, method: MethodEntry) -> dict[str, Any]:
    """The hyper-parameters that the study gives: of local training its own, and those of the method that this one
    starts from; AP-FL's for all, for the data set; and the method's own, which may be for the data set too."""
    shared = {name: context.training[name.removeprefix("training.")] for name in TRAINING}
    if method.base:
        begun = context.study.methods[method.base].given(context.dataset)
        shared |= {name: value for name, value in begun.items() if name in TRAINING}
    if method.generative:
        shared |= context.study.apfl["parameters"] | context.study.apfl["datasets"].get(context.dataset, {})
        shared.pop("semantics", None)
    return shared | method.given(context.dataset)


def _filled(fields: Mapping[str, Field], values: Mapping[str, Any]) -> dict[str, Any]:
    """Every hyper-parameter among ``fields``: its default, or the value given; 1 for a float is 1.0."""
    given = {name: value for name, value in values.items() if name in fields}
    defaults = {name: entry.default for name, entry in fields.items()}
    return defaults | {n: float(v) if fields[n].type == "float" else v for n, v in given.items()}


def _merged(one: Mapping[str, Any], other: Mapping[str, Any], path: str) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for name, value in one.items():
        if name in ROUND_LISTS and isinstance(value, list):
            merged[name] = sorted({*value, *other[name]})
        elif name == "training":
            merged[name] = _merged(value, other[name], path)
        elif value == other[name]:
            merged[name] = value
        else:
            raise ValueError(f"{path}: two runs share this folder but not {name}: {value!r} and {other[name]!r}")
    return merged
