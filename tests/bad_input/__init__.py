"""Bad input: a world of good files, what is done to it, the command that meets it, and the line that must answer.

A case is (name, damage, command, line): ``damage`` changes a copy of the world, the command is run in it, and the line
is a regular expression for what standard error must say, which is that one line and no more.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from apfl.data.dataset import Dataset, save_dataset
from apfl.data.partition import make_partition, save_partition
from apfl.semantics.packaged import packaged
from apfl.semantics.table import save_semantics
from apfl.storage.files import write_npz
from tests.helpers.studies import tiny

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SETTING = "pathological-classes2-clients10-missing20"
TRAINING = {"rounds": 1, "local_epochs": 1, "learning_rate": 1e-3, "precision": "fp32", "save_rounds": [1]}
MEMORY = {"samples_per_class": 10, "epochs": 1, "width": 4, "noise_dimension": 5}

Damage = Callable[[Path], None]


@dataclass(frozen=True)
class Case:
    """A mistake: its name, what it does to the world, the command, and the line that answers."""

    name: str
    damage: Damage
    command: tuple[str, ...]
    line: str


def nothing(world: Path) -> None:
    """The mistake is in the command."""


def spec(method: str = "fedavg", **changes: Any) -> dict[str, Any]:
    """The specification of a run in this world; a value of ... leaves the key out."""
    given = {
        "dataset": "noise", "setting": SETTING, "seed": 0, "method": method, "module": method, "parameters": {},
        "network": {"name": "tests.helpers.problems:Tiny"}, "training": TRAINING,
    }  # fmt: skip
    return {key: value for key, value in (given | changes).items() if value is not ...}


def federate(given: Any = None, **options: str) -> tuple[str, ...]:
    """The command for a federated run, with other options than usual."""
    return _stage("federate", spec() if given is None else given, {}, options)


def memorize(given: Any = None, **options: str) -> tuple[str, ...]:
    usual = spec(base="fedavg", semantics="minilm", rounds=[1], parameters=MEMORY, method="g", module=...)
    return _stage("memorize", usual if given is None else given, {"semantics": "semantics.npz", "run": "base"}, options)


def personalize(given: Any = None, **options: str) -> tuple[str, ...]:
    return _stage("personalize", spec("fedavg_ft", rounds=[1]) if given is None else given, {"run": "base"}, options)


def _stage(command: str, given: Any, more: dict[str, str], options: dict[str, str]) -> tuple[str, ...]:
    text = given if isinstance(given, str) else json.dumps(given)
    values = {"spec": text, "data": "data.npz", "partition": "partition.npz", **more, "out": "out"} | options
    return (command, *(word for name, value in values.items() for word in (f"--{name}", value)))


def make_world(folder: Path) -> None:
    """A data set of 300 noisy images with a partition and embeddings, another one, a study, and images in folders."""
    folder.mkdir()
    stream = np.random.default_rng(0)
    labels = np.arange(300, dtype=np.int64) % 10
    for name, size in (("noise", 300), ("other", 200)):
        images = stream.integers(0, 256, (size, 1, 32, 32), dtype=np.uint8)
        dataset = Dataset(name, images, labels[:size], NAMES, {"kind": "test"})
        prefix = "" if name == "noise" else "other_"
        save_dataset(folder / f"{prefix}data.npz", dataset)
        save_partition(folder / f"{prefix}partition.npz", make_partition(dataset, SETTING, 0))
        if name == "noise":
            save_partition(folder / "iid.npz", make_partition(dataset, "iid-clients5", 0))
    save_semantics(folder / "semantics.npz", packaged(NAMES))
    (folder / "study.yaml").write_text(yaml.safe_dump(tiny(), sort_keys=False))
    for number, name in enumerate(("cat", "dog")):
        (folder / "pets" / name).mkdir(parents=True)
        for row in range(2):
            pixels = stream.integers(0, 256, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "pets" / name / f"{number}{row}.png")


def contents(folder: Path) -> dict[str, str]:
    """Every file and folder with a digest and the time of its last change."""
    return {
        str(path.relative_to(folder)): f"{path.lstat().st_mtime_ns} {_digest(path)}"
        for path in sorted(folder.rglob("*"))
        if not path.is_dir() or path.is_symlink()
    } | {str(path.relative_to(folder)): "folder" for path in folder.rglob("*") if path.is_dir()}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() and not path.is_symlink() else "link"


# What can be done to a world.


def text(name: str, content: str | bytes) -> Damage:
    """Another content of a file."""

    def damage(world: Path) -> None:
        (world / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return damage


def study(**changes: Any) -> Damage:
    """The study with changes, as `tiny` takes them."""
    return lambda world: (world / "study.yaml").write_text(yaml.safe_dump(tiny(**changes), sort_keys=False))


def appended(lines: str) -> Damage:
    """Lines at the end of the study."""
    return lambda world: (world / "study.yaml").open("a").write(lines)


def without(name: str) -> Damage:
    return lambda world: (world / name).unlink()


def shortened(name: str, part: float = 0.5) -> Damage:
    """The first part of a file."""

    def damage(world: Path) -> None:
        content = (world / name).read_bytes()
        (world / name).write_bytes(content[: int(part * len(content))])

    return damage


def folder_instead(name: str) -> Damage:
    def damage(world: Path) -> None:
        (world / name).unlink(missing_ok=True)
        (world / name).mkdir()

    return damage


def unreadable(name: str) -> Damage:
    """A file that is there, and of which not even root can read a byte."""

    def damage(world: Path) -> None:
        (world / name).unlink()
        (world / name).symlink_to("/proc/self/mem")

    return damage


def arrays(name: str, /, **changes: Any) -> Damage:
    """Other arrays in an npz: a value, a function of the array, or ... to leave it out."""

    def damage(world: Path) -> None:
        with np.load(world / name) as archive:
            there = {key: archive[key] for key in archive.files}
        for key, change in changes.items():
            there[key] = change(there[key]) if callable(change) else change
        write_npz(world / name, **{key: value for key, value in there.items() if value is not ...})

    return damage


def specified(name: str, /, **changes: Any) -> Damage:
    """Another specification in a partition."""

    def changed(value: np.ndarray) -> np.ndarray:
        given = json.loads(str(value)) | changes
        return np.array(json.dumps({key: item for key, item in given.items() if item is not ...}))

    return arrays(name, specification=changed)


def copied(source: str, target: str) -> Damage:
    def damage(world: Path) -> None:
        (world / target).parent.mkdir(exist_ok=True)
        shutil.copy(world / source, world / target)

    return damage


def both(*damages: Damage) -> Damage:
    def damage(world: Path) -> None:
        for one in damages:
            one(world)

    return damage
