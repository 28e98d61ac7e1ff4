"""Names of clients in files: the clients.csv beside a folder of images, read and written."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from apfl.data.dataset import NOBODY, TEST, TRAIN, VALIDATION, OwnClients
from apfl.data.layout import SPLITS
from apfl.errors import UserError
from apfl.storage.files import write_text
from apfl.storage.spreadsheets import read_rows

if TYPE_CHECKING:
    from apfl.data.partition import Partition

FILE = "clients.csv"
COLUMNS = ("image", "client", "split")


def own_clients(names: Sequence[str], splits: Sequence[int] = ()) -> OwnClients:
    """Clients of the name that each image has; an empty name is nobody's.

    They are sorted by name, or as whole numbers if all of their names are.
    """
    there = sorted(set(names) - {""})
    there = sorted(there, key=int) if all(name.isdecimal() for name in there) else there
    place = {name: number for number, name in enumerate(there)} | {"": NOBODY}
    client = np.array([place[name] for name in names], np.int64)
    return OwnClients(tuple(there), client, np.array(splits, np.int64))


def split_number(word: str, where: str) -> int:
    """What an image is for, of the word that people use; a `UserError` that says ``where`` if there is none such."""
    for number, words in enumerate(SPLITS.values()):
        if word.lower() in words:
            return number
    raise UserError(f"{where}: split {word!r} is unknown; write one of {', '.join(SPLITS)}, or leave the column out")


def read_clients(path: Path, folder: Path, images: Sequence[Path]) -> OwnClients:
    """The clients that a clients.csv names for ``images``, files below ``folder``.

    A row names an image by its path, from any folder above it or in full, or by its name alone if no other has it. A
    `UserError` for a row whose image is not there, or is in doubt, or was named before. Images that no row names are
    nobody's.
    """
    rows, places = _rows(path), _Places(folder, images)
    names, splits, lines = [""] * len(images), [NOBODY] * len(images), [0] * len(images)
    for line, row in rows:
        where = f"{path}: line {line}"
        position = places.find(row["image"], where)
        if lines[position]:
            raise UserError(f"{where}: {row['image']!r:.80} stands in line {lines[position]} too; remove one of them")
        lines[position] = line
        if not row["client"]:
            raise UserError(f"{where}: {row['image']!r:.80} has no client; name one, or remove the line")
        names[position] = row["client"]
        splits[position] = split_number(row["split"], where) if "split" in row else NOBODY
    return own_clients(names, splits if "split" in rows[0][1] else ())


def clients_in(path: Path) -> set[str]:
    """The names of the clients in a clients.csv."""
    return {row["client"] for _, row in _rows(path)}


def write_clients(path: Path, partition: Partition, images: Sequence[str]) -> None:
    """Write a partition as a clients.csv; ``images`` are the names of its N images. Unused ones have no row."""
    names = partition.specification.get("names") or [str(client) for client in range(partition.clients)]
    split = np.where(partition.is_train, TRAIN, np.where(partition.is_validation, VALIDATION, TEST))
    words, used = tuple(SPLITS), np.flatnonzero(partition.client != NOBODY).tolist()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows((images[one], names[partition.client[one]], words[split[one]]) for one in used)
    write_text(path, text.getvalue())


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    return read_rows(path, COLUMNS[:2], "row of an image and its client", COLUMNS[2:])


class _Places:
    """Where an image is among the files of a data set, by what people write for it."""

    def __init__(self, folder: Path, images: Sequence[Path]) -> None:
        self.parts = [_parts(image.relative_to(folder).as_posix()) for image in images]
        self.ends: dict[tuple[str, ...], list[int]] = {}
        for position, parts in enumerate(self.parts):
            for end in _tails((folder.name, *parts)):
                self.ends.setdefault(end, []).append(position)

    def find(self, cell: str, where: str) -> int:
        """The position of the image; a `UserError` that says ``where`` unless there is one."""
        parts = _parts(cell)
        found = self.ends.get(parts) or self._of_full_path(parts)
        if not found:
            raise UserError(f"{where}: {cell!r:.80} is not an image of the data set; correct the line, or remove it")
        if len(found) > 1:
            one, two = ("/".join(self.parts[place]) for place in found[:2])
            raise UserError(f"{where}: {cell!r:.80} may be {one} or {two}; write more of its path")
        return found[0]

    def _of_full_path(self, parts: tuple[str, ...]) -> list[int]:
        """The image whose whole path below the data set's folder is the end of a longer one."""
        tails = (place for tail in _tails(parts) for place in self.ends.get(tail, ()) if self.parts[place] == tail)
        return [place for place in [next(tails, None)] if place is not None]


def _parts(path: str) -> tuple[str, ...]:
    """The folders and the name of a path as people and systems write it, the same letters the same characters."""
    plain = unicodedata.normalize("NFC", path).replace("\\", "/")
    return tuple(part for part in plain.split("/") if part not in ("", "."))


def _tails(parts: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    return (parts[start:] for start in range(len(parts)))
