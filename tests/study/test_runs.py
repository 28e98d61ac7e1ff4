"""Runs as jobs: how many are asked for and made, and what one process makes."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from apfl.study.cells import asked, job_counts
from apfl.study.load import load_study
from apfl.study.runs import Run, gpus, job_unit, jobs_of
from tests.helpers.studies import tiny


def test_runs_that_are_asked_for_are_counted_over_cells_and_seeds() -> None:
    study = load_study(tiny(seeds=[0, 1]))
    # Local, FedAvg, FedAvg-FT and AP-FL, all but the first on FedAvg's run.
    assert asked(study) == {"federate": 8, "memorize": 2, "personalize": 4}


@pytest.mark.parametrize(
    ("said", "status", "visible", "there"),
    [
        ("GPU 0: H100\nGPU 1: H100", 0, None, 2),
        ("GPU 0: H100\nGPU 1: H100", 0, "1", 1),
        ("GPU 0: H100", 0, "-1", 0),
        ("GPU 0: H100", 0, "", 0),
        ("GPU 0: H100", 0, "NoDevFiles", 0),
        ("GPU 0: H100\nGPU 1: H100\nGPU 2: H100", 0, "GPU-5a, GPU-5b", 2),
        ("GPU 0: A100\n  MIG 3g.20gb Device 0: (UUID: MIG-5a)", 0, "MIG-5a", 1),
        ("GPU 0: \udcff", 0, None, 1),
        ("No devices were found", 0, None, 0),
        ("GPU 0: H100", 9, None, 0),
        (None, 0, None, 0),
    ],
)
def test_auto_is_a_cell_where_a_gpu_answers(
    said: str | None, status: int, visible: str | None, there: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}" if said is not None else str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    if said is not None:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\necho '{said}'\nexit {status}\n", errors="surrogateescape")
        (tmp_path / "nvidia-smi").chmod(0o755)
    gpus.cache_clear()
    assert gpus() == there and job_unit("auto") == ("cell" if there else "seed")
    gpus.cache_clear()
    assert [job_unit(said) for said in ("seed", "cell", "8 cells")] == ["seed", "cell", "8 cells"]


def test_batches_are_even_of_one_setting_and_keep_tuned_runs_apart() -> None:
    def run(setting: str, variant: str, seed: int, tuned: bool = False) -> Run:
        path = f"s/runs/d/{setting}/{variant}/seed{seed}"
        return Run("federate", path, "d", setting, seed, "m", {}, {"tuning": "t"} if tuned else {})

    ours = [run(setting, variant, seed) for setting in "ab" for variant in "abcde" for seed in (0, 1)]
    ours += [run("a", "f", 0, tuned=True), dataclasses.replace(run("a", "g", 0), stage="external")]
    found = jobs_of(ours, "2 cells")
    assert sorted((one for runs in found.values() for one in runs), key=ours.index) == ours, "each run once"
    assert [len(runs) for runs in found.values()] == [1, 4, 4, 2, 4, 4, 2, 1]
    assert all(len({(one.setting, len(one.inputs)) for one in runs}) == 1 for runs in found.values())
    assert list(found)[:2] == ["s/runs/d/a/g/seed0", "s/batches/federate/d/a/1"]
    assert list(found)[-1] == "s/batches/federate/d/a/tuned/1"


def test_a_cell_is_one_job() -> None:
    apart, cells = (job_counts(load_study(tiny(seeds=[0, 1], one_job_per=kind))) for kind in ("seed", "cell"))
    assert [apart[stage] - cells[stage] for stage in ("federate", "memorize", "personalize")] == [2, 1, 2]
