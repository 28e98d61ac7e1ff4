"""The estimate of `apfl plan`: rehearsals on random images, whose costs are those of the real thing."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from problems import equal, tiny_problem
from studies import tiny

from apfl import crowd
from apfl.calibration import Calibration, Price, _count
from apfl.cli import main
from apfl.config import CLASSES
from apfl.crowd import Crowd
from apfl.data.sizes import SIZES, size_of
from apfl.data.sources import digits, photos
from apfl.errors import UserError
from apfl.estimate import Estimate, described, estimate, gain
from apfl.federation import Problem, load_method, run, run_work
from apfl.packing import Task, tasks_of
from apfl.rehearsal import LOOPS, SAMPLE, Meter, MeteredModel, OutOfTime, Stage
from apfl.study import asked, load_study, runs
from apfl.training import Gradient, Work


class Clock:
    """Seconds that pass when somebody says so, in place of those of the processor."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr("apfl.rehearsal.time.process_time", lambda: self.now)

    def passes(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def stage(model: Any = None, **settings: Any) -> Stage:
    problem = tiny_problem(**settings)
    meter = Meter()
    values = {field.name: getattr(problem, field.name) for field in dataclasses.fields(Problem)}
    return Stage(**values | {"model": MeteredModel((model or problem.model).network, meter)}, meter=meter)


def slow(clock: Clock, seconds: float, calls: list[int]) -> Callable:
    """The gradient of the loss, whose every call takes as long as that."""

    def loss(model: Any, params: Any, step: Any) -> torch.Tensor:
        clock.passes(seconds)
        calls.append(1)
        return torch.nn.functional.cross_entropy(model(params, step.batch.images), step.batch.labels)

    return Gradient(loss)


def work(problem: Stage, phase: Any, clients: Sequence[int] = (0,)) -> None:
    for client in clients:
        run_work(problem, Work(client, problem.start, (phase,)), 1)


@pytest.mark.parametrize("how", [{"epochs": 40}, {"epochs": 40, "batches": 3}])
def test_a_loop_is_charged_in_full_though_a_sample_of_it_is_carried_out(clock: Clock, how: dict[str, int]) -> None:
    problem, calls = stage(sizes=(50,), batch_size=5), []
    phase = problem.phase(slow(clock, 0.5, calls), **how)
    for _ in range(LOOPS + 3):
        with problem.meter.timing() as spent:
            work(problem, phase)
        assert spent.seconds == pytest.approx(0.5 * 40 * 10, rel=0.01)
    assert len(calls) == LOOPS * SAMPLE


def test_kinds_of_loops_have_prices_of_their_own(clock: Clock) -> None:
    problem, calls = stage(sizes=(50, 50), batch_size=5), []
    for seconds, changes in ((0.5, {}), (2.0, {"trainable": lambda name: name.startswith("head.")})):
        with problem.meter.timing() as spent:
            work(problem, problem.phase(slow(clock, seconds, calls), epochs=10, **changes), (0, 1))
        assert spent.seconds == pytest.approx(2 * seconds * 10 * 10, rel=0.01)


def test_steps_by_number_are_carried_out_until_their_price_is_known(clock: Clock) -> None:
    problem, calls = stage(sizes=(50,), batch_size=5), []
    for _ in range(3):
        with problem.meter.timing() as spent:
            work(problem, problem.phase(slow(clock, 0.5, calls), steps=30))
        assert spent.seconds == pytest.approx(15, rel=0.01)
    assert len(calls) == 30


def test_images_without_a_gradient_are_classified_in_part_and_charged_in_full(clock: Clock) -> None:
    class Slow(torch.nn.Module):
        body = head = torch.nn.Identity()

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            clock.passes(0.01 * len(images))
            return images.mean((2, 3))

    meter = Meter()
    model = MeteredModel(Slow(), meter)
    images = torch.rand(1000, 3, 32, 32)
    for _ in range(9):
        with torch.no_grad(), meter.timing() as spent:
            assert model({}, images).shape == (1000, 3)
        assert spent.seconds == pytest.approx(10, rel=0.01)
    assert spent.real == 0
    with meter.timing() as spent:  # what a gradient may be wanted of is done
        model({}, images)
    assert spent.real == spent.seconds == pytest.approx(10)


def test_a_step_that_is_charged_leaves_the_model_as_it_is(clock: Clock) -> None:
    problem, calls = stage(sizes=(50,), batch_size=5), []
    phase = problem.phase(slow(clock, 0.5, calls), epochs=40)
    for _ in range(LOOPS):
        work(problem, phase)
    result = run_work(problem, Work(0, problem.start, (phase,)), 1)
    assert result.steps == 1 and equal(result.params, problem.start)


def test_what_was_left_out_without_ever_being_done_is_no_estimate(clock: Clock) -> None:
    meter = Meter()
    with pytest.raises(ValueError, match="its price is not known"), meter.timing():
        meter.owed["step"] += 3


def test_a_rehearsal_ends_when_it_takes_too_long(clock: Clock) -> None:
    problem = stage()
    with pytest.raises(OutOfTime), problem.meter.timing(1.0):
        clock.passes(2.0)
        problem.model(problem.start, problem.images.batch(torch.arange(3)).images)


@pytest.fixture(scope="module")
def study() -> Any:
    values = tiny(
        training__rounds=3, training__local_epochs=2, seeds=[0, 1],
        methods={"local": {}, "fedavg": {}, "scaffold": {}, "feddf": {"steps": 120}, "apfl": {}, "fedavg-ft": {}},
        schedules={"fast": {"mode": "async"}},
    )  # fmt: skip
    values["data"]["photos"] = {"source": "photos"}
    values["proxy"] = {"digits": "photos"}
    values["tables"]["dropout"] = {"rates": [0.5], "alpha": "0.1", "clients": 3,
                                   "entries": [{"method": "fedavg", "schedule": "fast"}]}  # fmt: skip
    return load_study(values)


def find(study: Any, stage: str, text: str = "") -> Any:
    return next(one for one in runs(study) if one.stage == stage and text in one.path)


def test_rounds_and_amounts_scale_the_costs(study: Any) -> None:
    calibration = Calibration(study)
    fedavg = find(study, "federate", "/fedavg/")

    def costs(**training: Any) -> float:
        changed = {**fedavg.spec, "training": {**fedavg.spec["training"], "evaluate_rounds": [], **training}}
        return calibration.seconds(dataclasses.replace(fedavg, spec=changed))

    assert costs(rounds=30) == pytest.approx(10 * costs(rounds=3), rel=1e-6)
    assert costs(local_epochs=20) > 5 * costs(local_epochs=2)
    assert costs(evaluate_rounds=[1, 2, 3]) > costs() > 0
    made = find(study, "memorize")
    doubled = {**made.spec, "parameters": {**made.spec["parameters"], "epochs": 1000}}
    assert calibration.seconds(dataclasses.replace(made, spec=doubled)) > 50 * calibration.seconds(made) > 0


def test_seeds_share_measurements_and_late_uploads_cost_nothing(study: Any) -> None:
    calibration = Calibration(study)
    first, second = (one for one in runs(study) if one.stage == "federate" and "/scaffold/" in one.path)
    calibration.seconds(first)
    kept = len(calibration.kept)
    assert calibration.seconds(second) == calibration.seconds(first) and len(calibration.kept) == kept
    timed = find(study, "federate", "--fast")
    usual = dataclasses.replace(timed, spec={key: value for key, value in timed.spec.items() if key != "schedule"})
    assert 0 < calibration.seconds(timed) < calibration.seconds(usual)


def test_a_server_that_works_too_long_is_extrapolated(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    feddf = find(study, "federate", "/feddf/")
    full = Calibration(study).seconds(feddf)
    monkeypatch.setattr("apfl.calibration.LIMIT", 0.25)
    began = time.process_time()
    cut = Calibration(study)
    short = cut.seconds(feddf)
    assert cut.kept["cut", "feddf"] == "steps"
    assert time.process_time() - began < full and 0.4 < short / full < 2.5


def test_the_cost_of_a_run_is_near_that_of_the_run(study: Any) -> None:
    """Within a factor that leaves room for a busy machine."""
    calibration = Calibration(study)
    planned = find(study, "federate", "/scaffold/")
    problem = calibration._problem(planned)
    real = Problem(**{field.name: getattr(problem, field.name) for field in dataclasses.fields(Problem)})
    torch.set_num_threads(1)
    began = time.process_time()
    list(run(load_method("scaffold"), real))
    truth = time.process_time() - began
    unseen = {**planned.spec, "training": {**planned.spec["training"], "evaluate_rounds": []}}
    assert 0.4 < calibration.seconds(dataclasses.replace(planned, spec=unseen)) / truth < 2.5


def test_what_fails_in_a_rehearsal_is_named_and_the_rest_is_estimated(
    study: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seconds(self: Calibration, planned: Any) -> float | None:
        if planned.method == "scaffold":
            raise RuntimeError("not on random images")
        return None if planned.method == "local" else 10.0

    monkeypatch.setattr(Calibration, "seconds", seconds)
    monkeypatch.setattr("apfl.estimate.measure", lambda cores: Crowd(2.0, 1.5))
    found = estimate(study)
    lines = "\n".join(described(found))
    assert "not in it: 2 runs of scaffold (not on random images)" in lines
    assert "not in it: 2 runs of local on digits (a foreign program, or a data set of unknown size)" in lines
    priced = len(runs(study)) - 4
    assert sum(seconds for _, seconds in found.seconds) == 10 * priced
    assert sum(task.seconds for task in found.tasks) == pytest.approx(1.5 * (10 * priced + 2 * len(found.tasks)))
    assert f"busy {100 * found.packed.busy:.0f} %" in lines and "1.50 times as long" in lines


def test_a_gpu_is_said_to_be_no_part_of_the_estimate() -> None:
    found = Estimate([], {}, Crowd(1.0, 1.0), 2, [])
    assert not any("GPU" in line for line in described(found))
    assert any("GPU" in line for line in described(dataclasses.replace(found, gpu=True)))


def test_the_embedded_data_sets_are_as_large_as_is_known() -> None:
    for read, name in ((digits, "digits"), (photos, "photos")):
        raw = read(name)
        assert size_of({}, name) == len(raw.labels), name
    assert size_of({"max_samples": 900}, "digits") == 900 and size_of({"max_samples": 9000}, "digits") == 1797
    assert size_of({"max_samples": 70}, "mine") == 70 and size_of({"max_samples": None}, "mine") is None
    assert set(SIZES) == set(CLASSES)


def test_the_gain_of_the_longest_first() -> None:
    tasks = [Task("a", "federate", 1.0), Task("b", "federate", 1.0), Task("c", "federate", 2.0)]
    assert gain(tasks, 2) == pytest.approx(1 / 3) and gain(tasks, 1) == 0 and gain([], 2) == 0
    assert Estimate([], {}, Crowd(0.0, 1.0), 2, tasks).packed.makespan == 3


def test_runs_that_are_asked_for_are_counted_over_cells_and_seeds() -> None:
    study = load_study(tiny(seeds=[0, 1]))
    # Local, FedAvg, FedAvg-FT and AP-FL, all but the first on FedAvg's run.
    assert asked(study) == {"federate": 8, "memorize": 2, "personalize": 4}
    assert sum(one.stage == "federate" for one in runs(study)) == 4


def test_trial_processes_say_what_starting_takes_and_company_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crowd, "SECONDS", 0.1)
    found = crowd.measure(2)
    assert 0.2 < found.start < 60 and 1 <= found.slower < 10


@pytest.fixture
def written(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(tiny()))
    monkeypatch.setattr("apfl.estimate.measure", lambda cores: Crowd(2.0, 1.0))
    return str(path)


def run_plan(*arguments: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["plan", *arguments])
    assert not ended.value.code


def test_plan_prints_jobs_sharing_and_estimate(written: str, capsys: pytest.CaptureFixture[str]) -> None:
    run_plan(written)
    captured = capsys.readouterr()
    jobs, shared, computing, *rest = captured.out.splitlines()
    made = "1 data, 1 partition, 1 semantics, 2 federate, 1 memorize, 2 personalize, 1 table, 1 claims, 1 report"
    assert jobs.endswith(f"11 jobs ({made})")
    assert len(tasks_of(load_study(Path(written)), 0.0, lambda kind, path: 0.0)) == 11
    assert shared.startswith("runs shared: federate 4 asked for, 2 made, memorize 1")
    assert computing.startswith("computing on one core:") and "starting jobs" in computing
    assert "federate" in computing and "not in it" not in captured.out
    assert rest[0].startswith("dearest:") and rest[-1].startswith("longest jobs first would gain")
    assert not captured.err  # no progress where there is no terminal


def test_what_is_not_known_is_not_told_as_if_it_were(capsys: pytest.CaptureFixture[str]) -> None:
    nothing = Estimate([], {"broken (it fails)": 2}, Crowd(2.0, 1.0), 2, [Task("a", "federate", 2.0)])
    lines = list(described(nothing))
    assert lines[0] == "computing on one core: at least 2 s (starting jobs 2 s)"
    assert lines[1] == "not in it: 2 runs of broken (it fails)" and "at least" in lines[2]


def test_plan_needs_no_data(tmp_path: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("APFL_DATA_ROOT", raising=False)
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(tiny(data={"digits": {"source": "digits"}, "cifar10": {"source": "parquet"}})))
    run_plan(str(path), "--no-estimate")
    assert "cifar10" not in capsys.readouterr().err


def test_plan_lists_paths_if_asked_and_can_leave_the_estimate_out(
    written: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apfl.estimate.estimate", lambda *_: pytest.fail("estimated"))
    run_plan(written, "--no-estimate")
    assert len(capsys.readouterr().out.splitlines()) == 2
    run_plan(written, "--list")
    assert "federate    results/tiny/runs/digits/dirichlet-alpha0.1-clients3/fedavg/seed0" in capsys.readouterr().out
    run_plan(written, "--json")
    assert len(json.loads(capsys.readouterr().out)) == 5


def test_as_many_models_are_looked_at_as_there_are() -> None:
    own = {0: {"w": torch.zeros(1)}, 1: {"w": torch.zeros(1)}}
    assert _count({"local": own, "localized": {}, "friend": own, "global": {"a": 1, "b": 2, "c": 3}}) == 5


def test_a_line_through_less_work_meets_the_whole() -> None:
    calibration = Calibration(load_study(tiny(training__batch_size=8)))
    planned = next(run for run in runs(calibration.study) if run.method == "fedavg")
    batches = calibration._usual_size(planned) / 8
    assert 4 < batches < 20, "too few for a fortieth of them"

    def attempt(parameters: Any, part: float, patience: float = 1.0) -> Price:
        if patience == 1:
            raise OutOfTime
        return Price(math.ceil(part * batches))

    assert calibration._cut(planned, attempt).seconds == pytest.approx(batches, rel=0.2)


def test_what_cannot_be_rehearsed_is_tried_once() -> None:
    calibration, tried = Calibration(load_study(tiny())), []

    def measure() -> None:
        tried.append(True)
        raise UserError("cannot be rehearsed")

    for _ in range(3):
        with pytest.raises(UserError, match="cannot be rehearsed"):
            calibration._once(("it",), measure)
    assert len(tried) == 1
