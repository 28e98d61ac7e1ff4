"""A study as frozen dataclasses: what it asks for, section by section.

`apfl.study.load.load_study` makes it, and refuses what cannot run: unknown keys and names, values out of range, inputs
that a method needs and the study does not give. A refusal is one line that names field, value and remedy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from apfl.data.catalogue import CATALOGUE, IN_PAPER
from apfl.registry.cards import Card, Field, parameters_of

AP_FL = "apfl"
"""The file of the paper's method in baselines/."""
TRAINING: Mapping[str, Field] = {
    "training.local_epochs": Field("int", None),
    "training.batch_size": Field("int", None),
    "training.learning_rate": Field("float", None),
    "training.optimizer": Field("str", None),
}
"""What a method may have otherwise than the study's training; rounds and arithmetic are the same for all methods."""


@dataclass(frozen=True)
class MethodEntry:
    """A method of a study: its id, its card, the id of the method it starts from, and values that differ from those of
    its file and of the study's training (`TRAINING`): on all data sets, and by data set. A list has several values.

    ``named``: what of its entry names files beside the study, with their paths from here; ``external`` how a foreign
    program is run, and ``files`` what of the program lies beside the study.
    """

    id: str
    card: Card
    title: str
    base: str
    semantics: str
    parameters: Mapping[str, Any]
    datasets: Mapping[str, Mapping[str, Any]]
    named: Mapping[str, Any] = field(default_factory=dict)
    external: Mapping[str, str] = field(default_factory=dict)
    files: tuple[str, ...] = ()

    def given(self, dataset: str) -> dict[str, Any]:
        """The values that differ on a data set; of several the first."""
        return {n: v[0] if isinstance(v, list) else v for n, v in self._written(dataset).items()}

    def variants(self, dataset: str) -> list[dict[str, Any]]:
        """Each combination of the values that are lists on a data set, which go by name: their order in the study means
        nothing. Without lists a single empty one."""
        lists = {name: value for name, value in sorted(self._written(dataset).items()) if isinstance(value, list)}
        return [dict(zip(lists, values, strict=True)) for values in product(*lists.values())]

    def titled(self, dataset: str, parameters: Mapping[str, Any]) -> str:
        """The title, and in brackets which of several values there are: those in ``parameters``, or the first."""
        several = ", ".join(f"{n} {parameters.get(n, v)}" for n, v in self.variants(dataset)[0].items())
        return f"{self.title} ({several})" if several else self.title

    def _written(self, dataset: str) -> dict[str, Any]:
        return {**self.parameters, **self.datasets.get(dataset, {})}

    @property
    def fields(self) -> dict[str, Field]:
        """Every hyper-parameter that the method takes: its own, its generator's, and local training."""
        return {**self.card.fields, **(generator_fields() if self.generative else {}), **TRAINING}

    @property
    def generative(self) -> bool:
        """Does it start from a generator, as AP-FL does?"""
        return "generator" in self.card.needs


@dataclass(frozen=True)
class Study:
    """A checked configuration; the mappings have the keys of the schema, with its defaults filled in.

    ``paper``: do the paper's numbers and claims stand beside its own results?
    """

    name: str
    description: str
    paper: bool
    seeds: tuple[int, ...]
    one_job_per: str
    validation: bool
    data_root: str
    semantics_root: str
    store_root: str
    keep_last_state: bool
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
    tuning: Mapping[str, Any] = field(default_factory=dict)
    rules: str = ""

    def classes(self, dataset: str) -> int:
        """Number of classes of a data set."""
        return self.data[dataset].get("classes") or CATALOGUE[dataset].classes

    def datasets(self, section: Mapping[str, Any]) -> tuple[str, ...]:
        """The data sets of a table or figure: those it names, or all that are not mere proxies."""
        proxies = {name for name in self.proxy.values() if name not in self.proxy}
        return tuple(section.get("datasets", (name for name in self.data if name not in proxies)))

    @property
    def reproduces(self) -> bool:
        """Does it run AP-FL on a data set of the paper?"""
        methods = {method.card.module for method in self.methods.values()}
        return AP_FL in methods and not {*IN_PAPER}.isdisjoint(self.datasets({}))

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
    return parameters_of("apfl.memorization.generator", "GeneratorConfig")
