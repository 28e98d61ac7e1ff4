"""From a study to what is to be computed (`runs`) and what is to be shown (`cells`).

A cell of a table or a line of a figure asks, for each seed, for a chain of runs: a federated run, perhaps a generator
trained on it, perhaps a personalization of both. Equal requests are one run, so nothing is trained twice: FedAvg's run
serves FedAvg, FedAvg-FT and every ablation of AP-FL, and the rounds that each of them reads are merged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from types import MappingProxyType
from typing import Any

from apfl.data.setting import parse_setting
from apfl.errors import UserError
from apfl.study.outputs import BESIDE, OUTPUTS, WITH_TEACHERS
from apfl.study.runs import (
    ORDINARY,
    Artefact,
    Run,
    RunContext,
    Variant,
    chain,
    data_artefact,
    job_unit,
    jobs_of,
    merge,
    semantics_artefacts,
    settings,
)
from apfl.study.schedules import Timing, timed
from apfl.study.study import Study
from apfl.study.tuning import TUNED, choice_path, is_tuned, trials, tuned


@dataclass(frozen=True)
class Cell:
    """One number of a table, or one line of a figure: which runs (one a seed) and which model's accuracy.

    ``axis`` is its place: clients and alpha, missing, semantics, noise_dimension or samples_per_class; where virtual
    time counts it is alpha with heterogeneity or rate, ``timing`` the schedule, ``rounds`` those that are looked at
    (the last one ends the run), and ``origins`` the federated runs, one a seed: the runs themselves, or those that
    they start from.
    """

    output: str
    dataset: str
    setting: str
    method: str
    title: str
    semantics: str
    reading: str
    axis: Mapping[str, Any]
    model: str
    seeds: tuple[int, ...]
    runs: tuple[str, ...]
    timing: Timing = ORDINARY
    rounds: tuple[int, ...] = ()
    origins: tuple[str, ...] = ()


NATURAL = "natural"
"""The partition into the clients that a data set comes with, whose number its section of `data` says."""
LEVELS = {"convergence": ("heterogeneity", "heterogeneity", "heterogeneity"), "dropout": ("rate", "dropout", "rates")}
"""Of tables on schedules, how their levels are called: on the axis, in the schedule and in the study."""
Asked = Mapping[str, Any]
"""What the study says of an output: its section of ``tables`` or ``figures``."""
Request = tuple[Cell, list[list[Run]]]
"""A cell with, for each seed, the chain of runs that it needs."""


def runs(study: Study, given: Iterable[Request] | None = None) -> list[Run]:
    """Every run of the study once, those that others start from first; ``given`` are its `requests`."""
    merged: dict[str, Run] = {}
    for _, chains in requests(study) if given is None else given:
        for run in (run for links in chains for run in links):
            merged[run.path] = merge(merged[run.path], run) if run.path in merged else run
    order = ("federate", "external", "memorize", "personalize")
    return sorted(merged.values(), key=lambda run: order.index(run.stage))


def cells(study: Study, output: str) -> list[Cell]:
    """The cells of a table or the lines of a figure, in their order; none if the study leaves it out."""
    if output not in OUTPUTS:
        raise UserError(f"output {output!r}: unknown; choose one of {', '.join(OUTPUTS)}")
    return [cell for cell, _ in requests(study, (output,))]


def artefacts(study: Study, given: Iterable[Run] | None = None) -> list[Artefact]:
    """The data sets, partitions and embeddings that the study's runs read, and Table 1's partition; ``given`` are its
    `runs`."""
    wanted: dict[str, Artefact] = {}
    for run in runs(study) if given is None else given:
        context = RunContext(study, run.dataset, run.setting, run.seed)
        needed = [context.data, context.partition]
        if "proxy" in run.inputs:
            needed.append(data_artefact(study, study.proxy[run.dataset]))
        if "initial" in run.inputs:
            needed.append(context.initial)
        if "semantics" in run.inputs:
            needed += semantics_artefacts(study, run.spec["semantics"], run.dataset)
        wanted |= {entry.path: entry for entry in needed}
    for cell in cells(study, "table1"):
        context = RunContext(study, cell.dataset, cell.setting, cell.seeds[0])
        wanted |= {entry.path: entry for entry in (context.data, context.partition)}
    wanted |= {entry.path: entry for entry in choices(study)}
    order = ("data", "partition", "initial", "semantics", "tune")
    return sorted(wanted.values(), key=lambda entry: order.index(entry.kind))


def choices(study: Study) -> list[Artefact]:
    """The choices among trials that the study makes: by the runs of each trial, with its hyper-parameters."""
    tried: dict[str, list[Cell]] = {}
    for cell in cells(study, "tuning"):
        tried.setdefault(choice_path(study, cell.dataset, cell.method), []).append(cell)
    return [
        Artefact("tune", path, {
            "dataset": here[0].dataset,
            "method": here[0].method,
            "trials": [{"parameters": dict(cell.axis["parameters"]), "runs": list(cell.runs)} for cell in here],
        })
        for path, here in tried.items()
    ]  # fmt: skip


def job_counts(study: Study) -> Counter[str]:
    """How many jobs of each kind the workflow starts for everything of a study."""
    made = Counter(first.stage for first, *_ in jobs_of(runs(study), job_unit(study.one_job_per)).values())
    outputs = {"table": len(study.tables), "figure": len(study.figures), "report": 1}
    judged = {"claims": 1} if study.paper else {"compare": min(1, len(beside(study)))}
    return Counter(entry.kind for entry in artefacts(study)) + made + Counter(outputs | judged)


def beside(study: Study) -> tuple[str, ...]:
    """What is made beside the verdicts (`BESIDE`); in a study without the paper, which judges nothing, that of it for
    which there are runs."""
    if study.paper:
        return tuple(BESIDE)
    shows = {
        "ranks": len({cell.title for cell in cells(study, "table2")}) > 1,
        "spread": not {"table2", "table3"}.isdisjoint(study.tables),
        "readings": "selection" in study.apfl,
        "teachers": any(study.methods[cell.method].generative for name in WITH_TEACHERS for cell in cells(study, name)),
        "controls": "table4" in study.tables,
    }
    return tuple(name for name, there in shows.items() if there)


def asked(study: Study) -> dict[str, int]:
    """By stage, how many runs the cells of the study ask for, over all seeds; equal ones are trained once (`runs`)."""
    return Counter(run.stage for _, chains in requests(study) for links in chains for run in links)


def requests(study: Study, outputs: Iterable[str] = OUTPUTS) -> Iterator[Request]:
    """Every cell of the outputs with, for each seed, the chain of runs that it needs."""
    makers: Mapping[str, Callable[[Study, Asked], Iterator[Request]]] = {
              "table1": _table1, "table2": _table2, "table3": _table3, "table4": _table4,
              "convergence": partial(_on_schedules, table="convergence"),
              "dropout": partial(_on_schedules, table="dropout"), "figure4": _figure4, "figure5": _figure5,
              "figure_time": _shown_in_convergence, "figure_staleness": _shown_in_convergence,
              "figure_timeline": _figure_timeline, "figure_multiverse": _figure_multiverse,
              "selection": _selection, "tuning": _tuning}  # fmt: skip
    choices = {name: study.apfl[name] for name in ("selection",) if name in study.apfl}
    choices |= {"tuning": study.tuning} if study.tuning else {}
    sections = {**study.tables, **study.figures, **choices}
    for output in outputs:
        if output in sections:
            for cell, chains in makers[output](study, sections[output]):
                yield replace(cell, output=output), chains


def _table1(study: Study, section: Asked) -> Iterator[Request]:
    dataset, seed = section["dataset"], study.seeds[0]
    setting = _dropout_setting(study, dataset, section["clients"], section["missing"])
    path = RunContext(study, dataset, setting, seed).partition.path
    yield Cell("table1", dataset, setting, "", "", "", "", {"missing": section["missing"]}, "", (seed,), (path,)), []


def _table2(study: Study, section: Asked) -> Iterator[Request]:
    for dataset, setting, axis in _places(study, section):
        for method in section.get("methods", study.methods):
            for variant in _variants(study, dataset, method, section):
                yield _request(study, dataset, setting, method, axis, variant)


def _places(study: Study, section: Asked) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Data set, setting and axis of each row of Table 2."""
    for dataset in study.datasets(section):
        if dataset in section["partitions"]:
            partitions = {"-": section["partitions"][dataset]}
        else:
            partitions = {alpha: f"dirichlet-alpha{alpha}" for alpha in section["alphas"]}
        natural = NATURAL in partitions.values()
        numbers = [study.data[dataset]["clients"]] if natural else section["clients"]
        for clients, (alpha, partition) in product(numbers, partitions.items()):
            yield dataset, _setting(study, dataset, partition, clients), {"clients": clients, "alpha": alpha}


