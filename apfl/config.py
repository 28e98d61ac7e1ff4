"""A study's configuration: read, completed with the schema's defaults, and checked before anything is planned.

`load_study` refuses what cannot run: unknown keys and names, values out of range, inputs that a method needs and the
study does not give. Every refusal is one line that names the field, the value and the remedy.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from apfl.checks import explain, read
from apfl.data.setting import parse_setting
from apfl.data.sizes import parts_of
from apfl.errors import UserError
from apfl.readings import check_distinct
from apfl.registry import ROOT, Card, Field, card, check_values, parameters_of
from apfl.schedules import check_clients, completed

SCHEMA = ROOT / "workflow" / "schemas" / "config.schema.yaml"
CLASSES: Mapping[str, int] = {
    "digits": 10,
    "cifar10": 10,
    "cifar100": 100,
    "emnist": 26,
    "fashion_mnist": 10,
    "emnist_letters_a_to_l": 12,
    "ocr_letters": 26,
    "nist_letters": 26,
    "photos": 2,
}
DOWNLOADS = ("cifar10", "cifar100", "emnist", "fashion_mnist")
TIME_FIGURES = ("figure_time", "figure_staleness", "figure_timeline")
"""The figures of the runs of the table of convergence."""
RESERVED = ("module", "base", "semantics", "title", "datasets")


@dataclass(frozen=True)
class MethodEntry:
    """A method of a study: its id, its card, the id of the method it starts from, and hyper-parameters that differ from
    its file's: on all data sets, and by data set."""

    id: str
    card: Card
    title: str
    base: str
    semantics: str
    parameters: Mapping[str, Any]
    datasets: Mapping[str, Mapping[str, Any]]

    def given(self, dataset: str) -> dict[str, Any]:
        """The hyper-parameters that differ on a data set."""
        return {**self.parameters, **self.datasets.get(dataset, {})}

    @property
    def generative(self) -> bool:
        """Does it start from a generator, as AP-FL does?"""
        return "generator" in self.card.needs


@dataclass(frozen=True)
class Study:
    """A checked configuration; the mappings have the keys of the schema, with its defaults filled in."""

    name: str
    description: str
    seeds: tuple[int, ...]
    one_job_per: str
    validation: bool
    data_root: str
    semantics_root: str
    data: Mapping[str, Mapping[str, Any]]
    semantics: Mapping[str, Mapping[str, Any]]
    proxy: Mapping[str, str]
    network: Mapping[str, Any]
    training: Mapping[str, Any]
    methods: Mapping[str, MethodEntry]
    apfl: Mapping[str, Any]
    schedules: Mapping[str, Mapping[str, Any]]
    tables: Mapping[str, Mapping[str, Any]]
    figures: Mapping[str, Mapping[str, Any]]

    def classes(self, dataset: str) -> int:
        """Number of classes of a data set."""
        return self.data[dataset].get("classes") or CLASSES[dataset]

    def datasets(self, section: Mapping[str, Any]) -> tuple[str, ...]:
        """The data sets of a table or figure: those it names, or all that are no mere proxies."""
        proxies = {name for name in self.proxy.values() if name not in self.proxy}
        return tuple(section.get("datasets", (name for name in self.data if name not in proxies)))

    def semantics_of(self, method: MethodEntry, dataset: str) -> str:
        """The embedding that a method uses on a data set, where no table asks for another."""
        return method.semantics or self.apfl["datasets"].get(dataset, {}).get("semantics", self.apfl["semantics"])

    def semantics_path(self, semantics: str, dataset: str) -> str | None:
        """Where the embedding of a data set lies under ``semantics_root``; None if it needs no file."""
        entry = self.semantics[semantics]
        path = entry.get("paths", {}).get(dataset, entry.get("path"))
        return None if path is None else path.replace("{dataset}", dataset)

    def entry_title(self, entry: Mapping[str, str]) -> str:
        """The column heading of a method on a schedule; a synchronous run is simply the method's."""
        method, name = self.methods[entry["method"]], entry["schedule"]
        synchronous = self.schedules[name]["mode"] == "sync"
        return entry.get("title") or (method.title if synchronous else f"{method.title} ({name})")

    def has_semantics(self, semantics: str, dataset: str) -> bool:
        """Is there such an embedding for the data set?"""
        entry = self.semantics[semantics]
        if entry["source"] == "shuffled":
            return self.has_semantics(entry["of"], dataset)
        return "paths" not in entry or self.semantics_path(semantics, dataset) is not None


