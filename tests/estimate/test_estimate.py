"""The estimate of `apfl plan`: seconds that methods take for an image, measured, times the images."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from apfl.cli import main
from apfl.durations import hours
from apfl.estimate import estimate as module
from apfl.estimate.estimate import (
    FORWARD,
    START,
    TAUGHT,
    Estimate,
    Pricing,
    corrected,
    estimate,
    in_words,
    price_of_training,
)
from apfl.study.cells import job_counts, runs
from apfl.study.load import load_study
from apfl.study.runs import Run
from apfl.study.study import Study
from tests.helpers.studies import tiny


@pytest.fixture(scope="module")
def study() -> Study:
    values = tiny(
        training__rounds=3, training__local_epochs=5, seeds=[0, 1], schedules={"fast": {"mode": "async"}},
        methods={"local": {}, "fedavg": {}, "scaffold": {}, "feddf": {}, "apfl": {}, "fedavg-ft": {}},
        proxy={"digits": "digits"},
    )  # fmt: skip
    values["tables"]["dropout"] = {"rates": [0.5], "alpha": "0.1", "clients": 3,
                                   "entries": [{"method": "fedavg", "schedule": "fast"}]}  # fmt: skip
    return load_study(values)


def find(study: Study, stage: str, text: str = "") -> Run:
    return next(one for one in runs(study) if one.stage == stage and text in one.path)


def changed(run: Run, part: str, **values: Any) -> Run:
    return dataclasses.replace(run, spec={**run.spec, part: {**run.spec[part], **values}})


def at_prices(monkeypatch: pytest.MonkeyPatch, image: float) -> None:
    """As if every method had this price, and drawing an image took a second."""
    monkeypatch.setattr(module, "price_of_training", lambda *_: image)
    monkeypatch.setattr(module, "price_of_drawing", lambda *_: 1.0)


def test_a_federated_run_is_the_images_of_those_who_take_part_in_every_round(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_prices(monkeypatch, image=2.0)
    run = changed(find(study, "federate", "/fedavg/"), "training", evaluate_rounds=[])
    assert Pricing(study).seconds(run) == pytest.approx(3 * 2 * (300 - set_aside(study, run)))
    timed = changed(find(study, "federate", "--fast"), "training", evaluate_rounds=[])
    assert 0 < Pricing(study).seconds(timed) < Pricing(study).seconds(run), "uploads that are lost are not trained"


def test_a_run_with_another_learning_rate_or_seed_is_not_measured_again_and_one_with_other_epochs_is(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Run] = []
    monkeypatch.setattr(module, "price_of_training", lambda run, *_: seen.append(run) or 1.0)
    run, pricing = find(study, "federate", "/fedavg/"), Pricing(study)
    again = dataclasses.replace(run, seed=1, path=run.path.replace("seed0", "seed1"))
    others = [changed(run, "training", **values) for values in ({"learning_rate": 0.5}, {"local_epochs": 9})]
    seconds = [pricing.seconds(one) for one in (run, again, *others)]
    assert [one.spec["training"]["local_epochs"] for one in seen] == [5, 9] and seconds[0] == seconds[1] > 0


def set_aside(study: Study, run: Run) -> int:
    part = module.even_partition(300, 10, run.setting, study.validation)
    return int((part.client >= 0).sum() - part.counts.sum())


def test_models_that_are_evaluated_see_the_test_images(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    at_prices(monkeypatch, image=5.0)  # of five epochs: a second for an image once
    run = find(study, "federate", "/fedavg/")
    once, never = (changed(run, "training", evaluate_rounds=rounds) for rounds in ([3], []))
    difference = Pricing(study).seconds(once) - Pricing(study).seconds(never)
    assert difference == pytest.approx(3 * set_aside(study, run) * FORWARD), "a model of each of three clients"


def test_a_generator_is_its_samples_and_the_teachers_that_see_them(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = find(study, "memorize")
    for kind, image, longer in (("drawn", 0.0, 1 / FORWARD), ("taught", 5.0, 1 / FORWARD + TAUGHT)):
        at_prices(monkeypatch, image)
        one, two = (Pricing(study).seconds(changed(made, "parameters", epochs=n, teacher="global")) for n in (1, 2))
        assert two - one == pytest.approx(10 * 10 * longer), f"{kind}: ten samples of each of ten classes an epoch"


def test_what_is_measured_is_a_miniature_of_what_the_method_s_own_code_does(study: Study) -> None:
    def price(text: str, images: int = 200, **parameters: Any) -> float:
        run = changed(find(study, "federate", text), "parameters", **parameters)
        return price_of_training(changed(run, "training", local_epochs=1), None, images, 10, 10)

    distilled = price("/feddf/", steps=400)
    assert distilled > 10 * price("/fedavg/") > 0, "a hundred of four hundred steps on the server"
    assert distilled < 2 * price("/feddf/", images=50, steps=100), "as many steps for an image"


def test_seconds_of_finished_runs_correct_those_of_their_method(study: Study) -> None:
    first, second, other = *(run for run in runs(study) if "/scaffold/" in run.path), find(study, "memorize")
    said = [(first, 10.0), (second, 20.0), (other, 5.0)]
    assert [seconds for _, seconds in corrected(said, {first.path: 40.0})] == [40.0, 80.0, 5.0]
    assert corrected(said, {}) == said


def test_what_fails_is_named_and_the_rest_is_estimated(
    study: Study, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def seconds(self: Pricing, run: Run) -> float | None:
        if run.method == "scaffold":
            raise RuntimeError("not on random images")
        return None if run.method == "local" else 10.0

    monkeypatch.setattr(Pricing, "seconds", seconds)
    found = dataclasses.replace(estimate(study, tmp_path), cores=4, gpu=True)
    priced, lines = len(runs(study)) - 4, "\n".join(in_words(found))
    assert sum(seconds for _, seconds in found.seconds) == 10 * priced and found.jobs == job_counts(study).total()
    assert "not in it: 2 runs of scaffold (not on random images)" in lines and "the GPU" in lines
    assert "not in it: 2 runs of local on digits (a foreign program, or a data set of unknown size)" in lines
    assert f"on this machine: at least {hours((10 * priced + START * found.jobs) / 4)} with 4 cores" in lines


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
    made = "1 data, 1 partition, 1 semantics, 2 federate, 1 memorize, 2 personalize, 1 table, 1 report, 1 compare"
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
    lines = list(in_words(Estimate([], {"broken (it fails)": 2}, jobs=1, cores=2)))
    assert lines[0] == "computing on one core: at least 2 s (starting jobs 2 s)"
    assert lines[1] == "not in it: 2 runs of broken (it fails)" and "at least" in lines[2]


def test_the_estimate_trains_on_the_thinned_images_and_tests_on_all(
    study: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    thin = load_study(tiny(data__digits__max_samples=0, data__digits__train_samples=300, training__rounds=3))
    run = changed(find(thin, "federate", "/fedavg/"), "training", evaluate_rounds=[])
    at_prices(monkeypatch, image=1.0)
    assert Pricing(thin).seconds(run) == 3 * 300, "an image costs a second in each of the rounds"


def test_check_says_how_many_images_are_trained_and_tested_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(tiny(data__digits={"source": "digits", "train_samples": 300}, validation=True)))
    with pytest.raises(SystemExit) as ended:
        main(["check", str(path)])
    assert not ended.value.code
    said = "digits: trains on about 270 images, validates on 30 and tests on 180, of all clients together"
    assert said in capsys.readouterr().out.splitlines()
