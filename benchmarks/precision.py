"""FedAvg in bf16 against FedAvg in fp32, on the same partitions of real images: is speed bought with accuracy?

10,000 images of CIFAR-10, five clients, alpha 0.1, five rounds of four epochs, five seeds. ``python -m
benchmarks.precision --data FOLDER --out FOLDER`` writes the file that docs/performance.md shows; what is in the second
folder already is not trained again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from apfl.data.dataset import load_dataset, save_dataset
from apfl.data.decode import make_dataset
from apfl.data.parquet import parquet
from apfl.data.partition import make_partition, save_partition
from apfl.engine.process import tune_process
from apfl.stages.federate import federate
from apfl.stages.problem import Inputs
from apfl.stages.specification import Specification
from apfl.storage.files import write_text

FILE = Path(__file__).parents[1] / "docs" / "measurements" / "precision.csv"
IMAGES, SETTING, SEEDS, PRECISIONS = 10_000, "dirichlet-alpha0.1-clients5", range(5), ("fp32", "bf16")
TRAINING = {"rounds": 5, "local_epochs": 4, "learning_rate": 5e-4, "optimizer": "adam"}


def accuracy(seed: int, precision: str, root: Path, out: Path) -> float:
    """Pooled accuracy in [0, 1] of the global model after the last round."""
    data, partition = out / "data.npz", out / f"partition{seed}.npz"
    if not data.exists():
        save_dataset(data, make_dataset("cifar10", parquet("cifar10", root / "cifar10"), IMAGES, 0))
    if not partition.exists():
        save_partition(partition, make_partition(load_dataset(data), SETTING, seed))
    training = TRAINING | {"precision": precision}
    specification = Specification("cifar10", SETTING, seed, training, {"name": "cnn"}, "fedavg", "fedavg", {})
    folder = out / precision / f"seed{seed}"
    federate(specification, Inputs(data, partition), folder, "cpu")
    rows = pd.read_parquet(folder / "metrics.parquet").query("model == 'global' and test == 'pooled'")
    (pooled,) = rows["accuracy"].unique()
    return pooled


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("results/precision"))
    given = parser.parse_args()
    tune_process()
    given.out.mkdir(parents=True, exist_ok=True)
    rows = [
        {"precision": precision, "seed": seed, "pooled": accuracy(seed, precision, given.data, given.out)}
        for seed in SEEDS
        for precision in PRECISIONS
    ]
    found = pd.DataFrame(rows)
    write_text(FILE, found.to_csv(index=False, lineterminator="\n", float_format="%.6f"))
    print(found.groupby("precision")["pooled"].agg(["mean", "std"]).to_string())


if __name__ == "__main__":
    main()
