"""Federations, and the one face for authors of methods: all that docs/adding-a-method.md names is imported from here.

A method is a frozen dataclass of hyper-parameters with four functions. This one keeps the model as it is:

>>> from dataclasses import dataclass
>>> from typing import ClassVar
>>> from apfl.federation import Method, Work
>>> @dataclass(frozen=True)
... class Still(Method):
...     title: ClassVar[str] = "Still"
...     def client_work(self, state, problem, round, clients):
...         return [Work(client, state["global"], (problem.phase(steps=0),)) for client in clients]
...     def server_update(self, state, problem, round, results):
...         return state
>>> Still().title, Still.additive
('Still', False)
"""

from apfl.engine.device import channels_last
from apfl.engine.images import Images
from apfl.engine.networks import Model, Params, seeded
from apfl.engine.optimizers import Adam, Optimizer
from apfl.engine.work import Diverged, Gradient, Loss, Objective, Phase, Result, Step, Work, batches, cross_entropy
from apfl.errors import UserError, check_fields, require
from apfl.federation.aggregation import (
    CentredClipping,
    Krum,
    Mean,
    Median,
    Rule,
    RunningMean,
    TrimmedMean,
    bucketed,
    descend,
    difference,
    flatten,
    unflatten,
    weighted_mean,
)
from apfl.federation.byzantine import ATTACKS, attackers
from apfl.federation.evaluation import evaluate
from apfl.federation.method import BaseModels, Derived, Method, Models, State, load_method, streaming
from apfl.federation.partly_shared import Split, join, newcomers
from apfl.federation.problem import Problem, run_all, run_work
from apfl.federation.synchronous import run
from apfl.streams import numpy_stream, torch_stream

__all__ = [
    "ATTACKS", "Adam", "BaseModels", "CentredClipping", "Derived", "Diverged", "Gradient", "Images", "Krum", "Loss",
    "Mean", "Median", "Method", "Model", "Models", "Objective", "Optimizer", "Params", "Phase", "Problem", "Result",
    "Rule", "RunningMean", "Split", "State", "Step", "TrimmedMean", "UserError", "Work", "attackers", "batches",
    "bucketed", "channels_last", "check_fields", "cross_entropy", "descend", "difference", "evaluate", "flatten",
    "join", "load_method", "newcomers", "numpy_stream", "require", "run", "run_all", "run_work", "seeded", "streaming",
    "torch_stream", "unflatten", "weighted_mean",
]  # fmt: skip
