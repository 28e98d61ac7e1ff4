"""Hand-made runs for the tests of the paper's outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from apfl.data.setting import parse_setting
from apfl.storage.files import write_json, write_npz
from apfl.storage.tables import write_parquet
from apfl.study.cells import Cell, cells
from apfl.study.runs import RunContext
from apfl.study.study import Study

SETTING = "dirichlet-alpha0.1-clients5"
DROPOUT = "pathological-classes2-clients10-missing20"
MODELS = {"Local": "local", "AP-FL": "personalized", "FedAvg-FT": "localized"}


def row(accuracy, *, client=0, train=10, samples=5, round=1, test="pooled", role="non_dropout", model="global"):
    """One row of a run's metrics."""
    return {
        "round": round,
        "client": client,
        "client_role": role,
        "model": model,
        "test": test,
        "accuracy": accuracy,
        "samples": samples,
        "train_samples": train,
    }


def both(accuracy, **others):
    """The same accuracy on the pooled and on the own test."""
    return [row(accuracy, test=test, **others) for test in ("pooled", "own")]


def cell(title, *, output="table2", dataset="cifar10", setting=SETTING, seeds=(0, 1), axis=None, model=None, **others):
    """A cell whose runs are named after it."""
    facts = {"method": title.lower(), "semantics": "", "reading": ""} | others
    name = "-".join(filter(None, (facts["method"], facts["semantics"], facts["reading"])))
    return Cell(
        output=output,
        dataset=dataset,
        setting=setting,
        title=title,
        axis=axis or ({"clients": 5, "alpha": "0.1"} if output == "table2" else {"missing": 20}),
        model=model or MODELS.get(title, "global"),
        seeds=seeds,
        runs=tuple(f"study/runs/{dataset}/{setting}/{name}/seed{seed}" for seed in seeds),
        **facts,
    )


def write_run(results: Path, run: str, rows, *, code="aaa", status="finished", module="fedavg"):
    """The files of a finished run."""
    write_parquet(results / run / "metrics.parquet", pd.DataFrame(rows))
    specification = {"module": module}
    record = {"stage": "federate", "specification": specification, "code": code, "status": status, "seconds": 61.0}
    facts = {"commit": "f00d", "clean": True, "versions": {"torch": "2.9"}, "device": "cpu", "precision": "fp32"}
    write_json(results / run / "run.json", record | facts)


def write_partitions(results: Path, study: Study):
    """All partitions of the study's outputs, each client with one image of each class and nobody dropped out, so that a
    constant answer is at chance."""
    for cell in (cell for output in study.tables | study.figures for cell in cells(study, output)):
        clients, classes = parse_setting(cell.setting).clients, study.classes(cell.dataset)
        whole = {"counts": np.ones((clients, classes), np.int64), "dropout": np.zeros(clients, bool)}
        for seed in cell.seeds:
            path = results / RunContext(study, cell.dataset, cell.setting, seed).partition.path
            write_npz(path, **whole, unseen=np.zeros(classes, bool))


def write_cell(results: Path, cell: Cell, *accuracies: float):
    """One run a seed, in which one client has this accuracy on both tests."""
    for run, accuracy in zip(cell.runs, accuracies, strict=True):
        write_run(results, run, both(accuracy, model=cell.model), module=cell.method)