def _table3(study: Study, section: Asked) -> Iterator[Request]:
    for dataset, missing in product(study.datasets(section), section["missing"]):
        setting = _dropout_setting(study, dataset, section["clients"], missing)
        for method in section["methods"]:
            for variant in _variants(study, dataset, method):
                yield _request(study, dataset, setting, method, {"missing": missing}, variant)


def _table4(study: Study, section: Asked) -> Iterator[Request]:
    for dataset in study.datasets(section):
        setting = _dropout_setting(study, dataset, section["clients"], section["missing"])
        for semantics in section["semantics"]:
            if study.has_semantics(semantics, dataset):
                axis = {"missing": section["missing"], "semantics": semantics}
                for reading in _readings(study, section["method"]):
                    yield _request(study, dataset, setting, section["method"], axis, Variant(reading, semantics),
                                   model="friend")  # fmt: skip


def _figure4(study: Study, section: Asked) -> Iterator[Request]:
    for dataset, partition in _listed(study, section["panels"]):
        clients = study.data[dataset]["clients"] if partition == NATURAL else section["clients"]
        setting = _setting(study, dataset, partition, clients)
        for method in section.get("methods", study.methods):
            for reading in _readings(study, method, section, first=True):
                yield _request(study, dataset, setting, method, {"clients": clients},
                               Variant(reading), rounds=section["rounds"])  # fmt: skip


