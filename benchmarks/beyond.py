"""In search of a variant of AP-FL that beats FedAvg: the measurements of docs/beyond.md.

Run ``python -m benchmarks.beyond search --root FOLDER`` (an hour and a half of one core) and then, once, ``python -m
benchmarks.beyond confirm --root FOLDER`` (a quarter of an hour), where FOLDER holds the folder ``cifar10`` of Parquet
files. The search sees validation parts only: 10 % of each client's training part, on which nothing is trained; its
seeds are 0, 1 and 2, and variants that cost a federated run of their own were tried on seed 0 alone. The confirmation
has the whole training parts, the test parts and the seeds 3, 4 and 5, and runs nothing that the search did not choose.
Rows are added to ``docs/measurements/beyond.csv``; federated runs are kept under ``results/beyond``, and a row that is
there is not measured again.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from apfl.data.dataset import load_dataset, save_dataset
from apfl.data.decode import make_dataset
from apfl.data.partition import make_partition, save_partition
from apfl.data.sources import parquet
from apfl.engine.networks import Params
from apfl.engine.process import tune_process
from apfl.federation.evaluation import evaluate, headline, outcomes, pooled_indices
from apfl.federation.method import BaseModels, Method, Models, load_method
from apfl.federation.problem import Problem
from apfl.federation.synchronous import run
from apfl.memorization.generator import Memory
from apfl.semantics.sources import embed
from apfl.semantics.table import save_semantics
from apfl.stages.problem import Inputs, load_problem
from apfl.stages.specification import Specification
from apfl.storage.tensors import flatten, read_tensors, unflatten, write_tensors
from apfl.streams import torch_stream
from apfl.study.readings import reading
from benchmarks.beyond_variants import Trial, distilled, ensembles, features_of, generator_of, head_of

HERE = Path(__file__).resolve().parents[1]
TABLE = HERE / "docs" / "measurements" / "beyond.csv"
COLUMNS = ("part", "alpha", "seed", "variant", "base", "pooled", "own", "seconds")
ALPHAS = ("0.01", "0.05")
SEARCH, CONFIRM = (0, 1, 2), (3, 4, 5)
IMAGES, CLIENTS, HELD = 5000, 5, 0.1
TRAINING = {"rounds": 8, "local_epochs": 4, "learning_rate": 5e-4}

BASES: dict[str, Method] = {
    "FedAvg": load_method("fedavg"),
    "logit adjustment": Trial(adjust=0.1),
    "not-true distillation": Trial(not_true=1.0),
    "both": Trial(adjust=0.1, not_true=1.0),
    "adjusted, replay of own images": Trial(adjust=0.1, replay="own"),
    "adjusted, replay of noise": Trial(adjust=0.1, replay="noise"),
    "adjusted, replay of generated images (teacher: global)": Trial(adjust=0.1, replay="global"),
    "adjusted, replay of generated images (teachers: clients)": Trial(adjust=0.1, replay="clients"),
    "head of AP-FL+ fed back in every round": Trial(feedback=True),
}


def hold_out(problem: Problem) -> Problem:
    """The problem in which a share of each client's training part is its test part: no test image is touched."""
    train, held = [], []
    for client in problem.clients:
        indices = problem.train[client]
        order = torch.randperm(len(indices), generator=torch_stream(problem.seed, "validation-part", client=client))
        count = round(HELD * len(indices))
        held.append(indices[order[:count].sort().values])
        train.append(indices[order[count:].sort().values])
    counts = [torch.bincount(problem.images.labels[part], minlength=problem.classes) for part in train]
    return dataclasses.replace(problem, train=tuple(train), test=tuple(held), counts=torch.stack(counts))