def generator_fields() -> dict[str, Field]:
    """The generator's hyper-parameters."""
    return parameters_of("apfl.memorization", "GeneratorConfig")


def load_study(source: str | os.PathLike | Mapping[str, Any], folders: Sequence[str | os.PathLike] = (".",)) -> Study:
    """The study in a YAML file, or in a dictionary of the same form; a `UserError` if it could not run as it stands.

    Files that the study names lie beside it, or under data_root; ``folders`` say where "beside" is for a dictionary.
    """
    where, values = read(source)
    _validate(values, where)
    values = _with_defaults(schema(), values)
    for root, variable in (("data_root", "APFL_DATA_ROOT"), ("semantics_root", "APFL_SEMANTICS_ROOT")):
        values[root] = values[root] or os.environ.get(variable, "")
    beside = [Path(where).parent] if where else list(folders)
    values["schedules"] = completed(values["schedules"], [*beside, *filter(None, [values["data_root"]])])
    methods = _methods(values)
    # What one method of a study may look at beside its training images, no other method of it trains on.
    chooses = "selection" in values["apfl"] or any("validation" in entry.card.needs for entry in methods.values())
    values.setdefault("validation", chooses)
    if "selection" in values["apfl"] and values["one_job_per"] == "auto":
        values["one_job_per"] = "seed"  # the seeds that readings are chosen by belong to no cell of a table
    study = Study(**values | {"seeds": tuple(values["seeds"]), "methods": methods})
    _check(study)
    return study


@cache
def schema() -> dict[str, Any]:
    """The JSON schema of a study."""
    import yaml

    return yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))


def _validate(values: Mapping[str, Any], where: str) -> None:
    import jsonschema

    validator = jsonschema.Draft202012Validator(schema())
    error = min(validator.iter_errors(values), key=lambda error: list(map(str, error.absolute_path)), default=None)
    if error is not None:
        raise UserError(f"{where}: {explain(error)}" if where else explain(error))


def _with_defaults(schema_part: Mapping[str, Any], value: Any) -> Any:
    """``value`` completed with the defaults of the schema, at every level."""
    if "$ref" in schema_part:
        target = schema()["$defs"][schema_part["$ref"].rsplit("/", 1)[-1]]
        schema_part = target | {key: item for key, item in schema_part.items() if key != "$ref"}
    if not isinstance(value, dict):
        return value
    properties = schema_part.get("properties", {})
    complete = dict(value)
    for name, part in properties.items():
        target = schema()["$defs"][part["$ref"].rsplit("/", 1)[-1]] | part if "$ref" in part else part
        if name not in complete and "default" in target:
            complete[name] = copy.deepcopy(target["default"])
    other = schema_part.get("additionalProperties")
    parts = {name: properties.get(name, other) for name in complete}
    return {name: _with_defaults(parts[name], item) if parts[name] else item for name, item in complete.items()}


def _methods(values: Mapping[str, Any]) -> dict[str, MethodEntry]:
    cards = {id_: card(entry.get("module", id_.replace("-", "_"))) for id_, entry in values["methods"].items()}
    entries = {}
    for id_, entry in values["methods"].items():
        here = cards[id_]
        base = entry.get("base", here.base.replace("_", "-"))
        if "base" in entry and here.stage != "personalize":
            raise UserError(f"methods.{id_}.base {base!r}: {here.title} starts from no other method; remove it")
        if base and base not in cards:
            raise UserError(f"methods.{id_}: starts from {base!r}, which is not among the methods; add `{base}: {{}}`")
        if base and cards[base].stage != "federate":
            raise UserError(f"methods.{id_}.base {base!r}: is no federated method; choose one that is")
        if base and not cards[base].shares_global:
            raise UserError(
                f"methods.{id_}.base {base!r}: {cards[base].title} keeps no global model for {here.title} to start "
                "from; choose another base, such as fedavg"
            )
        entries[id_] = MethodEntry(
            id=id_,
            card=here,
            title=entry.get("title") or _title(id_, here, base, cards),
            base=base,
            semantics=entry.get("semantics", ""),
            parameters={name: value for name, value in entry.items() if name not in RESERVED},
            datasets=entry.get("datasets", {}),
        )
    return entries


