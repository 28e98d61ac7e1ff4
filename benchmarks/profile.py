"""Where the time of the generator's step and of a friend's training goes, on one thread, and what bounds it.

    python -m benchmarks.profile    # a few minutes -> docs/measurements/profile.csv -> docs/performance.md

The generator at the published width learns from five teachers, and a friend is the paper's CNN on synthetic images. The
shares of operations are torch's own profile (the time that an operation itself takes on the CPU). Speeds are taken in
processor time, so that other work on the machine disturbs them less, and in turn with what they are set beside.
"""

from __future__ import annotations

import re
import statistics
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest.mock import patch

import pandas as pd
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity
from torch.profiler import profile as torch_profile
from torch.utils.flop_counter import FlopCounterMode

from apfl.engine.device import Engine
from apfl.engine.images import SyntheticImages
from apfl.engine.networks import CNN, Model, initial_parameters
from apfl.engine.optimizers import Optimizer
from apfl.engine.process import tune_process
from apfl.engine.training import train
from apfl.engine.work import Gradient, Phase, Task, Work
from apfl.memorization import network
from apfl.memorization.generator import GeneratorConfig, build_memory, memorize
from benchmarks.bench_generator import CLASSES, EMBEDDING, weights_of
from benchmarks.bench_training import BATCH, matrix_product
from benchmarks.measuring import processor, ratio

FILE = Path(__file__).resolve().parents[1] / "docs" / "measurements" / "profile.csv"
TEACHERS, STEPS, IMAGES, PAIRS = 5, 4, 1000, 5
MOVING = "copies, zeros, sums and gathering"
OPERATIONS = {
    "convolutions, forward": r"aten::(mkldnn_|cudnn_|_)?convolution$",
    "convolutions, backward": r"convolution_backward|ConvolutionBackward",
    "linear layers": r"aten::(addmm|mm)$|AddmmBackward",
    "batch normalisation": r"batch_norm",
    "pooling": r"max_pool",
    "activations": r"relu|tanh|threshold|clamp_min",
    MOVING: r"aten::(copy_|fill_|zero_|cat|add_?|index|_index_put_impl_)$|^_Interleaved",
    "Adam": r"_fused_adam|_foreach",
}
"""Kinds of operations, by their names in the profile; the first that matches."""
REST = "all else"

TEXT = """\
### Where a step's time goes

`python -m benchmarks.profile` measures this separately, with one thread ([all figures](measurements/profile.csv)): a
step of the generator of width 64 with five teachers, and the training of a friend (the paper's CNN, 1,000 synthetic
images, batch size 50). The shares come from torch's profiler. Times are processor times, measured in turn with what
they are compared with.
"""
WHY = (
    "The suite computes the gradient of the generator's upsampling itself and writes it once. If torch differentiates "
    "the slices instead, a step takes {gain} times as long, for the same bits. The remaining time is spent in kernels "
    "of torch; other kernels would add in another order. With the same kernels, even if copies and all else were free, "
    "no step would be more than {limit:.2f} times as fast; the aim was 1.2."
)


def sliced(planes: Tensor) -> Tensor:
    """`apfl.memorization.network.interleaved` as automatic differentiation has it: four slices, put together."""
    height, width = planes.shape[2] - 1, planes.shape[3] - 1
    small = planes.permute(0, 2, 3, 1).unflatten(3, (2, 2, -1))
    rows = [
        torch.stack([small[:, row : row + height, column : column + width, column, row] for column in (0, 1)], 3)
        for row in (0, 1)
    ]
    return torch.stack(rows, 2).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


