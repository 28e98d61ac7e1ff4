"""Tuning: for each method the same number of trials, of which one is chosen by validation images.

The first trial is the published setting. The others are the points of a scrambled Sobol sequence (Owen 1998) in the
method's search space, drawn from a named stream, so that they are the same wherever they are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, log2
from typing import Any

from apfl.registry.spaces import Space, space
from apfl.streams import numpy_stream
from apfl.study.study import MethodEntry, Study, generator_fields

TUNED = " (tuned)"
"""What the title of a method ends in where its hyper-parameters were chosen."""


def choice_path(study: Study, dataset: str, method: str) -> str:
    """Where it is written which trial of a method was chosen on a data set, relative to results/."""
    return f"{study.name}/tuning/{dataset}/{method}.json"


def is_tuned(study: Study, dataset: str, method: str) -> bool:
    """Does the study tune the method on the data set?"""
    return dataset in study.tuning.get("partitions", ()) and bool(space_of(study, method))


def tuned(study: Study) -> list[str]:
    """The ids of the methods that are tuned."""
    return [method for method in study.methods if space_of(study, method)]


def untuned(study: Study) -> list[str]:
    """The ids of the methods without a search space, of which there is nothing to tune."""
    return [method for method in study.methods if not _written(study, study.methods[method])]


def space_of(study: Study, method: str) -> Space:
    """The search space of a method: the study's, or that of its card; empty if it is not tuned."""
    entry = study.methods[method]
    if not study.tuning or method not in study.tuning.get("methods", study.methods):
        return {}
    where = (
        f"tuning.spaces.{method}" if method in study.tuning["spaces"] else f"baselines/{entry.card.module}.py: search"
    )
    fields = entry.card.fields | (generator_fields() if entry.generative else {})
    return space(_written(study, entry), fields, where)


def trials(study: Study, method: str, published: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The settings that are tried: what is ``published`` of the space, then points of the space."""
    from scipy.stats.qmc import Sobol

    dimensions = space_of(study, method)
    number = study.tuning["trials"] - 1
    stream = numpy_stream(0, f"tuning/{study.name}/{method}")
    points = Sobol(len(dimensions), scramble=True, rng=stream).random_base2(ceil(log2(number)))[:number]
    drawn = [
        {name: one.at(float(share)) for (name, one), share in zip(dimensions.items(), point, strict=True)}
        for point in points
    ]
    return [{name: published[name] for name in dimensions}, *drawn]


def _written(study: Study, method: MethodEntry) -> Mapping[str, Any]:
    given: Mapping[str, Any] = study.tuning.get("spaces", {}).get(method.id, method.card.search)
    return given
