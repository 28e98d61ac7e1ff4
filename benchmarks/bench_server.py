"""The server.

A round of FedAvg with the paper's CNN: ten clients with 1,000 images each train one epoch, one after another, in one
process of one thread, in the default precision. Everything except training is the server's share: averaging the models,
keeping the last local models, and the engine's own bookkeeping. Evaluation is measured separately, because the study
decides which rounds are evaluated.
"""

from __future__ import annotations

import statistics
import time

import torch

from apfl.engine.process import tune_process
from apfl.federation.aggregation import weighted_mean
from apfl.federation.evaluation import evaluate, outcomes, pooled_indices
from apfl.federation.method import load_method
from apfl.federation.synchronous import run
from benchmarks.federations import Clocked, federation
from benchmarks.measuring import in_turn, ratio


def _one_thread() -> None:
    tune_process()
    torch.set_num_threads(1)


def bench_round(benchmark, record, quick) -> None:
    """A round of FedAvg, split into training and everything else."""
    _one_thread()
    rounds, samples = (1, 100) if quick else (4, 1000)
    problem = federation(10, samples, rounds=rounds + 1, keep=True)
    clocked, method = Clocked(), load_method("fedavg")
    training: list[float] = []
    whole: list[float] = []

    def carry_out() -> None:
        before = time.perf_counter()
        for now in run(method, problem, carry_out=clocked):
            if now.round > 1:  # the first is to warm up
                training.append(clocked.seconds)
                whole.append(time.perf_counter() - before)
            clocked.seconds, before = 0.0, time.perf_counter()

    benchmark.pedantic(carry_out, rounds=1)
    rest = [all_ - inside for all_, inside in zip(whole, training, strict=True)]
    record("a round, training included", statistics.median(whole), "s")
    record(
        "aggregation and bookkeeping", statistics.median(rest), "s",
        ratio=ratio(rest, whole), against="the whole round", asked="< 0.03",
    )  # fmt: skip


def bench_aggregation(benchmark, record, quick) -> None:
    """The weighted mean of ten models, beside a round's training."""
    _one_thread()
    problem = federation(10, 100 if quick else 1000, keep=True)
    (_, now) = run(load_method("fedavg"), problem)
    models = [result.params for result in now.results] or list(now.latest.values())
    weights = [float(problem.size(client)) for client in problem.clients]

    def mean() -> float:
        began = time.perf_counter()
        weighted_mean(models, weights)
        return time.perf_counter() - began

    def train() -> float:
        clocked = Clocked()
        for _ in run(load_method("fedavg"), problem, carry_out=clocked):
            pass
        return clocked.seconds

    seconds, training = in_turn(benchmark, 2 if quick else 3, mean, train)
    record(
        "mean of ten CNNs of 878,538 parameters", 1000 * statistics.median(seconds), "ms",
        ratio=ratio(seconds, training), against="the training of their round",
    )  # fmt: skip


def bench_evaluation(benchmark, record, quick) -> None:
    """Evaluation in large batches against training; a round's evaluation of the global model."""
    _one_thread()
    problem = federation(10, 100 if quick else 1000, tests=100)
    indices = torch.arange(len(problem.images.labels))

    def score() -> float:
        began = time.perf_counter()
        outcomes(problem, lambda images: problem.model(problem.start, images), indices)
        return len(indices) / (time.perf_counter() - began)

    def train() -> float:
        clocked = Clocked()
        for _ in run(load_method("fedavg"), problem, carry_out=clocked):
            pass
        return len(indices) / clocked.seconds

    def round_() -> float:
        began = time.perf_counter()
        evaluate(problem, {"global": problem.start}, round=1)
        return time.perf_counter() - began

    speeds, training, seconds = in_turn(benchmark, 2 if quick else 3, score, train, round_)
    record("evaluation", statistics.median(speeds), "images/s", ratio=ratio(speeds, training), against="training")
    record(
        f"evaluation of the global model on {len(pooled_indices(problem)):,} test images, a row for each client",
        1000 * statistics.median(seconds), "ms",
        ratio=statistics.median(one * other / len(indices) for one, other in zip(seconds, training, strict=True)),
        against="a round's training",
    )  # fmt: skip
