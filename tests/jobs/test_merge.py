"""Results of several machines: equal runs once, different ones refused, and nothing written before that is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from apfl.errors import UserError
from apfl.jobs.archive import pack, unpack
from apfl.jobs.merge import merge
from apfl.storage.files import read_json, sha256_file, write_json, write_npz
from apfl.storage.run_folder import is_kept
from apfl.study.cells import runs
from apfl.study.load import load_study
from tests.helpers.paper_runs import both, write_run
from tests.helpers.studies import tiny

STUDY = load_study(tiny(seeds=[0, 1], methods={"fedavg": {}, "fedavg-ft": {}}))


def made(folder: Path, seeds: tuple[int, ...], accuracy: float = 0.5) -> Path:
    """A results folder with the runs of these seeds, models among their files."""
    for run in (run for run in runs(STUDY) if run.seed in seeds):
        write_run(folder, run.path, both(accuracy + run.seed / 10), module=run.spec["module"])
        path = folder / run.path
        (path / "state.safetensors").write_bytes(b"model of seed %d" % run.seed)
        outputs = {name: sha256_file(path / name) for name in ("metrics.parquet", "state.safetensors")}
        write_json(path / "run.json", read_json(path / "run.json") | {"stage": run.stage, "outputs": outputs})
    write_npz(folder / "data/digits-300.npz", labels=[1, 2, 3])
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_two_folders_together_are_what_one_folder_has(tmp_path) -> None:
    one, two, whole = made(tmp_path / "one", (0,)), made(tmp_path / "two", (0, 1)), made(tmp_path / "whole", (0, 1))
    assert merge([one, two], tmp_path / "out") == (4, 2)
    found = contents(tmp_path / "out")
    assert {name: found[name] for name in contents(whole)} == contents(whole)
    assert all(is_kept(tmp_path / "out" / run.path) for run in runs(STUDY)), "so that Snakemake loses none of them"


def test_no_file_is_older_than_what_it_was_made_from(tmp_path) -> None:
    merge([made(tmp_path / "one", (0, 1))], tmp_path / "out")
    files = ["data/digits-300.npz", *(f"{run.path}/run.json" for run in sorted(runs(STUDY), key=lambda run: run.stage))]
    times = [(tmp_path / "out" / file).stat().st_mtime_ns for file in files]
    assert times == sorted(times)


def test_a_choice_among_trials_comes_after_them_and_before_what_is_made_with_it(tmp_path) -> None:
    one = made(tmp_path / "one", (0, 1))
    trial, tuned, choice = (
        *(run.path for run in runs(STUDY) if run.stage == "personalize"),
        "tiny/tuning/digits/a.json",
    )
    record = read_json(one / tuned / "run.json")
    write_json(one / tuned / "run.json", record | {"specification": record["specification"] | {"tuned": choice}})
    write_json(one / choice, {"chosen": 1})
    merge([one], tmp_path / "out")
    times = [
        (tmp_path / "out" / file).stat().st_mtime_ns for file in (f"{trial}/run.json", choice, f"{tuned}/run.json")
    ]
    assert times == sorted(times)
    write_json(made(tmp_path / "two", (0,)) / choice, {"chosen": 2})
    with pytest.raises(UserError, match=f"{choice}: not the same"):
        merge([one, tmp_path / "two"], tmp_path / "other")


def test_a_folder_can_be_added_to(tmp_path) -> None:
    merge([made(tmp_path / "one", (0,))], tmp_path / "out")
    assert merge([made(tmp_path / "two", (1,))], tmp_path / "out") == (4, 0)


@pytest.mark.parametrize("name", ["outputs", "code", "specification"])
def test_different_runs_of_one_name_are_refused_before_anything_is_written(tmp_path, name) -> None:
    one, two = made(tmp_path / "one", (0,)), made(tmp_path / "two", (0,))
    path = runs(STUDY)[0].path
    write_json(two / path / "run.json", read_json(two / path / "run.json") | {name: {"other": "thing"}})
    with pytest.raises(UserError, match=f"{path}/run.json: not the same in all folders"):
        merge([one, two], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_runs_that_only_took_another_time_are_the_same(tmp_path) -> None:
    one, two = made(tmp_path / "one", (0,)), made(tmp_path / "two", (0,))
    for run in (run for run in runs(STUDY) if run.seed == 0):
        write_json(
            two / run.path / "run.json", read_json(two / run.path / "run.json") | {"seconds": 5, "device": "cuda"}
        )
    assert merge([one, two], tmp_path / "out") == (2, 2)


def test_different_data_are_refused(tmp_path) -> None:
    one, two = made(tmp_path / "one", (0,)), made(tmp_path / "two", (1,))
    write_npz(two / "data/digits-300.npz", labels=[3, 2, 1])
    with pytest.raises(UserError, match=r"data/digits-300.npz: not the same"):
        merge([one, two], tmp_path / "out")


def test_archives_are_merged_like_folders_and_models_come_from_whoever_has_them(tmp_path) -> None:
    one, two, whole = made(tmp_path / "one", (0,)), made(tmp_path / "two", (0, 1)), made(tmp_path / "whole", (0, 1))
    pack(STUDY, '{"name": "tiny"}', one, tmp_path / "small")
    pack(STUDY, '{"name": "tiny"}', two, tmp_path / "large", whole=True)
    assert merge([tmp_path / "small", tmp_path / "large"], tmp_path / "out") == (4, 2)
    found = contents(tmp_path / "out")
    for run in runs(STUDY):
        for file in ("run.json", "metrics.parquet", "state.safetensors"):
            assert found[f"{run.path}/{file}"] == (whole / run.path / file).read_bytes()


def test_a_damaged_model_in_an_archive_is_found(tmp_path) -> None:
    pack(STUDY, '{"name": "tiny"}', made(tmp_path / "one", (0,)), tmp_path / "packed", whole=True)
    path = tmp_path / "packed" / "runs.zip"
    path.write_bytes(path.read_bytes().replace(b"model of seed 0", b"model of seed 7"))
    with pytest.raises(UserError, match=r"runs\.zip: "):
        unpack(tmp_path / "packed", tmp_path / "again")


def test_folders_without_runs_are_refused(tmp_path) -> None:
    with pytest.raises(UserError, match="no finished run; name folders of results, or archives"):
        merge([tmp_path], tmp_path / "out")


@pytest.mark.parametrize("name", ["nowhere", "empty", "one/tiny", "file"])
def test_each_folder_that_is_named_has_to_have_runs(tmp_path, name) -> None:
    made(tmp_path / "one", (0,))
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=f"{name}: no finished run; name folders of results, or archives"):
        merge([tmp_path / "one", tmp_path / name], tmp_path / "out")
    assert not (tmp_path / "out").exists()
