"""Tuning: for each method the same number of trials, of which one is chosen by validation images.

The first trial is the published setting. The others are points of a scrambled Sobol sequence (Owen 1998) in the
method's search space, drawn from a named stream, so that they are the same wherever they are asked for; a setting that
was tried already is passed over. The space of local training is the study's, and the same for all methods; what else a
method may have otherwise is in its file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from apfl.registry.spaces import Choices, Space, space
from apfl.storage.files import canonical_json
from apfl.streams import numpy_stream
from apfl.study.study import TRAINING, Study

TUNED = " (tuned)"
"""What the title of a method ends in where its hyper-parameters were chosen."""
BLOCK = 16
"""Points that are drawn at a time: powers of two keep a Sobol sequence in balance."""


def choice_path(study: Study, dataset: str, method: str) -> str:
    """Where it is written which trial of a method was chosen on a data set, relative to results/."""
    return f"{study.name}/tuning/{dataset}/{method}.json"


def tuned(study: Study) -> list[str]:
    """The ids of the methods that are tuned: those that the study names, or all that the suite runs itself."""
    own = [method for method, entry in study.methods.items() if entry.card.stage != "external"]
    return [method for method in own if method in study.tuning.get("methods", own)] if study.tuning else []


def is_tuned(study: Study, dataset: str, method: str) -> bool:
    """Does the study tune the method on the data set?"""
    return dataset in study.tuning.get("partitions", ()) and method in tuned(study)


def tunes_training(study: Study, method: str) -> bool:
    """Has the search space of a method local training, so that it cannot share a run with others?"""
    return bool(TRAINING.keys() & space_of(study, method).keys())


def space_of(study: Study, method: str) -> Space:
    """The search space of a method: that of local training, and the study's or that of its card. What the study says
    goes by name, since each dimension has its own part of the Sobol points: its order there means nothing."""
    card = study.methods[method].card
    spaces = {name: dict(sorted(said.items())) for name, said in study.tuning["spaces"].items()}
    training = {f"training.{name}": values for name, values in sorted(study.tuning["training"].items())}
    where = f"tuning.spaces.{method}" if method in spaces else f"baselines/{card.module}.py: search"
    fields = study.methods[method].fields
    return {**space(training, fields, "tuning"), **space(spaces.get(method, card.search), fields, where)}


def settings_in(dimensions: Space) -> float:
    """How many settings a search space has."""
    return math.prod(len(one.values) if isinstance(one, Choices) else math.inf for one in dimensions.values())


def trials(study: Study, method: str, published: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The settings that are tried: what is ``published`` of the space, then points of the space, each setting once."""
    from scipy.stats.qmc import Sobol

    dimensions = space_of(study, method)
    first = {name: published[name] for name in dimensions}
    tried = {canonical_json(first): first}
    points = Sobol(len(dimensions), scramble=True, rng=numpy_stream(0, f"tuning/{study.name}/{method}"))
    while len(tried) < study.tuning["trials"]:
        for point in points.random(BLOCK):
            pairs = zip(dimensions.items(), point, strict=True)
            setting = {name: one.at(float(share)) for (name, one), share in pairs}
            tried.setdefault(canonical_json(setting), setting)
    return list(tried.values())[: study.tuning["trials"]]
