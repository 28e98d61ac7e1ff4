"""FedBuff's server rate: the default of `apfl.clock.schedule.Schedule.rate` against others and against synchronous
training.

3,000 images of CIFAR-10, ten clients, Dirichlet 0.1 and the training of config/cpu.yaml; FedBuff merges three uploads
at a time. Its synchronous counterpart averages three clients a round, in turn, until each has trained as often; plain
FedAvg averages all ten. After six rounds' worth of uploads that counterpart is still near chance in one of three seeds,
so that little can be told from it; ``--long`` runs it and the default alone, five times as long. Either writes a file
that docs/asynchrony.md shows, in five to ten minutes of one core: ``python -m benchmarks.fedbuff_rate --root FOLDER``,
where FOLDER holds the folder ``cifar10`` of Parquet files.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd

from apfl.clock.schedule import Schedule
from apfl.clock.timeline import plan
from apfl.data.dataset import save_dataset
from apfl.data.decode import make_dataset
from apfl.data.partition import make_partition, save_partition
from apfl.data.sources import parquet
from apfl.engine.process import tune_process
from apfl.federation.asynchronous import run_clock
from apfl.federation.evaluation import evaluate, headline
from apfl.federation.method import load_method
from apfl.federation.problem import Problem
from apfl.stages.problem import Inputs, load_problem
from apfl.stages.specification import Specification
from apfl.storage.files import write_text

FILE = Path(__file__).parents[1] / "docs" / "measurements" / "fedbuff.csv"
LONG_FILE = FILE.with_name("fedbuff_long.csv")
IMAGES, CLIENTS, SETTING, BUFFER = 3000, 10, "dirichlet-alpha0.1-clients10", 3
TRAINING = {"rounds": 6, "local_epochs": 2, "learning_rate": 1e-3}
LONG = TRAINING | {"rounds": 30}
SEEDS = (0, 1, 2)
TIMES = {"latency": "lognormal", "download": 0.1, "upload": 0.1}


def fedbuff(rate: float | None) -> Schedule:
    return Schedule(**TIMES, staleness="polynomial", merge="delta", buffer=BUFFER, mixing=rate)


def fedasync(rate: float | None) -> Schedule:
    return Schedule(**TIMES, staleness="polynomial", mixing=rate)


SERVERS: Mapping[str, Schedule] = {
    "FedAvg, all clients a round": Schedule(mode="sync", **TIMES),
    "FedAvg, three clients a round": Schedule(merge="delta", buffer=BUFFER, concurrency=BUFFER),
    "FedBuff, default rate": fedbuff(None),
    **{f"FedBuff, rate {rate:g}": fedbuff(rate) for rate in (0.1, 0.6, 1.0)},
    "FedAsync, default rate": fedasync(None),
    **{f"FedAsync, rate {rate:g}": fedasync(rate) for rate in (0.6, 1.0)},
}
"""Equal times and as many clients in flight as are merged: the second is synchronous
(tests/federation/test_asynchronous.py)."""
LONG_SERVERS = ("FedAvg, three clients a round", "FedBuff, default rate")


def federation(root: Path, seed: int, training: Mapping[str, float]) -> Problem:
    """The ten clients of a seed."""
    dataset = make_dataset("cifar10", parquet("cifar10", root / "cifar10"), IMAGES, 0)
    with tempfile.TemporaryDirectory() as folder:
        data, partition = Path(folder, "data.npz"), Path(folder, "partition.npz")
        save_dataset(data, dataset)
        save_partition(partition, make_partition(dataset, SETTING, seed))
        specification = Specification("cifar10", SETTING, seed, training)
        return load_problem(specification, Inputs(data, partition), "cpu")


def course(problem: Problem, server: str) -> Iterator[dict[str, object]]:
    """A row for each round's worth of uploads: accuracy of the global model on all test images, in per cent."""
    method, schedule = load_method("fedavg"), SERVERS[server]
    timeline = plan(schedule, method.clients(problem), problem.training.rounds, problem.seed)
    for now in run_clock(method, problem, schedule, timeline):
        if now.round:
            rows = evaluate(problem, {"global": now.state["global"]}, now.round)
            yield {
                "seed": problem.seed,
                "server": server,
                "rate": schedule.rate(CLIENTS),
                "clients_a_merge": CLIENTS if schedule.mode == "sync" else schedule.buffer,
                "rounds": now.round,
                "merges": now.version,
                "pooled": 100 * headline(rows, "global"),
            }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=os.environ.get("APFL_DATA_ROOT"), help="holds cifar10")
    parser.add_argument("--long", action="store_true", help=f"{LONG['rounds']} rounds of {' and '.join(LONG_SERVERS)}")
    given = parser.parse_args()
    if given.root is None:
        parser.error("--root: name the folder that holds cifar10, or set APFL_DATA_ROOT")
    tune_process()
    training, servers, file = (LONG, LONG_SERVERS, LONG_FILE) if given.long else (TRAINING, tuple(SERVERS), FILE)
    rows: list[dict[str, object]] = []
    for seed in SEEDS:
        problem = federation(Path(given.root), seed, training)
        for server in servers:
            rows += course(problem, server)
            print(f"seed {seed}: {server}  {rows[-1]['pooled']:.1f}", flush=True)
    write_text(file, pd.DataFrame(rows).to_csv(index=False, float_format="%.4g", lineterminator="\n"))


if __name__ == "__main__":
    main()
