"""Every source of embeddings by name, and the checks that they share."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from apfl.errors import UserError
from apfl.semantics.controls import onehot, random, shuffled
from apfl.semantics.models import bert, clip, word2vec
from apfl.semantics.packaged import packaged
from apfl.semantics.table import Semantics, load_table, match

LETTERS = "emnist_letters.npz"
"""The file of a folder of tables that serves every data set of single letters."""


def table(class_names: Sequence[str], path: Path, dataset: str) -> Semantics:
    """Rows of a table; path: its file, or a folder with DATASET.npz (or, for single letters, emnist_letters.npz)."""
    if path.is_dir():
        letters = all(len(name) == 1 and name.isalpha() for name in class_names)
        own = path / f"{dataset}.npz"
        path = path / LETTERS if letters and not own.is_file() else own
    found = match(load_table(path), class_names, str(path))
    source = {**found.source, "kind": "table", "table": f"{path.parent.name}/{path.name}"}
    return Semantics(found.embedding, found.names, found.texts, source)


SOURCES: dict[str, Callable[..., Semantics]] = {
    "packaged": packaged,
    "table": table,
    "w2v": word2vec,
    "bert": bert,
    "clip": clip,
    "onehot": onehot,
    "random": random,
    "shuffled": shuffled,
}


def embed(source: str, class_names: Sequence[str], context: dict[str, Any], options: dict[str, Any]) -> Semantics:
    """The embeddings of a source.

    ``context`` (data set, seed) is there for the sources that read it; ``options`` were asked for by name, so an option
    that the source does not read is a `UserError`, as is one that it needs and was not given.
    """
    if source not in SOURCES:
        raise UserError(f"semantics source {source!r}: unknown; use one of {', '.join(SOURCES)}")
    parameters = inspect.signature(SOURCES[source]).parameters
    if extra := sorted(set(options) - set(parameters)):
        raise UserError(f"semantics {source}: does not read --{extra[0]}; leave it out")
    for name in {"path", "of"} & set(options):
        if not options[name].exists():
            raise UserError(f"--{name} {options[name]}: no such file or folder; correct it")
    given = {name: value for name, value in context.items() if name in parameters} | options
    there = {*given, "class_names"}
    if missing := [name for name, one in parameters.items() if one.default is one.empty and name not in there]:
        raise UserError(f"semantics {source}: needs --{missing[0]}; add it")
    return SOURCES[source](class_names, **given)
