"""What a run writes down about itself, so that it can be run again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apfl.errors import UserError
from apfl.registry.code import code_digest, modules_of
from apfl.stages.problem import Inputs
from apfl.storage.files import read_record, require_file, sha256_file

IDENTITY = ("dataset", "setting", "method", "semantics", "reading", "seed")


def identity(specification: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of the metrics table that are the same for all rows of a run."""
    return {name: specification.get(name, "") for name in IDENTITY}


def run_record(stage: str, specification: Mapping[str, Any], inputs: Inputs, **files: Path | None) -> dict[str, Any]:
    """The start of a run.json: what is asked for, the SHA-256 of what it is made from, and a digest of the code that
    decides the result. ``files`` are inputs beyond those of every stage."""
    read = {name: path for name, path in {**vars(inputs), **files}.items() if path is not None}
    hashes = {name: sha256_file(require_file(path, name)) for name, path in read.items()}
    for name, path in files.items():
        if path is not None:
            _check_origin(path, name, hashes, read)
    code = code_digest(*modules_of(stage, specification.get("module")))
    return {"stage": stage, "specification": dict(specification), "inputs": hashes, "code": code}


def _check_origin(path: Path, name: str, hashes: Mapping[str, str], read: Mapping[str, Path]) -> None:
    """A `UserError` unless the file is the one that the run.json beside it speaks of, and was made from the same data,
    partition and run as this one is to be."""
    beside = path.with_name("run.json")
    recorded = read_record(beside)
    made, inputs = (part if isinstance(part := recorded.get(key), dict) else {} for key in ("outputs", "inputs"))
    if made.get(path.name, hashes[name]) != hashes[name]:
        raise UserError(f"{path}: not the file that {beside} speaks of; remove both and make that run again")
    for other in ("data", "partition", "run"):
        if other != name and other in hashes and inputs.get(other, hashes[other]) != hashes[other]:
            raise UserError(
                f"{path}: was made from another {other} than {read[other]}; make it again, or give that one"
            )