def generator(engine: Engine) -> Callable[[], list[float]]:
    """Trains for two epochs; the processor time at the end of each."""
    config = GeneratorConfig(epochs=2, samples_per_class=STEPS * GeneratorConfig.batch_size // CLASSES)
    model, teachers = Model(CNN(3, CLASSES)), [_cnn(seed) for seed in range(TEACHERS)]
    embeddings = torch.randn(CLASSES, EMBEDDING, generator=torch.Generator().manual_seed(0))

    def run(on_epoch: Callable[[], None] = lambda: None) -> list[float]:
        ends: list[float] = []

        def ended(_: object) -> None:
            ends.append(time.process_time())
            on_epoch()

        memory = build_memory(config, embeddings, 3, seed=0)
        memorize(memory, model, teachers, weights_of(TEACHERS), engine, seed=0, on_epoch=ended)
        return ends

    return run


def friend(engine: Engine) -> Callable[[], list[float]]:
    """Trains for two epochs, one piece of work each; the processor time at the end of each."""
    memory = build_memory(GeneratorConfig(), torch.randn(CLASSES, EMBEDDING), 3, seed=0)
    labels = torch.arange(IMAGES) % CLASSES
    samples = SyntheticImages(memory.sample(labels, torch.Generator().manual_seed(0), engine), labels)
    work = Work(0, _cnn(0), (Phase(Gradient(), Optimizer(), epochs=1, batch_size=BATCH),))
    model, task = Model(CNN(3, CLASSES)), Task(work, samples, torch.arange(IMAGES), seed=0, round=1)

    def run(on_epoch: Callable[[], None] = lambda: None) -> list[float]:
        ends: list[float] = []
        for _ in range(2):
            train(model, task, engine)
            ends.append(time.process_time())
            on_epoch()
        return ends

    return run


WORK = {"generator": (generator, STEPS), "friend": (friend, IMAGES // BATCH)}
"""What is profiled, with the steps of an epoch."""


def _cnn(seed: int) -> dict[str, Tensor]:
    return initial_parameters({"name": "cnn"}, 3, CLASSES, seed)


def kind(operation: str) -> str:
    """The kind of an operation of the profile."""
    return next((name for name, pattern in OPERATIONS.items() if re.search(pattern, operation)), REST)


def shares(run: Callable[..., object]) -> dict[str, float]:
    """Shares of the kinds of operations in the second epoch, by torch's profile: they sum to one."""
    times: Counter[str] = Counter(dict.fromkeys([*OPERATIONS, REST], 0))
    profiler = torch_profile(activities=[ProfilerActivity.CPU])
    acts = iter([profiler.start, profiler.stop])
    run(lambda: next(acts)())
    for entry in profiler.key_averages():
        times[kind(entry.key)] += entry.self_cpu_time_total
    return {name: value / times.total() for name, value in times.items()}


def operations(run: Callable[..., object]) -> float:
    """Floating-point operations of the second epoch."""
    counter, found = FlopCounterMode(display=False), []
    with counter:
        run(lambda: found.append(counter.get_total_flops()))
    return found[1] - found[0]


def measure(name: str, precision: str) -> list[tuple[str, float, str]]:
    """(quantity, value, unit) of a kind of work: the shares, a step, its arithmetic, and what those are set beside."""
    make, steps = WORK[name]
    bf16 = precision == "bf16"
    run = make(Engine(bf16=bf16))
    ours, old, products = [], [], []
    for _ in range(PAIRS):
        if name == "generator":
            with patch.object(network, "interleaved", sliced):
                old.append(_second_on(run()) / steps)
        ours.append(_second_on(run()) / steps)
        products.append(matrix_product(bf16, time.process_time))
    per_step = operations(run) / steps
    found = [(operation, 100 * share, "%") for operation, share in shares(run).items()]
    found.append(("a step", 1e3 * statistics.median(ours), "ms"))
    found.append(("its arithmetic", per_step / statistics.median(ours) / 1e9, "GFLOP/s"))
    found.append(("the matrix product", statistics.median(products) / 1e9, "GFLOP/s"))
    if old:
        found.append(("with slices differentiated", ratio(old, ours), "times"))
    return found


def _second_on(ends: Sequence[float]) -> float:
    """Time of the second epoch, from the ends of both: the first one warms up."""
    return ends[1] - ends[0]


def main() -> None:
    """Measure, and make the page anew."""
    from benchmarks.performance import write_page

    tune_process()
    torch.set_num_threads(1)
    precisions = ["fp32", "bf16"] if torch.cpu._is_avx512_bf16_supported() else ["fp32"]
    rows = [
        (name, precision, quantity, float(f"{value:.4g}"), unit, processor(), torch.__version__)
        for name in WORK
        for precision in precisions
        for quantity, value, unit in measure(name, precision)
    ]
    columns = ["work", "precision", "quantity", "value", "unit", "processor", "torch"]
    pd.DataFrame(rows, columns=columns).to_csv(FILE, index=False)
    write_page()


def section(file: Path = FILE) -> str:
    """The part of docs/performance.md, from the measurements: a table of quantities by work and precision."""
    frame = pd.read_csv(file)
    table = frame.pivot(index="quantity", columns=["work", "precision"], values="value")
    table = table.loc[frame["quantity"].unique(), list(frame.groupby(["work", "precision"], sort=False).groups)]
    units = frame.drop_duplicates("quantity").set_index("quantity")["unit"]
    head = [f"{work}, {precision}" for work, precision in table.columns]
    lines = [TEXT, f"| operation | {' | '.join(head)} |", f"| --- |{' ---: |' * len(head)}"]
    for quantity, values in table.iterrows():
        unit = units[quantity]
        digits = ".2f" if unit == "times" else ",.1f"
        cells = ["" if pd.isna(value) else f"{value:{digits}}{' ' * (unit != '%')}{unit}" for value in values]
        lines.append(f"| {quantity} | {' | '.join(cells)} |")
    gains = [f"{gain:.2f}" for gain in table.loc["with slices differentiated"].dropna()]
    limit = (100 / (100 - table.loc[[MOVING, REST]].sum())).max()
    why = WHY.format(gain=" and ".join(dict.fromkeys(gains)), limit=limit)
    said = f"Measured on {frame['processor'][0]}, torch {frame['torch'][0]}."
    return "\n".join([*lines, "", textwrap.fill(f"{why} {said}", 120), ""])


if __name__ == "__main__":
    main()
