"""Two machines that share a study end with what one machine makes, bit for bit, and nothing is trained again."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.project import TABLE, Project
from tests.helpers.studies import tiny

pytestmark = pytest.mark.slow

STUDY = tiny(seeds=[0, 1], methods={"local": {}, "fedavg": {}, "fedavg-ft": {}})


def project(folder: Path, **changes: Any) -> Project:
    folder.mkdir()
    return Project(folder, STUDY | changes)


def outcomes(project: Project) -> dict[str, bytes]:
    names = ("metrics.parquet", "state.safetensors", "table2.csv", "table2.md")
    found = (path for path in (project.root / "results/tiny").rglob("*") if path.name in names)
    return {str(path.relative_to(project.root)): path.read_bytes() for path in found}


def test_merged_results_are_those_of_one_folder(tmp_path: Path) -> None:
    whole, merged = (project(tmp_path / name) for name in ("whole", "merged"))
    whole.succeed("snakemake", "tables")
    folders = []
    for seed in (0, 1):
        part = project(tmp_path / f"machine{seed}", seeds=[seed])
        part.succeed("snakemake", "tables")
        folders.append(str(part.root / "results"))
    merged.succeed(sys.executable, "-m", "apfl", "merge", *folders, "--out", "results")
    for folder in folders:
        shutil.rmtree(folder)
    merged.succeed("snakemake", "tables")
    assert outcomes(merged) == outcomes(whole) and len(outcomes(whole)) > 12
    logs = [path.read_text() for path in (merged.root / "results/tiny/logs/runs").rglob("*.log")]
    assert not any("round 1/1" in log for log in logs), "nothing was trained again"
    assert (merged.root / TABLE).is_file()
