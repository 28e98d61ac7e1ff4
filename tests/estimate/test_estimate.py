"""The estimate of `apfl plan`: a method's own code says how much work it is, measured prices what that costs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from apfl.cli import main
from apfl.data.catalogue import parts_of, size_of
from apfl.data.sources import digits, photos
from apfl.durations import hours
from apfl.engine.settings import TrainingConfig
from apfl.errors import UserError
from apfl.estimate import amounts
from apfl.estimate.amounts import Amounts, Counting, even_partition, narrow, round_amounts, trial
from apfl.estimate.estimate import Estimate, Pricing, corrected, estimate
from apfl.estimate.forecast import forecast
from apfl.federation.method import load_method
from apfl.study.cells import asked, job_counts, runs
from apfl.study.load import load_study
from apfl.study.runs import job_unit
from tests.helpers.studies import tiny

PART = even_partition(600, 10, "dirichlet-alpha0.1-clients3", 0, False)
IMAGES = int(PART.counts.sum())


def work(module: str, epochs: int = 1, **parameters: Any) -> tuple[Amounts, Amounts]:
    """What a round of a method and its evaluation ask for."""
    problem = trial(PART, 3, {"name": "cnn"}, TrainingConfig(1, local_epochs=epochs))
    return round_amounts(load_method(module, parameters), problem)


def test_a_round_is_every_image_of_every_epoch_forward_and_backward() -> None:
    for epochs in (1, 3):
        training, looking = work("fedavg", epochs)
        assert training.forward == training.backward == epochs * IMAGES
        tested = 600 - IMAGES
        assert (looking.forward, looking.backward) == (4 * tested, 0), "the global model and three local ones"


def test_what_a_method_adds_is_counted_by_its_own_code() -> None:
    plain = work("fedavg")[0]
    distilled = work("feddf", steps=7, batch_size=30, evaluate_every=7)[0]
    assert distilled.backward - plain.backward == 7 * 30, "the student"
    assert distilled.forward - plain.forward == 7 * 30 * (3 + 1), (
        "and three teachers; nothing is set aside to choose by"
    )
    head, whole = (work("fedrep", head_epochs=epochs)[0] for epochs in (4, 5))
    assert whole.forward - head.forward == IMAGES and whole.backward == head.backward, "the head's gradient is cheap"
    first, second = (work("persafl", order=order)[0] for order in (1, 2))
    assert second.backward == first.backward + 2 * IMAGES, "a Hessian is two backward passes more"


def test_only_few_images_are_computed_and_each_has_an_answer() -> None:
    model = Counting(narrow(3, 5, 10))
    params = dict(model.network.named_parameters())
    assert model(params, torch.rand(50, 3, 8, 8)).shape == (50, 10) and model(params, torch.rand(0, 3, 8, 8)).shape == (
        0,
        10,
    )
    assert model.counts["forward"] == 50


def test_trying_a_method_out_ends_when_it_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amounts, "PATIENCE", -1.0)
    with pytest.raises(UserError, match="to try out"):
        work("fedavg")


def test_what_is_large_is_judged_by_a_line_through_what_is_small() -> None:
    tried: list[int] = []

    def attempt(size: int) -> tuple[Amounts, ...]:
        tried.append(size)
        return (Amounts(forward=3 * size + 7, drawn=5),)

    assert amounts.at_size(600, 10, attempt) == (Amounts(forward=1807, drawn=5),) and tried == [10, 20]
    assert amounts.at_size(20, 10, attempt) == (Amounts(forward=67, drawn=5),) and tried[2:] == [20]


@pytest.fixture(scope="module")
def study() -> Any:
    values = tiny(
        training__rounds=3, training__local_epochs=5, seeds=[0, 1], schedules={"fast": {"mode": "async"}},
        methods={"local": {}, "fedavg": {}, "scaffold": {}, "apfl": {"samples_per_class": 90}, "fedavg-ft": {}},
    )  # fmt: skip
    values["tables"]["dropout"] = {"rates": [0.5], "alpha": "0.1", "clients": 3,
                                   "entries": [{"method": "fedavg", "schedule": "fast"}]}  # fmt: skip
    return load_study(values)


def find(study: Any, stage: str, text: str = "") -> Any:
    return next(one for one in runs(study) if one.stage == stage and text in one.path)


def changed(run: Any, part: str, **values: Any) -> Any:
    return dataclasses.replace(run, spec={**run.spec, part: {**run.spec[part], **values}})


def test_rounds_epochs_and_lost_uploads_scale_the_seconds(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apfl.estimate.estimate.network_prices", lambda *_: (1.0, 2.0))
    monkeypatch.setattr("apfl.estimate.estimate.generator_prices", lambda *_: (100.0, 10.0))
    pricing, fedavg = Pricing(study), find(study, "federate", "/fedavg/")
    unseen = changed(fedavg, "training", evaluate_rounds=[])
    images = int(pricing._partition(fedavg).counts.sum())
    assert pricing.seconds(unseen) == pytest.approx(3 * 5 * 3 * images, rel=1e-3), "rounds, epochs, and a price of 3"
    assert pricing.seconds(fedavg) > pricing.seconds(unseen)
    timed = find(study, "federate", "--fast")
    usual = dataclasses.replace(timed, spec={key: value for key, value in timed.spec.items() if key != "schedule"})
    assert 0 < pricing.seconds(timed) < pricing.seconds(usual)
    made = find(study, "memorize")
    longer = pricing.seconds(changed(made, "parameters", epochs=11)) - pricing.seconds(made)
    assert longer == pytest.approx(
        10 * (pricing.seconds(changed(made, "parameters", epochs=2)) - pricing.seconds(made))
    )
    few, many = (
        pricing.seconds(changed(find(study, "personalize", "/apfl/"), "parameters", samples_per_class=count))
        for count in (200, 1200)
    )
    assert 5 < many / few < 6.1, "images that are drawn and trained on, besides what is evaluated"


def test_seconds_of_finished_runs_correct_those_of_their_method(study: Any) -> None:
    first, second, other = *(run for run in runs(study) if "/scaffold/" in run.path), find(study, "memorize")
    said = [(first, 10.0), (second, 20.0), (other, 5.0)]
    assert [seconds for _, seconds in corrected(said, {first.path: 40.0})] == [40.0, 80.0, 5.0]
    assert corrected(said, {}) == said


def test_what_fails_is_named_and_the_rest_is_estimated(
    study: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def seconds(self: Pricing, run: Any) -> float | None:
        if run.method == "scaffold":
            raise RuntimeError("not on random images")
        return None if run.method == "local" else 10.0

    monkeypatch.setattr(Pricing, "seconds", seconds)
    monkeypatch.setattr("apfl.estimate.estimate.start_seconds", lambda: 2.0)
    found = dataclasses.replace(estimate(study, tmp_path), cores=4, gpu=True)
    priced, lines = len(runs(study)) - 4, "\n".join(forecast(found))
    assert sum(seconds for _, seconds in found.seconds) == 10 * priced and found.jobs == job_counts(study).total()
    assert "not in it: 2 runs of scaffold (not on random images)" in lines and "the GPU" in lines
    assert "not in it: 2 runs of local on digits (a foreign program, or a data set of unknown size)" in lines
    total = 10 * priced + 2 * found.jobs
    assert f"on this machine: at least {hours(total / 4)} with 4 cores" in lines


def test_runs_of_the_same_numbers_share_measurements(study: Any) -> None:
    pricing = Pricing(study)
    first, second = (one for one in runs(study) if "/scaffold/" in one.path)
    assert pricing.seconds(first) == pricing.seconds(second) > 0


def test_the_embedded_data_sets_are_as_large_as_is_known() -> None:
    for read, name in ((digits, "digits"), (photos, "photos")):
        assert size_of({}, name) == len(read(name).labels), name
    assert size_of({"max_samples": 900}, "digits") == 900 and size_of({"max_samples": 9000}, "digits") == 1797
    assert size_of({"max_samples": 70}, "mine") == 70 and size_of({"max_samples": None}, "mine") is None


def test_runs_that_are_asked_for_are_counted_over_cells_and_seeds() -> None:
    study = load_study(tiny(seeds=[0, 1]))
    # Local, FedAvg, FedAvg-FT and AP-FL, all but the first on FedAvg's run.
    assert asked(study) == {"federate": 8, "memorize": 2, "personalize": 4}


def test_auto_is_a_cell_where_there_is_a_gpu_and_a_cell_is_one_job(monkeypatch: pytest.MonkeyPatch) -> None:
    for there, unit in (("/usr/bin/nvidia-smi", "cell"), (None, "seed")):
        monkeypatch.setattr("apfl.study.runs.shutil.which", lambda name, there=there: there)
        assert job_unit("auto") == unit and job_unit("seed") == "seed" and job_unit("cell") == "cell"
    apart, cells = (job_counts(load_study(tiny(seeds=[0, 1], one_job_per=kind))) for kind in ("seed", "cell"))
    assert [apart[stage] - cells[stage] for stage in ("federate", "memorize", "personalize")] == [2, 1, 2]


def plan(*arguments: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["plan", *arguments])
    assert not ended.value.code


def test_plan_prints_jobs_sharing_and_estimate_without_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("APFL_DATA_ROOT", raising=False)
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(tiny()))
    plan(str(path), "--results", str(tmp_path))
    captured = capsys.readouterr()
    jobs, shared, computing, *rest = captured.out.splitlines()
    made = "1 data, 1 partition, 1 semantics, 2 federate, 1 memorize, 2 personalize, 1 table, 1 claims, 1 report"
    assert jobs.endswith(f"11 jobs ({made})") and shared.startswith(
        "runs shared: federate 4 asked for, 2 made, memorize 1"
    )
    assert (
        computing.startswith("computing on one core:")
        and "starting jobs" in computing
        and "not in it" not in captured.out
    )
    assert rest[0].startswith("most expensive:") and rest[-1].startswith("on this machine:") and not captured.err
    monkeypatch.setattr("apfl.estimate.estimate", lambda *_: pytest.fail("estimated"))
    plan(str(path), "--no-estimate")
    assert len(capsys.readouterr().out.splitlines()) == 2
    plan(str(path), "--list")
    assert "federate    results/tiny/runs/digits/dirichlet-alpha0.1-clients3/fedavg/seed0" in capsys.readouterr().out
    plan(str(path), "--json")
    assert len(json.loads(capsys.readouterr().out)) == 5


def test_what_is_not_known_is_not_told_as_if_it_were() -> None:
    lines = list(forecast(Estimate([], {"broken (it fails)": 2}, jobs=1, start=2.0, cores=2)))
    assert lines[0] == "computing on one core: at least 2 s (starting jobs 2 s)"
    assert lines[1] == "not in it: 2 runs of broken (it fails)" and "at least" in lines[2]


def test_the_estimate_trains_on_the_thinned_images_and_tests_on_all(
    study: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apfl.estimate.estimate.network_prices", lambda *_: (1.0, 2.0))
    thin = load_study(tiny(data__digits__max_samples=0, data__digits__train_samples=300, training__rounds=3))
    run = find(thin, "federate", "/fedavg/")
    assert Pricing(thin)._partition(run).counts.sum() == 300
    unseen = changed(run, "training", evaluate_rounds=[])
    cycles = run.spec["training"]["rounds"] * run.spec["training"]["local_epochs"]
    assert Pricing(thin).seconds(unseen) == pytest.approx(cycles * 3 * 300, rel=1e-3)
    looks, tested = len(run.spec["training"]["evaluate_rounds"]), 1797 // 10
    looking = Pricing(thin).seconds(run) - Pricing(thin).seconds(unseen)
    assert looking == pytest.approx(looks * (1 + 3) * tested, rel=0.02), "the global model and those of three clients"
    assert parts_of(thin.data["digits"], "digits", False) == (300, 0, 180)
    assert parts_of(thin.data["digits"], "digits", True) == (270, 30, 180)
    assert parts_of({"max_samples": 1000}, "cifar10", True) == (810, 90, 100) and parts_of({}, "mine", True) is None


def test_check_says_how_many_images_are_trained_and_tested_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(tiny(data__digits={"source": "digits", "train_samples": 300}, validation=True)))
    with pytest.raises(SystemExit) as ended:
        main(["check", str(path)])
    assert not ended.value.code
    said = "digits: trains on about 270 images, validates on 30 and tests on 180, of all clients together"
    assert capsys.readouterr().out.splitlines()[-1] == said
