"""What the runs of a study cost on this machine, measured in seconds on random images: `Calibration`.

No cost is kept in a table of methods: the code of each method is rehearsed (`apfl.rehearsal`) with its
hyper-parameters, the network, and the sizes of the data set and its partition, on images that need not be there. A
federated run is its second round times the rounds (or the share of it that a schedule lets arrive), plus the
evaluations; a generator is its steps times one step; a personalization is rehearsed as a whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from apfl.clock import Schedule
from apfl.clock import plan as course
from apfl.config import Study
from apfl.data.dataset import Dataset, save_dataset
from apfl.data.partition import Partition, make_partition
from apfl.data.sizes import channels_of, size_of
from apfl.errors import UserError
from apfl.evaluation import is_per_client, outcomes
from apfl.federation import BaseModels, Models, Problem, load_method, run
from apfl.memorization import GeneratorConfig, Memory, build_memory, memorize, teachers_of
from apfl.nets import Model, build_network, initial_parameters
from apfl.plan import Run
from apfl.registry import card
from apfl.rehearsal import Meter, MeteredMemory, MeteredModel, OutOfTime, Spent, Stage
from apfl.stages.pictures import SHOWN_CLASSES, sample_grid
from apfl.training import Engine, Images, TrainingConfig

PER_CLASS, FEWEST = 20, 600
"""Random images of each class, and of all classes at least: indices of the true numbers of images lead to these."""
SEMANTIC_DIMENSION = 512
"""Of the class embeddings, whose own dimension is known to their files alone; a generator's cost hardly depends on
it."""
LIMIT = 1.0
"""Real seconds that one rehearsal may take; after that, amounts of work are cut (`_amounts`)."""
PATIENCE = 5.0
"""Times as long for the last way of cutting work, which leaves some clients their whole work."""
ROUND_LISTS = ("evaluate_rounds", "save_rounds", "rounds", "checkpoint_every")


@dataclass(frozen=True)
class Price:
    """What a run is made of: seconds of one round (or of the whole, for a personalization) and of making the models
    that are evaluated; and how many these are."""

    seconds: float
    models_seconds: float = 0.0
    models: int = 1


@dataclass
class Calibration:
    """The costs of a study's runs by measurement, each measured once and kept.

    Everything is computed on the CPU with one thread, as the jobs of the default profile are. Seconds are those that
    the process computes, so that other programs at work do not count.
    """

    study: Study
    meters: dict[str, Meter] = field(default_factory=dict)
    kept: dict[tuple, Any] = field(default_factory=dict)

    def seconds(self, planned: Run) -> float | None:
        """Seconds of a run on one core, without the start of its process; None where nobody can know them: of foreign
        programs, and of data sets of unknown size."""
        costs = {"federate": self._federate, "memorize": self._memorize, "personalize": self._personalize}
        if planned.stage not in costs or size_of(self.study.data[planned.dataset], planned.dataset) is None:
            return None
        return costs[planned.stage](planned)

    def _once(self, key: tuple, measure: Callable[[], Any]) -> Any:
        if key not in self.kept:
            try:
                self.kept[key] = measure()
            except Exception as error:  # which would come again, as slowly
                self.kept[key] = error
        if isinstance(self.kept[key], Exception):
            raise self.kept[key]
        return self.kept[key]

    def _federate(self, planned: Run) -> float:
        spec, rounds = planned.spec, planned.spec["training"]["rounds"]
        partition = self._partition(planned)
        key = ("federate", planned.dataset, len(partition.dropout), int(partition.dropout.sum()), spec["module"],
               _frozen(spec["parameters"]), _frozen(_lasting(spec["training"])))  # fmt: skip
        price = self._once(key, lambda: self._rehearse(planned))
        share = 1.0
        if "schedule" in spec:
            schedule = Schedule(**{k: tuple(v) if isinstance(v, list) else v for k, v in spec["schedule"].items()})
            method = load_method(spec["module"], spec["parameters"])
            clients = method.clients(self._problem(planned))
            timeline = course(schedule, clients, rounds, planned.seed)
            share = sum(len(merge.arrivals) for merge in timeline.merges) / max(1, rounds * len(clients))
        looked_at = len(spec["training"]["evaluate_rounds"])
        return rounds * share * price.seconds + looked_at * (price.models_seconds + self._looking(planned, price))

    def _looking(self, planned: Run, price: Price) -> float:
        """Seconds of evaluating models on the test and validation images of all clients."""
        tested = int((~self._partition(planned).is_train & (self._partition(planned).client >= 0)).sum())
        return price.models * tested * self._once(("look", planned.dataset), lambda: self._time_looking(planned))

    def _time_looking(self, planned: Run) -> float:
        """Seconds of one model and image."""
        problem = self._problem(planned)
        model = Model(problem.model.network)
        indices = torch.arange(len(problem.images.labels)).repeat(2)[:1000]
        for _ in range(2):  # the first time warms up
            began = time.process_time()
            outcomes(problem, lambda images: model(problem.start, images), indices)
            spent = time.process_time() - began
        return spent / len(indices)

    def _rehearse(self, planned: Run) -> Price:
        spec = planned.spec

        def attempt(parameters: Mapping[str, Any], part: float, patience: float = 1.0) -> Price:
            problem = self._problem(planned, part)
            twice = replace(problem.training, rounds=max(2, problem.training.rounds))
            problem = replace(problem, training=twice)
            method, meter = load_method(spec["module"], parameters), problem.meter
            course_, states, round_ = run(method, problem), [], Spent()
            next(course_)
            limit = 2 * LIMIT * patience
            whole = part == 1 and parameters == spec["parameters"]
            while not states or (len(states) < 2 and whole and round_.real < LIMIT):
                with meter.timing(limit) as round_:
                    states.append(next(course_))
            now = states[-1]
            with meter.timing(limit) as shown:
                models = method.client_models(now.state, problem, now.latest)
            return Price(round_.seconds, shown.seconds, _count(models))

        return self._cut(planned, attempt)

    def _cut(self, planned: Run, attempt: Callable[..., Price]) -> Price:
        """The price by an ``attempt`` with the run's hyper-parameters; where that takes too long, by two attempts with
        less work, and a line through them."""
        module, parameters = planned.spec["module"], planned.spec["parameters"]
        ways = [name for name, field_ in card(module).fields.items() if field_.type == "int" and parameters[name] >= 20]
        if (known := self.kept.get(("cut", module))) is None:
            try:
                return attempt(parameters, 1.0)
            except OutOfTime:
                pass
        for way in [known] if known else [*ways, ""]:
            try:
                small, wide = (self._less(planned, way, times, attempt) for times in (1, 2))
            except OutOfTime:
                continue
            self.kept["cut", module] = way
            steps = parameters[way] / max(1, parameters[way] // 40) if way else 1 / self._least(planned)
            return Price(
                _line(small.seconds, wide.seconds, steps),
                _line(small.models_seconds, wide.models_seconds, steps),
                small.models,
            )
        raise UserError(f"method {module!r}: cannot be rehearsed in a few seconds")

    def _less(self, planned: Run, way: str, times: int, attempt: Callable[..., Price]) -> Price:
        parameters = planned.spec["parameters"]
        if not way:
            return attempt(parameters, min(1.0, times * self._least(planned)), patience=PATIENCE)
        return attempt({**parameters, way: times * max(1, parameters[way] // 40)}, 1.0)

    def _least(self, planned: Run) -> float:
        """The least part of the clients' images that still is a batch of most of them: with less, steps would be
        cheaper, and not fewer."""
        training = TrainingConfig(**planned.spec["training"])
        return min(0.5, max(1 / 40, training.batch_size / self._usual_size(planned)))

    def _usual_size(self, planned: Run) -> int:
        """How many training images the median client has, of those that have some."""
        partition = self._partition(planned)
        sizes = [len(partition.train(client)) for client in range(partition.clients)]
        return int(np.median([size for size in sizes if size] or [1]))

    def _memorize(self, planned: Run) -> float:
        config = GeneratorConfig(**planned.spec["parameters"])
        problem = self._problem(planned)
        base = self._base(problem)
        _, weights = teachers_of(problem, base, config)
        seen = weights.sum(0) > 0
        groups = int(seen.sum()) * max(1, round(config.samples_per_class / config.group))
        steps = -(-groups // (config.batch_size // config.group))
        looking = (weights[:, seen] > 0).sum(0).float().mean().item() if seen.any() else 0.0
        step, forward, teacher = self._time_generator(planned, problem, config)
        training = config.epochs * steps * (step + (looking - 1) * teacher) + steps * forward
        # What they know: every teacher and the global model on the real test images.
        checks = self._looking(planned, Price(0.0, models=len(base.local_models) + 1))
        return len(planned.spec["rounds"]) * (training + checks) + self._drawing(planned, problem, config)

    def _drawing(self, planned: Run, problem: Stage, config: GeneratorConfig) -> float:
        """Seconds of the picture of synthetic images, whose rows are classes, and of importing what draws it."""

        def draw() -> float:
            began = time.process_time()
            with TemporaryDirectory() as folder:
                path, few = Path(folder), np.arange(problem.classes)
                nothing = np.zeros((len(few), 1, 32, 32), np.uint8)
                names = tuple(map(str, few))
                save_dataset(path / "data.npz", Dataset("random", nothing, few, names, {}))
                sample_grid(path / "samples.png", problem, _untrained(problem, config), path / "data.npz")
            return (time.process_time() - began) / min(problem.classes, SHOWN_CLASSES)

        return min(self._classes(planned), SHOWN_CLASSES) * self._once(("picture",), draw)

    def _time_generator(self, planned: Run, problem: Stage, config: GeneratorConfig) -> tuple[float, float, float]:
        """Seconds of one step with one teacher, of one forward pass, and of one more teacher of all images."""
        channels = problem.images.pixels.shape[-1]
        shape = (config.width, config.noise_dimension, config.batch_size, config.group)
        step, forward = self._once(
            ("generator", channels, *shape, config.diversity), lambda: self._steps(problem, config, 1)
        )
        key = ("teacher", planned.dataset)
        if key not in self.kept:
            three, _ = self._steps(problem, config, 3)
            self.kept[key] = max(0.0, three - step) / 2 / config.batch_size
        return step, forward, self.kept[key] * config.batch_size

    @staticmethod
    def _steps(problem: Stage, config: GeneratorConfig, teachers: int) -> tuple[float, float]:
        """Seconds of a step of the generator, and of a forward pass, by two epochs of one step."""
        groups = config.batch_size // config.group
        seen = min(problem.classes, groups)
        small = replace(config, epochs=2, samples_per_class=config.group * max(1, groups // seen))
        weights = torch.zeros(teachers, problem.classes)
        weights[:, :seen] = 1 / teachers
        memory = _untrained(problem, small)
        ends: list[float] = []
        model = Model(problem.model.network)
        memorize(memory, model, [problem.start] * teachers, weights, problem.engine, 0,
                 on_epoch=lambda entry: ends.append(time.process_time()))  # fmt: skip
        return ends[1] - ends[0], time.process_time() - ends[1]

    def _personalize(self, planned: Run) -> float:
        spec = planned.spec
        generator = self._generators.get(planned.inputs.get("generator", ""))
        made_by = generator and (generator.width, generator.noise_dimension)
        key = ("personalize", planned.dataset, planned.setting, spec["module"], _frozen(spec["parameters"]),
               _frozen(_lasting(spec["training"])), made_by)  # fmt: skip

        def attempt(parameters: Mapping[str, Any], part: float, patience: float = 1.0) -> Price:
            problem, memory = self._problem(planned, part), None
            if generator:
                made = _untrained(problem, generator)
                memory = MeteredMemory(made.config, made.generator, made.embeddings, problem.meter)
            method = load_method(spec["module"], parameters)
            with problem.meter.timing(LIMIT * patience) as spent:
                models = method.personalize(problem, self._base(problem), spec["training"]["rounds"], memory)
            return Price(spent.seconds, models=_count(models))

        price = self._once(key, lambda: self._cut(planned, attempt))
        return len(spec["rounds"]) * (price.seconds + self._looking(planned, price))

    @cached_property
    def _generators(self) -> dict[str, GeneratorConfig]:
        from apfl.study import runs

        return {
            one.path: GeneratorConfig(**one.spec["parameters"]) for one in runs(self.study) if one.stage == "memorize"
        }

    @staticmethod
    def _base(problem: Problem) -> BaseModels:
        present = [client for client in problem.participants if problem.size(client)]
        return BaseModels(problem.start, dict.fromkeys(present, problem.start))

    def _partition(self, planned: Run) -> Partition:
        """A partition of as many images with evenly distributed labels."""

        def make() -> Partition:
            size, classes = size_of(self.study.data[planned.dataset], planned.dataset), self._classes(planned)
            labels = np.arange(size, dtype=np.int64) % classes
            nothing = np.broadcast_to(np.uint8(0), (size, 1, 32, 32))
            dataset = Dataset(planned.dataset, nothing, labels, tuple(map(str, range(classes))), {})
            return make_partition(dataset, planned.setting, self.study.seeds[0], self.study.validation)

        return self._once(("partition", planned.dataset, planned.setting), make)

    def _classes(self, planned: Run) -> int:
        return self.study.classes(planned.dataset)

    def _problem(self, planned: Run, part: float = 1.0) -> Stage:
        """The problem of a run at its true scale, on few random images; ``part`` of each client's training images."""
        key = ("problem", planned.dataset, planned.setting, _frozen(_lasting(planned.spec["training"])), part)
        return self._once(key, lambda: self._make_problem(planned, part))

    def _make_problem(self, planned: Run, part: float) -> Stage:
        partition, classes = self._partition(planned), self._classes(planned)
        channels = channels_of(planned.dataset)
        images = self._once(("images", planned.dataset), lambda: _random_images(channels, classes))
        each = len(images.labels) // classes

        def shown(positions: np.ndarray) -> torch.Tensor:
            """The random images that stand for these: one of the same class."""
            return torch.from_numpy(positions % classes * each + positions // classes % each)

        train = [partition.train(client) for client in range(partition.clients)]
        training = TrainingConfig(**planned.spec["training"])
        network, engine = planned.spec["network"], Engine.choose(training.precision, "cpu")
        step = min(training.batch_size, self._usual_size(planned))  # images: a step has one price
        meter = self.meters.setdefault(f"{planned.dataset} {training.optimizer} {training.batch_size} {step}", Meter())
        return Stage(
            model=MeteredModel(build_network(network, channels, classes), meter),
            images=images,
            train=tuple(shown(rows[: max(1, round(part * len(rows)))] if len(rows) else rows) for rows in train),
            test=tuple(shown(partition.test(client)) for client in range(partition.clients)),
            validation=tuple(shown(partition.validation(client)) for client in range(partition.clients)),
            counts=torch.from_numpy(partition.counts),
            dropout=tuple(map(bool, partition.dropout)),
            unseen=torch.from_numpy(partition.unseen),
            training=training,
            seed=0,
            start=initial_parameters(network, channels, classes, 0),
            engine=engine,
            semantics=torch.randn(classes, SEMANTIC_DIMENSION),
            proxy=images,
            meter=meter,
        )


def _untrained(problem: Stage, config: GeneratorConfig) -> Memory:
    return build_memory(config, problem.semantics, problem.images.pixels.shape[-1], 0)


def _random_images(channels: int, classes: int) -> Images:
    """Sorted by class, as many of each."""
    each = max(PER_CLASS, -(-FEWEST // classes))
    stream = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (each * classes, 32, 32, channels), generator=stream, dtype=torch.uint8)
    labels = torch.arange(classes).repeat_interleave(each)
    return Images(pixels, labels, torch.full((channels,), 127.0), torch.full((channels,), 74.0))


def _count(models: Mapping[str, Models]) -> int:
    """How many models are evaluated: one for all clients, or one each."""
    return sum(len(given) if is_per_client(given) else 1 for given in models.values())


def _line(one: float, two: float, steps: float) -> float:
    """The value at ``steps`` of the line through ``one`` at 1 and ``two`` at 2; never less than they are."""
    return one + max(0.0, two - one) * (steps - 1)


def _lasting(training: Mapping[str, Any]) -> dict[str, Any]:
    """What of the training decides the cost of a round."""
    return {name: value for name, value in training.items() if name not in ROUND_LISTS}


def _frozen(values: Mapping[str, Any]) -> tuple:
    return tuple(sorted((name, str(value)) for name, value in values.items()))
