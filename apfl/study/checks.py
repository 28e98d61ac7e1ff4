"""What a schema cannot say: that names refer to something, and that each method gets what it needs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from apfl.data.catalogue import CATALOGUE, DOWNLOADS, FOR_ONE, UNDER_ROOT, parts_of
from apfl.data.partition import load_partition
from apfl.data.setting import parse_setting
from apfl.data.sources import number_of_classes, number_of_clients
from apfl.errors import UserError
from apfl.registry.cards import check_values, written
from apfl.study.outputs import OUTPUTS
from apfl.study.readings import check_distinct
from apfl.study.schedules import check_clients
from apfl.study.study import TRAINING, MethodEntry, Study
from apfl.study.tuning import settings_in, space_of, tuned


def check_study(study: Study) -> None:
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
    for key, value in study.network.items():
        if isinstance(value, str) and (number := written(value, whole=True) or written(value, whole=False)):
            raise UserError(f"network.{key} {value!r}: is a text, not a number; write {number}")
    check_distinct(study.apfl["readings"])
    if "selection" in study.apfl:
        _check_choice(study, study.apfl["selection"], "apfl.selection")
    titles: dict[str, str] = {}
    for method in study.methods.values():
        _check_method(study, method)
        if (other := titles.setdefault(method.title, method.id)) != method.id:
            raise UserError(
                f"methods.{method.id}: has the title {method.title!r}, as {other!r} has; give one of them another title"
            )
    if study.tuning:
        _check_tuning(study)
    for output, section in {**study.tables, **study.figures}.items():
        _check_output(study, output, section)


def _check_tuning(study: Study) -> None:
    """That what is tried is known, has something to tune, and is chosen by what no table shows."""
    section = study.tuning
    _check_choice(study, {key: value for key, value in section.items() if key != "partitions"}, "tuning")
    for dataset, setting in section["partitions"].items():
        _known(dataset, study.data, "tuning.partitions", "data set")
        parse_setting(setting)
    for method in section["spaces"]:
        _known(method, study.methods, "tuning.spaces", "method")
    for method in section.get("methods", ()):
        if study.methods[method].card.stage == "external":
            raise UserError(f"tuning.methods {method!r}: is run by a rule of its own, which is not tuned; leave it out")
    for method in tuned(study):
        if (there := settings_in(space_of(study, method))) < section["trials"]:
            raise UserError(
                f"tuning.trials {section['trials']}: the search space of {method!r} has {there} settings; give it more"
                " values, or all methods fewer trials"
            )


def _check_choice(study: Study, section: Mapping[str, Any], where: str) -> None:
    """That what is chosen is chosen by what no table shows."""
    if both := sorted(set(section["seeds"]) & set(study.seeds)):
        raise UserError(f"{where}.seeds: {both[0]} is a seed of the study too; choose by seeds that no table uses")
    if not study.validation:
        raise UserError(
            f"validation false: {where} chooses by validation images; set it to true, or remove one of them"
        )
    if study.one_job_per == "cell":
        raise UserError(
            f"one_job_per 'cell': the seeds of {where} belong to no cell of a table; use seed, or remove one"
        )
    _check_output(study, where, section)


def _known(name: str, names: Iterable[str], where: str, what: str) -> None:
    names = list(names)
    if name not in names:
        raise UserError(
            f"{where} {name!r}: unknown {what}; "
            + (f"choose from {', '.join(names)}" if names else "the study has none: add one")
        )


def _check_dataset(study: Study, name: str, entry: Mapping[str, Any]) -> None:
    if name not in CATALOGUE and "classes" not in entry:
        known = ", ".join(CATALOGUE)
        raise UserError(
            f"data.{name}: unknown data set; choose from {known}, or give its number of classes (`classes`)"
        )
    if "classes" in entry and (there := _classes_there(study, name, entry)) not in (None, entry["classes"]):
        raise UserError(f"data.{name}.classes {entry['classes']}: it has {there}; correct the number")
    if "clients" in entry and (known := _clients_there(study, name, entry)) not in (None, entry["clients"]):
        raise UserError(f"data.{name}.clients {entry['clients']}: it has {known}; correct the number")
    if (entry["source"] in FOR_ONE or name in FOR_ONE) and entry["source"] != name:
        raise UserError(
            f"data.{name}.source {entry['source']!r}: {', '.join(FOR_ONE)} are sources of one data set each, which has"
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
    if (entry["source"] in UNDER_ROOT or "partition" in entry) and not study.data_root:
        raise UserError(f"data.{name}: data_root is not set; set APFL_DATA_ROOT or --config data_root=FOLDER")


def _classes_there(study: Study, name: str, entry: Mapping[str, Any]) -> int | None:
    """How many classes a data set has, if that is known or can be seen without reading an image."""
    if name in CATALOGUE:
        return CATALOGUE[name].classes
    folder = Path(study.data_root, entry.get("folder", name))
    with suppress(OSError):  # a folder that nobody may enter: whoever reads the images will say so
        return number_of_classes(name, entry["source"], folder) if study.data_root and folder.is_dir() else None
    return None


def _clients_there(study: Study, name: str, entry: Mapping[str, Any]) -> int | None:
    """How many clients a data set comes with, if that can be seen without reading an image. A `UserError` if it is to
    have clients and comes without."""
    root = Path(study.data_root)
    if not study.data_root or not root.is_dir():
        return None
    if "partition" in entry:
        return load_partition(root / entry["partition"]).clients
    folder = root / entry.get("folder", name)
    with suppress(OSError):
        if not folder.is_dir():
            return None
        if number := number_of_clients(name, entry["source"], folder):
            return number
    raise UserError(
        f"data.{name}: comes without clients; put clients.csv into {folder}, or a column client into its Parquet files,"
        " or name a saved partition (partition)"
    )


def _check_semantics(study: Study, name: str, entry: Mapping[str, Any]) -> None:
    if entry["source"] == "shuffled":
        others = [other for other in study.semantics if other != name]
        _known(entry.get("of", ""), others, f"semantics.{name}.of", "embedding")
    if entry["source"] == "table" and not entry.keys() & {"path", "paths"}:
        raise UserError(f"semantics.{name}: has no path; say where its table lies: path: clip/{{dataset}}.npz")
    if entry["source"] == "table" and not study.semantics_root:
        raise UserError(
            f"semantics.{name}: semantics_root is not set; set APFL_SEMANTICS_ROOT or --config semantics_root=FOLDER"
        )


def _check_method(study: Study, method: MethodEntry) -> None:
    fields = method.fields
    given = {f"methods.{method.id}": method.parameters}
    for name, values in method.datasets.items():
        _known(name, study.data, f"methods.{method.id}.datasets", "data set")
        given[f"methods.{method.id}.datasets.{name}"] = values
    for where, values in given.items():
        for name, value in values.items():
            for one in value if isinstance(value, list) else [value]:
                check_values(fields, {name: one}, where)
    if method.generative:
        shared = {"apfl.parameters": study.apfl["parameters"]}
        shared |= {f"apfl.datasets.{name}": values for name, values in study.apfl["datasets"].items()}
        for where, values in shared.items():
            named = {key: value for key, value in values.items() if key != "semantics"}
            check_values({name: field for name, field in fields.items() if name not in TRAINING}, named, where)
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
    for field in ("partitions", "panels"):
        for name, partition in section.get(field, {}).items():
            if "-clients" in partition:
                raise UserError(
                    f"{output}.{field}.{name} {partition!r}: says how many clients there are; write "
                    f"{re.sub('-clients[^-]*', '', partition)}, as `clients` says it"
                )
            parse_setting(f"{partition}-clients5")
            if partition == "natural" and "clients" not in study.data[name]:
                there = _clients_there(study, name, study.data[name]) or "NUMBER"
                raise UserError(
                    f"{output}.{field}.{name} 'natural': data.{name} does not say how many clients there are; add"
                    f" `clients: {there}` to it"
                )
    for number, entry in enumerate(section.get("entries", ())):
        _check_entry(study, f"{output}.entries.{number}", entry, section)
    titles = [study.entry_title(entry) for entry in section.get("entries", ())]
    if twice := [title for title in titles if titles.count(title) > 1]:
        raise UserError(f"{output}.entries: two are called {twice[0]!r}; give one of them a title")
    if output == "convergence" and study.schedules[section["entries"][0]["schedule"]]["mode"] != "sync":
        raise UserError(
            f"{output}.entries.0: the target is a share of the first entry's accuracy; put one of mode sync there"
        )
    shown = OUTPUTS[output].of if output in OUTPUTS else ""
    if shown and shown not in study.tables:
        raise UserError(f"figures.{output}: shows the runs of tables.{shown}; add that table, or remove the figure")


def _check_entry(study: Study, where: str, entry: Mapping[str, str], section: Mapping[str, Any]) -> None:
    """That a method can run on a schedule with the data sets and the clients of a table."""
    _known(entry["method"], study.methods, f"{where}.method", "method")
    _known(entry["schedule"], study.schedules, f"{where}.schedule", "schedule")
    method, schedule = study.methods[entry["method"]], study.schedules[entry["schedule"]]
    trained = study.methods[method.base] if method.base else method
    if trained.card.stage != "federate":
        raise UserError(f"{where}.method {method.id!r}: is run by a rule of its own, which does not support schedules")
    additive = all(trained.card.is_additive(trained.given(dataset)) for dataset in study.datasets(section))
    if schedule["mode"] == "async" and not additive:
        raise UserError(
            f"{where}: {trained.title}'s server update is not a sum over clients, or its class does not say so "
            f"(additive), so it cannot run on schedule {entry['schedule']!r}, which is async; choose a schedule of "
            "mode sync, or another method"
        )
    # A method whose models are its clients' own, such as Local, has nothing to mix and needs nothing.
    lacks_global = not trained.card.shares_global and trained.card.model != "local"
    if schedule["mode"] == "async" and schedule["merge"] == "mix" and lacks_global:
        raise UserError(
            f"{where}: {trained.title} has no global model for schedule {entry['schedule']!r} to mix; choose a "
            "schedule with merge delta or of mode sync, or another method"
        )
    check_clients(entry["schedule"], schedule, section["clients"], where)