def _figure5(study: Study, section: Asked) -> Iterator[Request]:
    for dataset in study.datasets(section):
        setting = _setting(study, dataset, f"dirichlet-alpha{section['alpha']}", section["clients"])
        for name in ("noise_dimension", "samples_per_class"):
            for value, reading in product(section[name], _readings(study, section["method"], section, first=True)):
                axis = {name: value}
                yield _request(study, dataset, setting, section["method"], axis,
                               Variant(reading, parameters=axis), model="friend")  # fmt: skip


def _figure_multiverse(study: Study, section: Asked) -> Iterator[Request]:
    """In each place the method to compare with, then every method in every reading; others have no reading."""
    for dataset, alpha in product(study.datasets(section), section["alphas"]):
        setting = _setting(study, dataset, f"dirichlet-alpha{alpha}", section["clients"])
        axis = {"clients": section["clients"], "alpha": alpha}
        for method in dict.fromkeys((section["against"], *section["methods"])):
            for reading in _readings(study, method, section):
                yield _request(study, dataset, setting, method, axis, Variant(reading))


def _selection(study: Study, section: Asked) -> Iterator[Request]:
    """AP-FL in the readings among which one is chosen, on seeds of their own, in places like those of Table 2."""
    own = replace(study, seeds=tuple(section["seeds"]))
    for dataset, setting, axis in _places(own, section):
        for reading in _readings(own, section["method"], section):
            yield _request(own, dataset, setting, section["method"], axis, Variant(reading))


def _tuning(study: Study, section: Asked) -> Iterator[Request]:
    """Every trial of every method that is tuned, on seeds of their own."""
    own = replace(study, seeds=tuple(sorted(section["seeds"])))
    for dataset, partition in _listed(study, section["partitions"]):
        setting = _thinned(study, dataset, partition)
        context = RunContext(own, dataset, setting, own.seeds[0])
        for method in tuned(study):
            entry = study.methods[method]
            reading = study.apfl["readings"][0] if entry.generative else ""
            published = {name: v for kind in settings(context, entry, reading).values() for name, v in kind.items()}
            for number, parameters in enumerate(trials(study, method, published), start=1):
                axis = {"trial": number, "parameters": parameters}
                cell, chains = _request(own, dataset, setting, method, axis, Variant(parameters=parameters))
                yield replace(cell, title=entry.title), chains


def _shown_in_convergence(study: Study, section: Asked) -> Iterator[Request]:
    return _on_schedules(study, study.tables["convergence"], "convergence")


