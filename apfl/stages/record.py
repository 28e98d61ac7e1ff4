"""What a run writes down about itself, so that it can be run again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apfl.errors import UserError
from apfl.registry.code import code_digest, modules_of
from apfl.stages.problem import Inputs
from apfl.stages.specification import Specification
from apfl.storage.files import require_file, sha256_file
from apfl.storage.run_folder import RECORD, Record

IDENTITY = ("dataset", "setting", "method", "semantics", "reading", "seed")
MADE = {"run": "state.safetensors", "generator": "generator.safetensors"}
"""What is read of the folder of an earlier run, by the name of the input."""


def identity(record: Record) -> dict[str, Any]:
    """The columns of the metrics table that are the same for all rows of a run."""
    return {name: record.specification.get(name, "") for name in IDENTITY}


def run_record(stage: str, specification: Specification, inputs: Inputs) -> Record:
    """The start of a run.json: what is asked for, the SHA-256 of what it is made from, and a digest of the code that
    decides the result."""
    given = {name: path for name, path in vars(inputs).items() if path is not None}
    read = {name: path / MADE[name] if name in MADE else path for name, path in given.items()}
    hashes = {name: sha256_file(require_file(path, name)) for name, path in read.items()}
    for name in MADE.keys() & read.keys():
        _check_origin(name, hashes, read)
    return Record(stage, specification.json(), hashes, code_digest(*modules_of(stage, specification.module)))


def _check_origin(name: str, hashes: Mapping[str, str], read: Mapping[str, Path]) -> None:
    """A `UserError` unless the file is the one that the run.json beside it speaks of, and was made from the same data,
    partition and run as this one is to be."""
    path, beside = read[name], read[name].with_name(RECORD)
    made = Record.read(beside)
    if made.outputs.get(path.name, hashes[name]) != hashes[name]:
        raise UserError(f"{path}: not the file that {beside} speaks of; remove both and make that run again")
    for other in ("data", "partition", "run"):
        if other != name and other in hashes and made.inputs.get(other, hashes[other]) != hashes[other]:
            raise UserError(
                f"{path}: was made from another {other} than {read[other]}; make it again, or give that one"
            )