def _title(id_: str, here: Card, base: str, cards: Mapping[str, Card]) -> str:
    """AP-FL, AP-FL (SCAFFOLD) on another base, or FedProx [fedprox-mu1] where the id is not the file's name."""
    if base and base != here.base.replace("_", "-"):
        return f"{here.title} ({cards[base].title})"
    return here.title if id_.replace("-", "_") == here.module or here.stage == "external" else f"{here.title} [{id_}]"


def _check(study: Study) -> None:
    """What a schema cannot say: that names refer to something, and that each method gets what it needs."""
    for name, entry in study.data.items():
        _check_dataset(study, name, entry)
    for name, entry in study.semantics.items():
        _check_semantics(study, name, entry)
    for name, proxy in study.proxy.items():
        _known(name, study.data, "proxy", "data set")
        _known(proxy, study.data, f"proxy.{name}", "data set")
    for field in ("training", "apfl"):
        for name in getattr(study, field)["datasets"]:
            _known(name, study.data, f"{field}.datasets", "data set")
    check_distinct(study.apfl["readings"])
    if "selection" in study.apfl:
        _check_selection(study, study.apfl["selection"])
    titles: dict[str, str] = {}
    for method in study.methods.values():
        _check_method(study, method)
        if (other := titles.setdefault(method.title, method.id)) != method.id:
            raise UserError(f"methods.{method.id}: is called {method.title!r} like {other!r}; give one of them a title")
    for output, section in (study.tables | study.figures).items():
        _check_output(study, output, section)


def _check_selection(study: Study, section: Mapping[str, Any]) -> None:
    """That readings are chosen by what no table shows."""
    if both := sorted(set(section["seeds"]) & set(study.seeds)):
        raise UserError(
            f"apfl.selection.seeds: {both[0]} is a seed of the study too; choose by seeds that no table uses"
        )
    if not study.validation:
        raise UserError(
            "validation false: apfl.selection chooses by validation images; say true, or remove one of them"
        )
    if study.one_job_per == "cell":
        raise UserError(
            "one_job_per 'cell': the seeds of apfl.selection belong to no cell of a table; say seed, or remove one"
        )
    _check_output(study, "apfl.selection", section)


def _known(name: str, names: Iterable[str], where: str, what: str) -> None:
    names = list(names)
    if name not in names:
        raise UserError(
            f"{where} {name!r}: unknown {what}; choose from {', '.join(names) or 'none, as there are none'}"
        )


def _check_dataset(study: Study, name: str, entry: Mapping[str, Any]) -> None:
    if name not in CLASSES and "classes" not in entry:
        known = ", ".join(CLASSES)
        raise UserError(
            f"data.{name}: unknown data set; choose from {known}, or give its number of classes (`classes`)"
        )
    alone = ("digits", "photos", "nist_letters")
    if (entry["source"] in alone or name in alone) and entry["source"] != name:
        raise UserError(
            f"data.{name}.source {entry['source']!r}: {', '.join(alone)} are sources of one data set each, which has"
            " their name; use it for both"
        )
    if entry["source"] == "torchvision" and name not in DOWNLOADS:
        raise UserError(f"data.{name}.source 'torchvision': has no such data set; it has {', '.join(DOWNLOADS)}")
    parts = parts_of({**entry, "train_samples": 0}, name, False)
    if parts and entry["train_samples"] > parts[0]:
        raise UserError(
            f"data.{name}.train_samples {entry['train_samples']}: {parts[0]} images are not for tests; use fewer,"
            " or leave it out for all of them"
        )
    if entry["source"] in ("parquet", "folder", "nist_letters") and not study.data_root:
        raise UserError(f"data.{name}: data_root is not set; set APFL_DATA_ROOT or --config data_root=FOLDER")


def _check_semantics(study: Study, name: str, entry: Mapping[str, Any]) -> None:
    if entry["source"] == "shuffled":
        _known(
            entry.get("of", ""),
            (other for other in study.semantics if other != name),
            f"semantics.{name}.of",
            "embedding",
        )
    if entry["source"] == "table" and not entry.keys() & {"path", "paths"}:
        raise UserError(f"semantics.{name}: has no path; say where its table lies: path: clip/{{dataset}}.npz")
    if entry["source"] == "table" and not study.semantics_root:
        raise UserError(
            f"semantics.{name}: semantics_root is not set; set APFL_SEMANTICS_ROOT or --config semantics_root=FOLDER"
        )