def _figure_timeline(study: Study, section: Asked) -> Iterator[Request]:
    """One run for each schedule, of the first data set, where clients differ or drop out most."""
    for table, (_, _, levels) in LEVELS.items():
        if table in study.tables:
            full = study.tables[table]
            most = {**full, "datasets": study.datasets(full)[:1], levels: [max(full[levels])]}
            shown: dict[str, Request] = {}
            for cell, chains in _on_schedules(study, most, table):
                axis = {**cell.axis, "shown": section["rounds"]}
                shown.setdefault(cell.timing.name, (replace(cell, axis=axis), chains))
            yield from shown.values()


def _on_schedules(study: Study, section: Asked, table: str) -> Iterator[Request]:
    """Methods on schedules, with each level in a field of the schedule."""
    axis, field, levels = LEVELS[table]
    for dataset, level, entry in product(study.datasets(section), section[levels], section["entries"]):
        setting = _setting(study, dataset, f"dirichlet-alpha{section['alpha']}", section["clients"])
        when = timed(study.schedules, entry["schedule"], **{field: level})
        when = replace(when, server_speed=float(section.get("server_speed", 10.0)))
        place, asked = {"alpha": section["alpha"], axis: float(level)}, section.get("rounds", ())
        cell, chains = _request(study, dataset, setting, entry["method"], place, Variant(timing=when), rounds=asked)
        last = chains[0][-1].spec
        rounds = tuple(last.get("rounds") or last["training"]["evaluate_rounds"])
        origins = tuple(links[0].path for links in chains)
        yield replace(cell, title=study.entry_title(entry), timing=when, rounds=rounds, origins=origins), chains


def _listed(study: Study, by_dataset: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """What a section says of each data set, in the order in which the study lists these."""
    return ((dataset, by_dataset[dataset]) for dataset in study.data if dataset in by_dataset)


def _setting(study: Study, dataset: str, partition: str, clients: int) -> str:
    return _thinned(study, dataset, f"{partition}-clients{clients}")


def _thinned(study: Study, dataset: str, setting: str) -> str:
    """The setting with as many training images as the study takes of the data set."""
    train = study.data[dataset]["train_samples"]
    return str(parse_setting(setting + (f"-train{train}" if train else "")))


def _dropout_setting(study: Study, dataset: str, clients: int, missing: int) -> str:
    """Pathological: 2 classes a client for 10 classes, otherwise a fifth of the classes, rounded up."""
    classes = study.classes(dataset)
    each = 2 if classes == 10 else -(-classes // 5)
    return _setting(study, dataset, f"pathological-classes{each}-missing{missing}", clients)


def _readings(study: Study, method: str, section: Asked = MappingProxyType({}), first: bool = False) -> Sequence[str]:
    """The readings in which an output shows a method: those it names, or else all of the study or its ``first``."""
    if not study.methods[method].generative:
        return ("",)
    readings: Sequence[str] = section.get("readings") or study.apfl["readings"][: 1 if first else None]
    return readings


def _variants(
    study: Study, dataset: str, method: str, section: Asked = MappingProxyType({})
) -> Iterator[Variant]:  # fmt: skip
    """How a table shows a method: with each of several values, in its readings; and with those that were chosen, if it
    is tuned."""
    for values, reading in product(study.methods[method].variants(dataset), _readings(study, method, section)):
        yield Variant(reading, parameters=values)
    if is_tuned(study, dataset, method):
        yield Variant(choice=choice_path(study, dataset, method))


def _request(
    study: Study, dataset: str, setting: str, method: str, axis: Mapping[str, Any], variant: Variant, *,
    rounds: Iterable[int] = (), model: str = "",
) -> Request:  # fmt: skip
    """A cell of an output, whose name is filled in by `requests`, with the runs of each seed."""
    entry = study.methods[method]
    reading = (variant.reading or study.apfl["readings"][0]) if entry.generative else ""
    variant = replace(variant, reading=reading)
    chains = [chain(RunContext(study, dataset, setting, seed), entry, variant, rounds) for seed in study.seeds]
    cell = Cell(
        output="",
        dataset=dataset,
        setting=setting,
        method=method,
        title=entry.title + TUNED if variant.choice else entry.titled(dataset, variant.parameters),
        semantics=chains[0][-1].spec.get("semantics", ""),
        reading="" if variant.choice else reading,
        axis=dict(axis),
        model=model or entry.card.model,
        seeds=study.seeds,
        runs=tuple(links[-1].path for links in chains),
    )
    return cell, chains