@dataclasses.dataclass(frozen=True)
class Cell:
    """One alpha and seed, in the search (``part`` validation) or in the confirmation (test)."""

    part: str
    alpha: str
    seed: int
    root: Path
    out: Path
    reused: list[float] = dataclasses.field(default_factory=list)

    def generator(self) -> Memory:
        """AP-FL's generator on FedAvg's models, trained once; whoever reuses it answers for its CPU seconds."""
        if "_generator" in vars(self):
            self.reused.append(self._generator[1])
        return self._generator[0]

    @cached_property
    def _generator(self) -> tuple[Memory, float]:
        began = time.process_time()
        return generator_of(self.problem, self.base("FedAvg")[0]), time.process_time() - began

    @cached_property
    def problem(self) -> Problem:
        data, partition = self.out / "cifar10.npz", self.out / f"{self.alpha}-{self.seed}.npz"
        semantics, setting = self.out / "semantics.npz", f"dirichlet-alpha{self.alpha}-clients{CLIENTS}"
        if not data.exists():
            save_dataset(data, make_dataset("cifar10", parquet("cifar10", self.root / "cifar10"), IMAGES, 0))
        dataset = load_dataset(data)
        if not semantics.exists():
            save_semantics(semantics, embed("packaged", dataset.class_names, {"dataset": "cifar10", "seed": 0}, {}))
        if not partition.exists():
            save_partition(partition, make_partition(dataset, setting, self.seed))
        specification = Specification("cifar10", setting, self.seed, TRAINING)
        problem = load_problem(specification, Inputs(data, partition, semantics), "cpu")
        return problem if self.part == "test" else hold_out(problem)

    def base(self, name: str) -> tuple[BaseModels, float]:
        """What a base method leaves, and the CPU seconds that it took; kept in a file."""
        path = self.out / f"{self.part}-{self.alpha}-{self.seed}-{list(BASES).index(name)}.safetensors"
        if not path.exists():
            began = time.process_time()
            *_, now = run(BASES[name], self.problem)
            tree = {"global": now.state["global"], "local": {str(k): params for k, params in now.latest.items()}}
            write_tensors(path, flatten(tree), {"seconds": time.process_time() - began})
        tensors, header = read_tensors(path, "federated run", "cpu")
        tree = unflatten(tensors)
        return BaseModels(tree["global"], {int(k): params for k, params in tree["local"].items()}), header["seconds"]


Measured = tuple[str, str, Callable[[], Models | Callable[[Tensor], Tensor]]]
"""Name of a variant, its base, and what makes its model or models, or a function of images to scores."""


def apfl(problem: Problem, base: BaseModels, memory: Memory, name: str) -> Models:
    """AP-FL's personalised models in one of its readings."""
    options = reading(name).get("friend", {})
    return load_method("apfl", {"samples_per_class": 300, **options}).personalize(problem, base, 8, memory)[
        "personalized"
    ]


def plus(problem: Problem, base: BaseModels, role: str = "personalized", **parameters: float) -> Models:
    return load_method("apfl_plus", parameters).personalize(problem, base, 8)[role]


def chosen(cell: Cell) -> Iterator[Measured]:
    """What the confirmation measures: FedAvg, AP-FL as it is written, and what the search found."""
    problem, base = cell.problem, cell.base("FedAvg")[0]
    yield "FedAvg", "FedAvg", lambda: base.global_model
    yield "local models", "FedAvg", lambda: base.local_models
    yield "AP-FL, literal", "FedAvg", lambda: apfl(problem, base, cell.generator(), "literal")
    yield "AP-FL+, friend", "FedAvg", lambda: plus(problem, base, "friend")
    yield "AP-FL+", "FedAvg", lambda: plus(problem, base)


def tried(cell: Cell) -> Iterator[Measured]:
    """What the search measures."""
    problem, base = cell.problem, cell.base("FedAvg")[0]
    yield from chosen(cell)
    yield "AP-FL, uniform-soft-labels", "FedAvg", lambda: apfl(problem, base, cell.generator(), "uniform-soft-labels")
    for beta in (0.3, 1.0):
        yield f"AP-FL+, beta {beta}", "FedAvg", lambda beta=beta: plus(problem, base, beta=beta)
    for shrinkage in (0.001, 0.1):
        name = f"AP-FL+, friend, shrinkage {shrinkage}"
        yield name, "FedAvg", lambda shrinkage=shrinkage: plus(problem, base, "friend", shrinkage=shrinkage)
    untrained = dataclasses.replace(base, global_model=problem.start)
    yield "AP-FL+, friend on the untrained network", "none", lambda: plus(problem, untrained, "friend")
    for name in ("nearest mean", "diagonal", "ridge", "samples"):
        yield f"head: {name}", "FedAvg", lambda name=name: real_head(problem, base.global_model, name)
    yield "head of AP-FL+ on generated images", "FedAvg", lambda: head_of_generated(problem, base, cell.generator())
    for name, scores in ensembles(problem, base).items():
        yield f"ensemble: {name}", "FedAvg", lambda scores=scores: scores
    if cell.seed == SEARCH[0]:  # for what costs a federated run of its own, and what builds on one
        for name in [name for name in BASES if name != "FedAvg"]:
            yield name, name, lambda name=name: cell.base(name)[0].global_model
        adjusted = cell.base("logit adjustment")[0]
        for name, scores in ensembles(problem, adjusted).items():
            yield f"ensemble: {name}", "logit adjustment", lambda scores=scores: scores
        for source in ("generator", "noise", "real"):
            yield (
                f"Eq. 7 ensemble distilled on: {source}",
                "logit adjustment",
                lambda source=source: distilled(problem, adjusted, source),
            )
        yield "AP-FL+, friend", "both", lambda: plus(problem, cell.base("both")[0], "friend")


