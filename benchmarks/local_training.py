"""Local training through the library against a bare loop of the same network, optimiser and precision.

Both train the paper's CNN on the same random images, in turn, and the median ratio over the pairs is printed, so that
the drift of a shared machine falls on both alike. Run it with ``make bench`` or ``python -m
benchmarks.local_training``.
"""

from __future__ import annotations

import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn

from apfl.nets import CNN, Model, initial_parameters
from apfl.training import Engine, Gradient, Images, Optimizer, Phase, Work, train
from apfl.tuning import tune_process

IMAGES, BATCH, PAIRS = 3000, 50, 7


def images() -> Images:
    stream = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (IMAGES, 32, 32, 3), generator=stream, dtype=torch.uint8)
    labels = torch.randint(0, 10, (IMAGES,), generator=stream)
    return Images(pixels, labels, torch.full((3,), 120.0), torch.full((3,), 65.0))


def library(data: Images, engine: Engine) -> float:
    """Samples per second of `apfl.training.train`, one epoch."""
    start = initial_parameters({"name": "cnn"}, 3, 10, seed=0)
    work = Work(0, start, (Phase(Gradient(), Optimizer("adam", 2e-4), epochs=1, batch_size=BATCH),))
    began = time.perf_counter()
    train(Model(CNN(3, 10)), work, data, torch.arange(IMAGES), engine, seed=0, round=1)
    return IMAGES / (time.perf_counter() - began)


def bare_loop(data: Images, engine: Engine) -> float:
    """Samples per second of the same epoch written as people write it, on images normalised beforehand."""
    network = nn.Sequential(
        nn.Conv2d(3, 32, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(32, 64, 5), nn.MaxPool2d(2), nn.ReLU(),
        nn.Flatten(), nn.Linear(1600, 512), nn.ReLU(), nn.Linear(512, 10),
    ).to(memory_format=torch.channels_last)  # fmt: skip
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-4, fused=True)
    inputs = ((data.pixels.float() - data.mean) / data.std).permute(0, 3, 1, 2)
    began = time.perf_counter()
    for rows in torch.randperm(IMAGES).split(BATCH):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=engine.bf16):
            loss = F.cross_entropy(network(inputs[rows]), data.labels[rows])
        loss.backward()
        optimizer.step()
    return IMAGES / (time.perf_counter() - began)


def main() -> None:
    tune_process()
    data = images()
    precisions = ["fp32", "bf16"] if torch.cpu._is_avx512_bf16_supported() else ["fp32"]
    threads = torch.get_num_threads()
    print(f"local training, {threads} threads, {IMAGES} images of CIFAR-10's shape, median of {PAIRS} pairs")
    for precision in precisions:
        engine = Engine.choose(precision, "cpu")
        library(data, engine), bare_loop(data, engine)
        pairs = [(library(data, engine), bare_loop(data, engine)) for _ in range(PAIRS)]
        ratio = statistics.median(ours / theirs for ours, theirs in pairs)
        ours, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
        print(f"{precision}: library {ours:6,.0f} samples/s  bare loop {theirs:6,.0f} samples/s  ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