def _check_method(study: Study, method: MethodEntry) -> None:
    fields = method.card.fields | (generator_fields() if method.generative else {})
    check_values(fields, method.parameters, f"methods.{method.id}")
    for name, values in method.datasets.items():
        _known(name, study.data, f"methods.{method.id}.datasets", "data set")
        check_values(fields, values, f"methods.{method.id}.datasets.{name}")
    if method.generative:
        shared = {"apfl.parameters": study.apfl["parameters"]}
        shared |= {f"apfl.datasets.{name}": values for name, values in study.apfl["datasets"].items()}
        for where, values in shared.items():
            check_values(fields, {key: value for key, value in values.items() if key != "semantics"}, where)
    needs = set(method.card.needs)
    for dataset in study.datasets({}):
        training = {**study.training, **study.training["datasets"].get(dataset, {})}
        if method.base and not training["keep_local_models"]:
            raise UserError(
                f"training.keep_local_models false: methods.{method.id} starts from the local models on {dataset!r}; "
                f"keep them, or remove the method"
            )
        if "proxy" in needs and dataset not in study.proxy:
            raise UserError(
                f"proxy: {method.title} needs unlabelled images for {dataset!r}; add `{dataset}: another data set`"
            )
        if needs & {"generator", "semantics"}:
            name = study.semantics_of(method, dataset)
            field = f"methods.{method.id}.semantics" if method.semantics else "apfl.semantics"
            _known(name, study.semantics, field, "semantics")
            if not study.has_semantics(name, dataset):
                raise UserError(
                    f"{field} {name!r}: has no embedding for {dataset!r}; set apfl.datasets.{dataset}.semantics"
                )


def _check_output(study: Study, output: str, section: Mapping[str, Any]) -> None:
    named = [*section.get("datasets", ()), *section.get("partitions", ()), *section.get("panels", ())]
    for name in named + ([section["dataset"]] if "dataset" in section else []):
        _known(name, study.data, output, "data set")
    for name in [*section.get("methods", ()), *([section["method"]] if "method" in section else [])]:
        _known(name, study.methods, output, "method")
    if "method" in section and not study.methods[section["method"]].generative:
        raise UserError(f"{output}.method {section['method']!r}: makes no friend model; choose an AP-FL method")
    if "against" in section:
        _known(section["against"], study.methods, f"{output}.against", "method")
    check_distinct(section.get("readings", ()), f"{output}.readings")
    for name in section.get("semantics", ()):
        _known(name, study.semantics, f"{output}.semantics", "semantics")
    for partition in [*section.get("partitions", {}).values(), *section.get("panels", {}).values()]:
        parse_setting(f"{partition}-clients5")
    for number, entry in enumerate(section.get("entries", ())):
        _check_entry(study, f"{output}.entries.{number}", entry, section)
    titles = [study.entry_title(entry) for entry in section.get("entries", ())]
    if twice := [title for title in titles if titles.count(title) > 1]:
        raise UserError(f"{output}.entries: two are called {twice[0]!r}; give one of them a title")
    if output == "convergence" and study.schedules[section["entries"][0]["schedule"]]["mode"] != "sync":
        raise UserError(
            f"{output}.entries.0: the target is a share of the first entry's accuracy; put one of mode sync there"
        )
    if output in TIME_FIGURES and "convergence" not in study.tables:
        raise UserError(f"figures.{output}: shows the runs of tables.convergence; add that table, or remove the figure")


def _check_entry(study: Study, where: str, entry: Mapping[str, str], section: Mapping[str, Any]) -> None:
    """That a method can run on a schedule with the data sets and the clients of a table."""
    _known(entry["method"], study.methods, f"{where}.method", "method")
    _known(entry["schedule"], study.schedules, f"{where}.schedule", "schedule")
    method, schedule = study.methods[entry["method"]], study.schedules[entry["schedule"]]
    trained = study.methods[method.base] if method.base else method
    if trained.card.stage != "federate":
        raise UserError(f"{where}.method {method.id!r}: is run by a rule of its own, which knows no schedules")
    additive = all(trained.card.is_additive(trained.given(dataset)) for dataset in study.datasets(section))
    if schedule["mode"] == "async" and not additive:
        raise UserError(
            f"{where}: {trained.title}'s server update is no sum over clients, so it cannot run on schedule "
            f"{entry['schedule']!r}, which is async; choose a schedule of mode sync, or another method"
        )
    check_clients(entry["schedule"], schedule, section["clients"], where)
