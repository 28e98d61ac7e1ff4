"""What a short job must not wait for: libraries that training has no use for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from apfl.data.dataset import Dataset, save_dataset
from apfl.data.partition import make_partition, save_partition
from apfl.registry.trees import ROOT
from apfl.semantics.packaged import packaged
from apfl.semantics.table import save_semantics

NAMES = ("zero", "one", "two")
SLOW = {"pandas", "pyarrow.compute", "scipy", "matplotlib", "PIL", "sklearn", "jinja2", "yaml", "jsonschema"}
SLOW |= {"torchvision", "torch._dynamo", "torch._inductor"}
DRAWING = {"matplotlib", "PIL"}  # a generator shows what it has learnt
PROGRAM = """
import json, sys
from apfl.cli import main
try:
    main(json.loads(sys.argv[1]))
except SystemExit as end:
    assert not end.code, end.code
import torch
print(json.dumps(sorted(sys.modules)))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """90 images, three clients of whom one drops out, embeddings, and what a tiny run is asked for."""
    folder = tmp_path_factory.mktemp("start")
    labels = np.arange(90, dtype=np.int64) % 3
    images = np.random.default_rng(0).integers(0, 80, (90, 1, 32, 32), dtype=np.uint8)
    dataset = Dataset("noise", images, labels, NAMES, {"kind": "test"})
    save_dataset(folder / "data.npz", dataset)
    partition = make_partition(dataset, "pathological-classes1-clients3-missing33", 0)
    save_partition(folder / "partition.npz", partition)
    save_semantics(folder / "semantics.npz", packaged(NAMES))
    return folder


def modules(folder: Path, command: str, specification: dict, **options: Path) -> set[str]:
    """What is imported after a command in a process of its own."""
    shared = {"dataset": "noise", "setting": "pathological-classes1-clients3-missing33", "seed": 0}
    shared |= {"training": {"rounds": 1, "local_epochs": 1, "precision": "fp32"}}
    given = {"spec": json.dumps(shared | specification), "data": folder / "data.npz"}
    given |= {"partition": folder / "partition.npz", "out": folder / command, "device": "cpu", **options}
    arguments = [command, *(text for name, value in given.items() for text in (f"--{name}", str(value)))]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(arguments)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_the_stages_import_only_what_they_need(folder: Path) -> None:
    found = modules(folder, "federate", {"method": "fedavg", "module": "fedavg"})
    assert found & SLOW == set()
    small = {"epochs": 1, "width": 4, "samples_per_class": 10, "noise_dimension": 5}
    generator = {"method": "apfl", "parameters": small, "semantics": "x", "rounds": [1]}
    found = modules(folder, "memorize", generator, semantics=folder / "semantics.npz", run=folder / "federate")
    assert found & SLOW == DRAWING
    friend = {"method": "fedavg-ft", "module": "fedavg_ft", "rounds": [1]}
    assert modules(folder, "personalize", friend, run=folder / "federate") & SLOW == set()


def test_a_clone_whose_packages_are_not_installed_says_so() -> None:
    command = [sys.executable, "-S", "-m", "apfl", "methods"]  # without site-packages
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=ROOT, env=alone, capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "typer is not installed" in done.stderr and "pip install" in done.stderr
