"""A study's methods, generators, training and networks, made once without data, so that a value that would stop a run
stops the study before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apfl.data.catalogue import channels_of
from apfl.data.setting import parse_setting
from apfl.engine.networks import build_network
from apfl.engine.settings import TrainingConfig
from apfl.errors import UserError
from apfl.federation.method import load_method
from apfl.memorization.generator import GeneratorConfig
from apfl.study.cells import runs
from apfl.study.runs import Run
from apfl.study.study import MethodEntry, Study, generator_fields


def try_out(study: Study) -> None:
    """A `UserError` if a method, in a table or not, or a run of the study cannot be set up with its values."""
    for dataset in study.data:
        build_network(study.network, channels_of(dataset), study.classes(dataset))
    for method in study.methods.values():
        for dataset in study.data if method.card.stage != "external" else ():
            _try_method(study, method, dataset)
    for run in runs(study):
        spec = run.spec
        if "clients_per_round" in spec["training"]:
            _check_participation(run)
        if run.stage == "federate":
            TrainingConfig(**spec["training"]).local_optimizer.build(())
        if run.stage == "memorize":
            GeneratorConfig(**spec["parameters"])
        if run.stage in ("federate", "personalize"):
            _load(spec["method"], spec["module"], spec["parameters"])


def _check_participation(run: Run) -> None:
    """That the server can draw as many clients as the study says, and has rounds to draw them for."""
    wanted, clients = run.spec["training"]["clients_per_round"], parse_setting(run.setting).clients
    said = f"training.clients_per_round {wanted}"
    if wanted > clients:
        raise UserError(f"{said}: {run.setting} has {clients} clients; lower it, or give a fraction below 1")
    if run.spec.get("schedule", {}).get("mode") == "async":
        raise UserError(f"{said}: an async schedule has no rounds; leave it out, and give the schedule a concurrency")
    if run.stage == "external":
        raise UserError(f"{said}: {run.method} is run by a rule of its own, which draws no clients; remove one of them")


def _try_method(study: Study, method: MethodEntry, dataset: str) -> None:
    shared = study.apfl["parameters"] if method.generative else {}
    for several in method.variants(dataset):
        values = {**shared, **method.given(dataset), **several}
        _load(method.id, method.card.module, {key: item for key, item in values.items() if key in method.card.fields})
        if method.generative:
            GeneratorConfig(**{key: item for key, item in values.items() if key in generator_fields()})


def _load(id_: str, module: str, parameters: Mapping[str, Any]) -> None:
    try:
        load_method(module, parameters)
    except UserError as error:
        raise UserError(f"methods.{id_}: {error}") from None