def real_head(problem: Problem, model: Params, name: str) -> Params:
    """A head for the features of all training images."""
    batch = problem.images.batch(torch.cat(problem.train))
    return head_of(name, problem, model, features_of(problem, model, batch.images), batch.labels)


def head_of_generated(problem: Problem, base: BaseModels, memory: Memory) -> Params:
    """AP-FL+'s head for images that AP-FL's generator makes, so that clients send nothing but models."""
    labels = torch.arange(problem.classes).repeat_interleave(300)
    images = memory.sample(labels, torch_stream(problem.seed, "beyond-head"), problem.engine)
    made = dataclasses.replace(problem, images=Made(images, labels), train=(torch.arange(len(labels)),))
    method = load_method("apfl_plus")
    statistics = method.memory(made, base.global_model, [0])
    return method.read(base.global_model, statistics, statistics.counts > 0)


@dataclasses.dataclass(frozen=True)
class Made:
    """Generated images in the place of real ones."""

    images: Tensor
    labels: Tensor

    def batch(self, indices: Tensor) -> Any:
        return dataclasses.replace(self, images=self.images[indices], labels=self.labels[indices])


def measured(cell: Cell, name: str, base: str, make: Callable[[], Any]) -> dict[str, Any]:
    """The row of a variant: accuracies in [0, 1], own only for models, and CPU seconds with those of its base."""
    spent = cell.base(base)[1] if base in BASES else 0.0
    began = time.process_time()
    made = make()
    seconds = spent if name == base else spent + time.process_time() - began + sum(cell.reused)
    cell.reused.clear()
    if callable(made):
        pooled, own = outcomes(cell.problem, made, pooled_indices(cell.problem)).correct.double().mean().item(), ""
    else:
        rows = evaluate(cell.problem, {"model": made}, TRAINING["rounds"])
        pooled, own = (headline(rows, "model", test) for test in ("pooled", "own"))
        own = round(own, 6)
    named = {"part": cell.part, "alpha": cell.alpha, "seed": cell.seed, "variant": name, "base": base}
    return named | {"pooled": round(pooled, 6), "own": own, "seconds": round(seconds, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("search", "confirm"))
    parser.add_argument("--root", type=Path, default=os.environ.get("APFL_DATA_ROOT"), help="holds cifar10")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "beyond", help="for federated runs")
    parser.add_argument("--table", type=Path, default=TABLE, help="the table to add to")
    parser.add_argument("--seeds", type=int, nargs="+", help="only these of the step's seeds")
    given = parser.parse_args()
    if given.root is None:
        parser.error("--root: name the folder that holds cifar10, or set APFL_DATA_ROOT")
    tune_process()
    given.out.mkdir(parents=True, exist_ok=True)
    part, seeds, variants = ("validation", SEARCH, tried) if given.step == "search" else ("test", CONFIRM, chosen)
    rows = list(csv.DictReader(given.table.open())) if given.table.exists() else []
    there = {tuple(str(row[name]) for name in COLUMNS[:5]) for row in rows}
    with given.table.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if not rows:
            writer.writeheader()
        for seed in [seed for seed in seeds if seed in (given.seeds or seeds)]:
            for alpha in ALPHAS:
                cell = Cell(part, alpha, seed, Path(given.root), given.out)
                for name, base, make in variants(cell):
                    if (part, alpha, str(seed), name, base) in there:
                        continue
                    row = measured(cell, name, base, make)
                    writer.writerow(row)
                    file.flush()
                    own = f"  own {100 * row['own']:5.1f}" if row["own"] != "" else ""
                    print(f"{part} {alpha} seed {seed}: {name} ({base})  {100 * row['pooled']:5.1f}{own}", flush=True)


if __name__ == "__main__":
    main()
