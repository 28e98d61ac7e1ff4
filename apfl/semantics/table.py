"""The semantics artefact: one embedding a class, in label order."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from apfl.errors import UserError
from apfl.storage.files import canonical_json, read_npz, write_npz

NUMBER = re.compile(r"^(?:n\d{8}[-_ ]+|0\d*[._-]+|\d+[.] *|\d{3,}[._-]+|\d+ - )(?=[^\W\d_])")
"""What stands before a class name to sort it: 001.Black_footed_Albatross, n02085620-Chihuahua, 0 - zero."""


@dataclass(frozen=True)
class Semantics:
    """embedding: float32 [C, d], raw as its source gives it; names: the classes in label order; texts: the word or
    prompt that each row stands for; source: kind, and whatever else identifies the source."""

    embedding: np.ndarray
    names: tuple[str, ...]
    texts: tuple[str, ...]
    source: dict[str, Any]


def class_text(name: str) -> str:
    """The words that a class name stands for: the first of several names, without the number that hubs put before it.

    >>> class_text("aquarium_fish"), class_text("T-shirt/top"), class_text("Ankle boot")
    ('aquarium fish', 't-shirt', 'ankle boot')
    >>> class_text("001.Black_footed_Albatross"), class_text("n02085620-Chihuahua"), class_text("tench, Tinca tinca")
    ('black footed albatross', 'chihuahua', 'tench')
    >>> class_text("HerbaceousVegetation"), class_text("0 - zero"), class_text("7-eleven")
    ('herbaceous vegetation', 'zero', '7-eleven')
    """
    numbered = unicodedata.normalize("NFC", name).strip()
    bare = NUMBER.sub("", numbered)
    first = re.split(r"[/,]", bare.strip("/, "))[0].replace("_", " ")
    return " ".join(re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", " ", first).lower().split())


def class_texts(class_names: Sequence[str]) -> tuple[str, ...]:
    """The words of each class. Two classes never have the same: where `class_text` would give them the same, they keep
    more of their names, as ``dog/husky`` and ``dog/beagle`` do, or their capitals, as A and a.

    >>> class_texts(["cat", "dog/husky", "dog/beagle"]), class_texts(["A", "a"])
    (('cat', 'dog husky', 'dog beagle'), ('A', 'a'))
    """
    texts = [class_text(name) for name in class_names]
    for fuller in (lambda name: _words(name).lower(), _words, str):
        shared = [not text or texts.count(text) > 1 for text in texts]
        texts = [fuller(name) if more else text for name, text, more in zip(class_names, texts, shared, strict=True)]
    return tuple(texts)


def _words(name: str) -> str:
    return " ".join(re.sub(r"[/_,]", " ", name).split())


def standardize(embedding: np.ndarray, centre: bool = True, scale: bool = True) -> np.ndarray:
    """Embeddings ready for a network, float32 [C, d].

    ``centre`` subtracts the mean over the classes, as rows of language models are close to each other; ``scale``
    multiplies everything by one number so that the mean Euclidean norm of a row is the root of d, that of standard
    normal noise. Directions and proportions between rows stay as they are.

    >>> standardize(np.array([[4.0, 0.0], [0.0, 4.0]])).tolist()
    [[1.0, -1.0], [-1.0, 1.0]]
    """
    rows = np.asarray(embedding, np.float64)
    if centre:
        rows = rows - rows.mean(axis=0)
    norm = np.linalg.norm(rows, axis=1).mean()
    if scale and norm > 0:
        rows = rows * (rows.shape[1] ** 0.5 / norm)
    return rows.astype(np.float32)


def save_semantics(path: str | os.PathLike[str], semantics: Semantics) -> None:
    """Write the artefact: ``embedding``, ``names``, ``texts`` and ``source`` (JSON)."""
    write_npz(
        path,
        embedding=checked(semantics.embedding, "semantics"),
        names=np.array(semantics.names),
        texts=np.array(semantics.texts),
        source=np.array(canonical_json(semantics.source)),
    )


def load_semantics(path: str | os.PathLike[str], class_names: Sequence[str]) -> np.ndarray:
    """The raw embedding of an artefact or table, float32 [C, d], one row for each of ``class_names``.

    `UserError` if it is not finite, not a table, or made for other classes.
    """
    return match(load_table(path), class_names, str(path)).embedding


def load_table(path: str | os.PathLike[str]) -> Semantics:
    """A table of embeddings: an npz with ``embedding`` [n, d] and, if it has them, ``names`` and ``texts`` [n].

    Without names the rows are in label order.
    """
    arrays = read_npz(path, "embedding table", ("embedding",))
    embedding = checked(arrays["embedding"], str(path))
    names = tuple(str(name) for name in np.atleast_1d(arrays["names"])) if "names" in arrays else ()
    texts = tuple(str(text) for text in np.atleast_1d(arrays["texts"])) if "texts" in arrays else names
    for what, found in (("names", names), ("texts", texts)):
        if found and len(found) != len(embedding):
            raise UserError(f"{path}: has {len(found)} {what} for {len(embedding)} embeddings; correct the table")
    try:
        source = json.loads(str(arrays["source"])) if "source" in arrays else {}
    except (ValueError, RecursionError):
        source = {}
    source = source if isinstance(source, dict) else {}
    return Semantics(embedding, names, texts, source)


def checked(embedding: np.ndarray, where: str) -> np.ndarray:
    """float32 [n, d]; `UserError` unless the array is a table of finite numbers."""
    if embedding.ndim != 2 or not embedding.size or embedding.dtype.kind not in "iuf":
        shape = f"{embedding.dtype} {[*embedding.shape]}"
        raise UserError(f"{where}: embedding is {shape}, not numbers [classes, dimension]; correct the table")
    with np.errstate(over="ignore"):
        embedding = embedding.astype(np.float32)
    rows = np.flatnonzero(~np.isfinite(embedding).all(axis=1))
    if len(rows):
        raise UserError(f"{where}: row {rows[0]} of the embedding has numbers that are not finite; correct the table")
    return embedding


def match(table: Semantics, class_names: Sequence[str], where: str) -> Semantics:
    """The rows of a table for these classes.

    Rows are found by name, whatever the case and the characters between words; a table may hold more classes than are
    asked for. If some names are written otherwise but the number of classes agrees and no name speaks against it, or
    if the table has no names, rows are taken in label order. Otherwise a `UserError`.
    """
    for key in (str, _words, lambda name: _words(name).lower(), _key):  # A and a may be two classes, or written as one
        wanted, there = [key(name) for name in class_names], [key(name) for name in table.names]
        place = {name: row for row, name in enumerate(there)}
        found = [place.get(name) for name in wanted]
        unique = len(place) == len(there) and len(set(wanted)) == len(wanted)
        if unique and there and None not in found:
            break
    if unique and there and None not in found:
        rows: list[int] = found  # type: ignore[assignment]
    elif len(table.embedding) == len(wanted) and _agree(found, wanted, there):
        rows = list(range(len(wanted)))
    elif there and not unique and None not in found:
        raise UserError(f"{where}: has several rows for one class, or one for several; use a table of these classes")
    elif there and any(row is not None for row in found):
        missing = [name for name, row in zip(class_names, found, strict=True) if row is None]
        raise UserError(f"{where}: has no row for {_some(missing)}; use a table of all {len(wanted)} classes")
    else:
        raise UserError(
            f"{where}: has {len(table.embedding)} rows ({_some(table.names) or 'without names'}) for"
            f" {len(wanted)} classes ({_some(class_names)}); use a table of these classes"
        )
    texts = tuple(table.texts[row] for row in rows) if table.texts else tuple(class_names)
    return Semantics(table.embedding[rows], tuple(class_names), texts, table.source)


def _agree(found: list[int | None], wanted: list[str], there: list[str]) -> bool:
    """Whether rows in label order contradict no name: those that match are in place, and a table whose names match
    nowhere is accepted only if one side has numbers for names."""
    if any(row is not None and row != place for place, row in enumerate(found)):
        return False
    numbers = all(key.isdecimal() for key in wanted) or all(key.isdecimal() for key in there)
    return not there or numbers or any(row is not None for row in found)


def _key(name: str) -> str:
    return re.sub(r"[\W_]+", " ", class_text(name)).strip()


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")
