"""Finished runs by what they are: who asks for a run that is there need not make it.

A store is a folder with one for each line of runs, which differ in no more than the rounds that they have and look at,
and in it one for each run: its files, its run.json, and what else is kept with it. Files are hard links, where the file
system has them, and a run is there whole or not at all.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from apfl.errors import UserError
from apfl.storage.files import digest, read_record

RECORD = "run.json"
ASKED = ("specification", "inputs", "code")
"""What two runs have in common if they are the same."""
ROUNDS = ("rounds", "evaluate_rounds", "save_rounds", "checkpoint_every")
"""What a longer run has otherwise than a shorter one that it goes on from."""
EARLIER = ("run", "generator")
"""What of its inputs is made anew when a federated run becomes longer."""


def identity_of(record: Mapping[str, Any]) -> str:
    """A digest of what a run is, by the object that its run.json holds: the same for runs that are the same."""
    return digest([record.get("stage"), *(record.get(name) for name in ASKED)])


def line_of(record: Mapping[str, Any]) -> str:
    """A digest of what runs have in common that differ in their rounds alone."""
    specification, inputs = ({**(record.get(name) or {})} for name in ASKED[:2])
    training = {name: value for name, value in specification.get("training", {}).items() if name not in ROUNDS}
    asked = {name: value for name, value in specification.items() if name not in ("rounds", "training")}
    read = {name: value for name, value in inputs.items() if name not in EARLIER}
    return digest([record.get("stage"), asked, training, read, record.get("code")])


def runs_of_line(root: Path, record: Mapping[str, Any]) -> list[Path]:
    """The folders of the runs in the store ``root`` that differ from ``record`` in their rounds at most."""
    return sorted(path.parent for path in (root / line_of(record)).glob(f"[!.]*/{RECORD}"))


def place_of(root: Path, record: Mapping[str, Any]) -> Path:
    """Where the store ``root`` has a run, if it has it."""
    return root / line_of(record) / identity_of(record)


def put(root: Path, folder: Path) -> None:
    """Keep a folder with the files of one finished run in the store ``root``. Where that is impossible, as on a full
    disk, it is not kept."""
    with suppress(OSError, UserError):
        place = place_of(root, read_record(folder / RECORD))
        part = place.with_name(f".{place.name}.{os.getpid()}.part")
        part.mkdir(parents=True)
        try:
            for path in folder.iterdir():
                link(path, part / path.name)
            shutil.rmtree(place, ignore_errors=True)  # it may be damaged
            part.rename(place)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def link(source: Path, target: Path) -> None:
    """The same file under another name, as a hard link or else as a copy."""
    try:
        os.link(source, target)
    except FileExistsError:  # another process was faster with the same file
        return
    except OSError:  # no links on this file system
        shutil.copy2(source, target)
