"""Images from Parquet files in the layout of Hugging Face: encoded bytes, one row an image."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow
import pyarrow.parquet

from apfl.data.clients import own_clients, split_number
from apfl.data.dataset import NOBODY, OwnClients
from apfl.data.layout import parquet_files
from apfl.data.raw import Raw, decode, leave_out, mistaken, required, sha256
from apfl.errors import UserError
from apfl.storage.files import first_line, sha256_file

if TYPE_CHECKING:
    from PIL import Image


FAULTS = (OSError, ValueError, pyarrow.ArrowException, MemoryError)
"""What the reader raises for damaged files."""


def parquet(name: str, folder: Path | None) -> Raw:
    """The Parquet files of a folder, train first (`apfl.data.layout.parquet_files`).

    The column ``img`` or ``image`` is a struct of encoded ``bytes`` and ``path``; ``label`` or ``fine_label`` is a
    whole number. Class names come from the schema's metadata, or else from the folder in each image's path. Images are
    read one row group at a time, so that memory does not grow with the file.
    """
    folder = required(name, folder)
    found = parquet_files(name, folder)
    leave_out(name, found.left_out)
    parts = [_open(path) for path in found.files]
    labels = [part.labels() for part in parts]
    names = _common_names(parts) or _names_in_paths(parts, labels)
    for part, own in zip(parts, labels, strict=True):
        if len(own) and not 0 <= own.min() <= own.max() < len(names):
            raise UserError(
                f"{part.path}: labels run from {own.min()} to {own.max()}, classes from 0 to {len(names) - 1};"
                " correct the file"
            )
    hashes = {path.relative_to(folder).as_posix(): sha256_file(path) for path in found.files}
    for digest, number in Counter(hashes.values()).items():
        if number > 1:
            same = [file for file, own in hashes.items() if own == digest]
            raise UserError(f"data set {name}: {same[0]} and {same[1]} are the same file; remove one of them")
    source = {"kind": "parquet", "files": hashes, "sha256": sha256(value.encode() for value in hashes.values())}
    clients = _clients(name, parts)
    return Raw(np.concatenate(labels), names, lambda positions: _images(parts, positions), source, clients)


def class_names(name: str, folder: Path) -> tuple[str, ...]:
    """The class names that the metadata of the files say, before any image is read; none if they say none."""
    return _common_names([_open(path) for path in parquet_files(name, folder).files])


def clients_of(name: str, folder: Path) -> OwnClients | None:
    """The clients that the files name, before any image is read; None if they name none."""
    return _clients(name, [_open(path) for path in parquet_files(name, folder).files])


@dataclass(frozen=True)
class _Part:
    """One file and the names of its two columns."""

    path: Path
    file: pyarrow.parquet.ParquetFile
    image: str
    label: str

    def read(self, group: int, column: str) -> pyarrow.Table:
        """A column, or one field of it (``img.bytes``), of one row group."""
        try:
            return self.file.read_row_group(group, columns=[column])
        except FAULTS as error:
            message = f"row group {group} is damaged ({first_line(error)}); get the file again"
            raise UserError(f"{self.path}: {message}") from None

    def image_path(self, group: int, row: int) -> str:
        """What a row names as the path of its image; empty if nothing."""
        if self.file.schema_arrow.field(self.image).type.get_field_index("path") < 0:
            return ""
        return (self.read(group, f"{self.image}.path")[self.image][row].as_py() or {}).get("path") or ""

    def words(self, column: str) -> list[str]:
        """What a column of texts or whole numbers says in each row, as text, which is empty where it says nothing."""
        groups = [self.read(group, column)[column] for group in range(self.file.num_row_groups)]
        rows = ["" if row is None else row for group in groups for row in group.to_pylist()]
        whole = [int(row) if isinstance(row, float) and row.is_integer() else row for row in rows]
        if bad := [row for row in whole if isinstance(row, bool) or not isinstance(row, int | str)]:
            message = f"column {column} has {bad[0]!r:.60}, neither a text nor a whole number; correct the file"
            raise UserError(f"{self.path}: {message}")
        return [str(row).strip() for row in whole]

    def labels(self) -> np.ndarray:
        """int64 [rows]."""
        groups = [self.read(group, self.label)[self.label] for group in range(self.file.num_row_groups)]
        if (rows := sum(map(len, groups))) != self.file.metadata.num_rows:
            raise UserError(
                f"{self.path}: has {rows} labels for {self.file.metadata.num_rows} rows; get the file again"
            )
        whole = pyarrow.types.is_integer(self.file.schema_arrow.field(self.label).type)
        if not whole or any(group.null_count for group in groups):
            raise UserError(f"{self.path}: column {self.label} is not a whole number in every row; correct the file")
        return np.concatenate([np.empty(0, np.int64), *(group.to_numpy() for group in groups)]).astype(np.int64)


def _clients(name: str, parts: list[_Part]) -> OwnClients | None:
    """The clients of the column ``client``, with what images are for in the column ``split``, if all files have it."""
    named = {column: [column in part.file.schema_arrow.names for part in parts] for column in ("client", "split")}
    if not all(named["client"]):
        if any(named["client"]):
            without = parts[named["client"].index(False)].path.name
            leave_out(name, [f"the column client, which {without} does not have"])
        return None
    names = [word for part in parts for word in part.words("client")]
    if nobodys := names.count(""):
        leave_out(name, [f"{nobodys} of {len(names)} images from setting natural, whose column client is empty"])
    if not all(named["split"]):
        return own_clients(names)
    words = [(word, str(part.path)) for part in parts for word in part.words("split")]
    splits = [split_number(*word) if client else NOBODY for client, word in zip(names, words, strict=True)]
    return own_clients(names, splits)


def _open(path: Path) -> _Part:
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except FAULTS as error:
        problem = _mistaken(path) or first_line(error)
        raise UserError(f"{path}: not a complete Parquet file ({problem}); get it again") from None
    there = file.schema_arrow.names
    image, label = (_column(path, there, usual) for usual in (("img", "image"), ("label", "fine_label")))
    kind = file.schema_arrow.field(image).type
    if not (pyarrow.types.is_struct(kind) and kind.get_field_index("bytes") >= 0):
        raise UserError(f"{path}: column {image} is not a struct with bytes; store encoded images there")
    return _Part(path, file, image, label)


def _mistaken(path: Path) -> str | None:
    try:
        with path.open("rb") as stream:
            return mistaken(stream.read(100))
    except OSError:
        return None


def _column(path: Path, there: list[str], usual: tuple[str, ...]) -> str:
    column = next((name for name in usual if name in there), None)
    if column is None:
        raise UserError(f"{path}: has no column {' or '.join(usual)} (it has {', '.join(there)}); rename it")
    if there.count(column) > 1:
        raise UserError(f"{path}: has {there.count(column)} columns {column}; rename all but one")
    return column


def _common_names(parts: list[_Part]) -> tuple[str, ...]:
    """The class names in the metadata of the files, none if no file has any; a `UserError` if they differ."""
    named = [(part, names) for part in parts if (names := _names_in_metadata(part))]
    for part, names in named[1:]:
        if names != named[0][1]:
            first = named[0][0].path.name
            raise UserError(f"{part.path}: has not the class names of {first}; give files of one data set")
    return named[0][1] if named else ()


def _names_in_metadata(part: _Part) -> tuple[str, ...]:
    """Class names from the schema's key ``huggingface``; none if it says nothing of them."""
    try:
        value = json.loads((part.file.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
        names = value["info"]["features"][part.label]["names"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ()
    if isinstance(names, dict) and all(key.isdecimal() for key in names):  # in JSON, "10" may stand before "2"
        names = [names[key] for key in sorted(names, key=int)]
    names = list(names.values()) if isinstance(names, dict) else names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(
            f"{part.path}: its class names (key huggingface) are {names!r:.80}, not a list of texts; correct them"
        )
    return tuple(names)


def _names_in_paths(parts: list[_Part], labels: list[np.ndarray]) -> tuple[str, ...]:
    """Class names from the last folder of each image's path (``airplane/0001.png``)."""
    pairs: set[tuple[int, str]] = set()
    for part, own in zip(parts, labels, strict=True):
        if part.file.schema_arrow.field(part.image).type.get_field_index("path") >= 0:
            groups = [part.read(group, f"{part.image}.path")[part.image] for group in range(part.file.num_row_groups)]
            rows = [row for group in groups for row in group.to_pylist()]
            folders = [Path(str((row or {}).get("path") or "")).parent.name for row in rows]
            if len(folders) != len(own):
                raise UserError(f"{part.path}: has {len(folders)} images for {len(own)} labels; get the file again")
            pairs |= set(zip(own.tolist(), folders, strict=True))
    named = sorted(pairs)
    if not named or [label for label, _ in named] != list(range(len(named))) or "" in dict(named).values():
        message = "names no classes, neither in its metadata (key huggingface) nor as the folder of each image's path"
        raise UserError(f"{parts[0].path}: {message}; add them")
    return tuple(folder for _, folder in named)


def _images(parts: list[_Part], positions: np.ndarray) -> Iterator[Image.Image]:
    """The images at ``positions`` (ascending, counted through all parts); row groups without one are not read."""
    start = 0
    for part in parts:
        for group in range(part.file.num_row_groups):
            stop = start + part.file.metadata.row_group(group).num_rows
            rows = positions[np.searchsorted(positions, start) : np.searchsorted(positions, stop)] - start
            if len(rows):
                column = part.read(group, f"{part.image}.bytes")[part.image]
                if len(column) != stop - start:
                    message = f"row group {group} has {len(column)} images for {stop - start} rows; get the file again"
                    raise UserError(f"{part.path}: {message}")
                for row in rows.tolist():
                    value = (column[row].as_py() or {}).get("bytes")
                    where = f"{part.path}: row {row} of row group {group}"
                    if not value and (path := part.image_path(group, row)):
                        raise UserError(
                            f"{where}: holds a path ({path:.60}), no image; embed the images, with"
                            " datasets.table.embed_table_storage, or give their folder to the source folder"
                        )
                    yield decode(value, where)
            start = stop
