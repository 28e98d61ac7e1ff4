"""Archives of results: what comes out is what went in, and nothing lands elsewhere."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from apfl.errors import UserError
from apfl.federation.evaluation import NUMBERS
from apfl.jobs import archive
from apfl.storage.files import read_json, write_json, write_npz, write_text
from apfl.storage.metrics_table import COLUMNS, write_metrics
from apfl.storage.tables import write_parquet
from apfl.study.cells import artefacts, runs
from apfl.study.load import load_study
from tests.helpers import bombs
from tests.helpers.paper_runs import both, write_run

STUDY = {
    "name": "tiny",
    "seeds": [0],
    "data": {"digits": {"source": "digits"}},
    "semantics": {"onehot": {"source": "onehot"}},
    "methods": {"fedavg": {}, "apfl": {}},
    "apfl": {"semantics": "onehot"},
    "tables": {"table2": {"clients": [5], "alphas": ["0.1"]}},
}
TEXT = '{"name": "tiny"}'


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """The folder of a study with one run left out."""
    folder = tmp_path / "results"
    study = load_study(STUDY)
    for number, run in enumerate(runs(study)):
        write_run(folder, run.path, both(0.25 + number / 10), module=run.spec.get("module", ""))
        if run.stage == "memorize":
            (folder / run.path / "metrics.parquet").unlink()
            stream = io.BytesIO()
            Image.new("RGB", (40, 30), "teal").save(stream, format="PNG")
            (folder / run.path / "samples.png").write_bytes(stream.getvalue())
    for entry in artefacts(study):
        if entry.kind == "partition":
            client, train = np.array([-1, 0, 1, 0]), np.array([False, True, True, False])
            write_npz(folder / entry.path, client=client, is_train=train, counts=np.arange(6).reshape(2, 3) * 1000)
    return folder


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_what_is_unpacked_is_what_was_packed(results, tmp_path) -> None:
    study = load_study(STUDY)
    archive.pack(study, TEXT, results, tmp_path / "packed")
    made = archive.unpack(tmp_path / "packed", tmp_path / "again")
    assert made == tmp_path / "again" / "tiny" / "study.json" and made.read_text() == TEXT
    assert files_of(tmp_path / "again") == files_of(results) | {"tiny/study.json"}
    for path in (*results.rglob("run.json"), *results.rglob("*.npz")):
        assert (tmp_path / "again" / path.relative_to(results)).read_bytes() == path.read_bytes()
    for run in runs(study):
        if run.stage != "memorize":
            one, other = (
                pd.read_parquet(folder / run.path / "metrics.parquet") for folder in (results, made.parents[1])
            )
            pd.testing.assert_frame_equal(one, other)


def test_pictures_come_back_no_wider_than_a_page_of_many_shows_them(results, tmp_path) -> None:
    (picture, *_) = results.rglob("samples.png")
    Image.new("RGB", (1120, 800), "teal").save(picture)
    archive.pack(load_study(STUDY), TEXT, results, tmp_path / "packed")
    archive.unpack(tmp_path / "packed", tmp_path / "again")
    with Image.open(tmp_path / "again" / picture.relative_to(results)) as again:
        assert again.size == (560, 400)


def test_metrics_come_back_to_the_byte_as_runs_write_them(results, tmp_path) -> None:
    paths = list(results.rglob("metrics.parquet"))
    for path in paths:
        write_metrics(path, [dict.fromkeys(COLUMNS, "") | dict.fromkeys(NUMBERS, 1) | row for row in both(0.5)])
    archive.pack(load_study(STUDY), TEXT, results, tmp_path / "packed")
    archive.unpack(tmp_path / "packed", tmp_path / "again")
    for path in paths:
        assert (tmp_path / "again" / path.relative_to(results)).read_bytes() == path.read_bytes()


def test_an_archive_brings_the_study_s_own_rules_along(tmp_path, monkeypatch) -> None:
    here = tmp_path / "here"
    write_text(here / "own/mine.smk", "rule mine:\n")
    values = STUDY | {"methods": {"mine": {"external": {"rule": "mine", "model": "global"}}}, "rules": "./own"}
    monkeypatch.chdir(here)
    study = load_study(values | {"apfl": {}, "semantics": {}}, [here])
    (run,) = runs(study)
    write_run(here / "results", run.path, both(0.5), module=run.spec["module"])
    text = json.dumps(values | {"apfl": {}, "semantics": {}})
    archive.pack(study, text, Path("results"), tmp_path / "packed")
    monkeypatch.chdir(tmp_path)
    again = load_study(archive.unpack(tmp_path / "packed", tmp_path / "there"))
    assert runs(again) == [run] and again.rules == "there/tiny/own"


def test_the_study_is_packed_with_its_methods_in_their_order() -> None:
    text = archive.portable({"methods": {"local": {}, "fedavg": {}, "apfl": {}}})
    assert list(json.loads(text)["methods"]) == ["local", "fedavg", "apfl"]


def test_equal_results_are_equal_bytes(results, tmp_path) -> None:
    for name in ("one", "other"):
        archive.pack(load_study(STUDY), TEXT, results, tmp_path / name)
    for file in (archive.METRICS, archive.RECORDS):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes()


def test_a_study_without_runs_is_refused(tmp_path) -> None:
    with pytest.raises(UserError, match="study tiny: no finished run under"):
        archive.pack(load_study(STUDY), TEXT, tmp_path, tmp_path / "packed")
    assert not (tmp_path / "packed").exists()


def test_an_archive_with_each_record_in_a_file_of_its_own_is_read(results, tmp_path) -> None:
    archive.pack(load_study(STUDY), TEXT, results, tmp_path / "packed")
    files = archive.contents(tmp_path / "packed")
    with zipfile.ZipFile(tmp_path / "packed" / archive.RECORDS, "w") as file:
        for name, content in files.items():
            file.writestr(name, content)
    assert archive.contents(tmp_path / "packed") == files


@pytest.mark.parametrize("name", ["../outside.json", "/outside.json", "a/../../outside.json", "a\\b.json", "folder/"])
def test_nothing_is_written_outside_the_folder(results, tmp_path, name) -> None:
    archive.pack(load_study(STUDY), TEXT, results, tmp_path / "packed")
    with zipfile.ZipFile(tmp_path / "packed" / archive.RECORDS, "a") as file:
        file.writestr(name, "{}")
    before = files_of(tmp_path)
    with pytest.raises(UserError, match="not a file below its folder"):
        archive.unpack(tmp_path / "packed", tmp_path / "again")
    assert files_of(tmp_path) == before


@pytest.mark.parametrize("run", ["..", "/outside", "a/../..", "a\\b", "a\0b", "a\nb", "\ud800", ""])
def test_no_record_is_written_outside_the_folder_or_under_a_strange_name(results, tmp_path, run) -> None:
    archive.pack(load_study(STUDY), TEXT, results, tmp_path / "packed")
    rewritten(tmp_path / "packed", {archive.TOGETHER: json.dumps({run: "{}"})})
    before = files_of(tmp_path)
    with pytest.raises(UserError, match="not a file below its folder"):
        archive.unpack(tmp_path / "packed", tmp_path / "again")
    assert files_of(tmp_path) == before


def rewritten(folder: Path, files: dict[str, bytes | str]) -> None:
    """Other contents of some of an archive's files, which are zipped in ``records.zip``."""
    path = folder / archive.RECORDS
    with zipfile.ZipFile(path) as file:
        there = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w") as file:
        for name, content in (there | files).items():
            file.writestr(name, content)


def test_an_archive_with_any_byte_changed_is_read_or_refused(results, tmp_path) -> None:
    archive.pack(load_study(STUDY), TEXT, results, tmp_path / "packed")
    path = tmp_path / "packed" / archive.RECORDS
    whole, packed, refused = path.read_bytes(), archive.contents(tmp_path / "packed"), 0
    for place in range(0, len(whole), 29):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            assert archive.contents(tmp_path / "packed") == packed
        except UserError:
            refused += 1
    assert refused


@pytest.mark.parametrize("record", ["[1]", "{", "[" * 10**5, 1, None])
def test_records_that_are_none_are_refused(results, tmp_path, record) -> None:
    archive.pack(load_study(STUDY), TEXT, results, tmp_path / "packed")
    rewritten(tmp_path / "packed", {archive.TOGETHER: json.dumps({"tiny/runs/one": record})})
    with pytest.raises(UserError, match="cannot be read"):
        archive.contents(tmp_path / "packed")


@pytest.mark.parametrize("outputs", [[1], None, {"..": ""}, {"metrics.parquet": 1}])
def test_a_whole_archive_whose_records_name_no_files_is_refused(results, tmp_path, outputs) -> None:
    archive.pack(load_study(STUDY), TEXT, results, tmp_path / "packed")
    run = runs(load_study(STUDY))[0].path
    files = archive.contents(tmp_path / "packed")
    told = {run.path: files[f"{run.path}/run.json"].decode() for run in runs(load_study(STUDY))}
    rewritten(tmp_path / "packed", {archive.TOGETHER: json.dumps(told | {run: json.dumps({"outputs": outputs})})})
    with zipfile.ZipFile(tmp_path / "packed" / archive.WHOLE, "w") as file:
        file.writestr(f"{run}/{next(iter(outputs or ['x']))}", "")
    with pytest.raises(UserError, match=r"not a file|is damaged"):
        archive.unpack(tmp_path / "packed", tmp_path / "again")


def test_a_damaged_archive_leaves_no_run_that_looks_finished(results, tmp_path) -> None:
    record = results / runs(load_study(STUDY))[0].path / "run.json"
    write_json(record, read_json(record) | {"outputs": {"metrics.parquet": "0"}})
    archive.pack(load_study(STUDY), TEXT, results, tmp_path / "packed", whole=True)
    with pytest.raises(UserError, match="is damaged"):
        archive.unpack(tmp_path / "packed", tmp_path / "again")
    assert not list((tmp_path / "again").rglob("run.json"))


def partition_of(results: Path) -> Path:
    return next(results.rglob("partitions/**/*.npz"))


@pytest.mark.parametrize("numbers", [[], [255], [-1, 2**40], [-1, 2**62]])
def test_a_partition_comes_back_to_the_byte_however_large_its_numbers(results, tmp_path, numbers) -> None:
    partition = partition_of(results)
    write_npz(partition, client=np.array(numbers, np.int64), specification=np.array("{}"))
    archive.pack(load_study(STUDY), TEXT, results, tmp_path / "packed")
    archive.unpack(tmp_path / "packed", tmp_path / "again")
    assert (tmp_path / "again" / partition.relative_to(results)).read_bytes() == partition.read_bytes()


def test_a_whole_archive_has_partitions_as_they_are_whatever_compressed_them(results, tmp_path) -> None:
    partition = partition_of(results)
    np.savez(partition, client=np.arange(5), is_train=np.ones(5, bool))  # runs name its SHA-256
    archive.pack(load_study(STUDY), TEXT, results, tmp_path / "packed", whole=True)
    archive.unpack(tmp_path / "packed", tmp_path / "again")
    assert (tmp_path / "again" / partition.relative_to(results)).read_bytes() == partition.read_bytes()


def test_partitions_that_unpack_to_too_much_are_refused(results, tmp_path, monkeypatch) -> None:
    np.savez_compressed(partition_of(results), client=np.zeros(10**6, np.int64))
    archive.pack(load_study(STUDY), TEXT, results, tmp_path / "packed", whole=True)
    monkeypatch.setattr(archive, "LARGEST", 10**6)
    with pytest.raises(UserError, match=r"seed0\.npz is damaged"):
        archive.unpack(tmp_path / "packed", tmp_path / "again")


def test_the_files_of_a_program_are_unpacked_as_they_are(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    program = {"external": {"command": "./start table.npz", "model": "global"}}
    Path("start").write_text("#!/bin/sh\n")
    np.savez("table.npz", numbers=np.arange(3, dtype=np.uint8))
    study = load_study({**STUDY, "methods": {"mine": program}})
    (run,) = runs(study)
    write_run(Path("results"), run.path, both(0.5), module=run.spec["module"])
    archive.pack(study, TEXT, Path("results"), Path("packed"))
    archive.unpack(Path("packed"), Path("again"))
    for name in ("start", "table.npz"):
        assert Path("again/tiny", name).read_bytes() == Path(name).read_bytes()


def test_two_files_of_one_name_are_not_packed(results, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("a", "b"):
        Path(folder).mkdir()
        Path(folder, "run.py").write_text(f"print('{folder}')")
    programs = {name: {"external": {"command": f"python {name}/run.py", "model": "global"}} for name in ("a", "b")}
    study = load_study({**STUDY, "methods": programs})
    for run in runs(study):
        write_run(results, run.path, both(0.5), module=run.spec["module"])
    with pytest.raises(UserError, match=r"b/run\.py: an archive has one file tiny/run\.py, .*; rename this one"):
        archive.pack(study, TEXT, results, tmp_path / "packed")
    assert not (tmp_path / "packed").exists()


def test_another_run_is_not_overwritten(results, tmp_path) -> None:
    study = load_study(STUDY)
    archive.pack(study, TEXT, results, tmp_path / "packed")
    archive.unpack(tmp_path / "packed", tmp_path / "again")
    archive.unpack(tmp_path / "packed", tmp_path / "again")  # the same runs
    theirs = next((tmp_path / "again").rglob("run.json"))
    theirs.write_text('{"status": "another"}')
    with pytest.raises(UserError, match=r"run\.json: is another run; unpack elsewhere, or use `apfl merge`"):
        archive.unpack(tmp_path / "packed", tmp_path / "again")
    assert theirs.read_text() == '{"status": "another"}'


def test_runs_without_metrics_are_not_packed_and_an_older_archive_of_models_does_not_stay(results, tmp_path) -> None:
    study, folder = load_study(STUDY), tmp_path / "packed"
    folder.mkdir()
    (folder / archive.WHOLE).write_bytes(b"of another study")
    archive.pack(study, TEXT, results, folder)
    assert not (folder / archive.WHOLE).exists()
    for table in results.rglob("metrics.parquet"):
        table.unlink()
    with pytest.raises(UserError, match=r"have no metrics\.parquet; make them again"):
        archive.pack(study, TEXT, results, folder)


@pytest.mark.parametrize("name", ["run.json", "samples.png"])
def test_damaged_results_are_not_packed(results, tmp_path, name) -> None:
    next(results.rglob(name)).write_bytes(b"\xff")
    with pytest.raises(UserError, match=f"{name}: .*; make it again"):
        archive.pack(load_study(STUDY), TEXT, results, tmp_path / "packed")


def test_damaged_archives_are_refused_in_one_line(results, tmp_path) -> None:
    archive.pack(load_study(STUDY), TEXT, results, tmp_path / "packed")
    path = tmp_path / "packed" / archive.RECORDS
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="cannot be read"):
        archive.unpack(tmp_path / "packed", tmp_path / "again")
    path.write_bytes(whole)
    frame = pd.read_parquet(tmp_path / "packed" / archive.METRICS)
    write_parquet(tmp_path / "packed" / archive.METRICS, frame.assign(run="elsewhere"))
    with pytest.raises(UserError, match=r"metrics of 'elsewhere' have no run\.json"):
        archive.unpack(tmp_path / "packed", tmp_path / "again")
    for text in ("[1", "[1]", "{", "[" * 10**5):
        with zipfile.ZipFile(path, "w") as file:
            file.writestr(archive.TOGETHER, text)
        with pytest.raises(UserError, match="cannot be read"):
            archive.unpack(tmp_path / "packed", tmp_path / "again")
    path.write_bytes(whole)
    write_text(tmp_path / "packed" / archive.METRICS, "no Parquet")
    with pytest.raises(UserError, match=archive.METRICS):
        archive.unpack(tmp_path / "packed", tmp_path / "again")


@pytest.mark.parametrize("bomb", [bombs.as_pickle, bombs.as_torch, bombs.as_objects, bombs.as_parquet])
@pytest.mark.parametrize("file", [archive.METRICS, archive.RECORDS])
def test_no_pickle_in_an_archive_is_loaded(results, tmp_path, bomb, file) -> None:
    archive.pack(load_study(STUDY), TEXT, results, tmp_path / "packed")
    marker = tmp_path / "executed"
    bomb(tmp_path / "packed" / file, marker)
    with pytest.raises(UserError, match=file.split(".")[0]):
        archive.unpack(tmp_path / "packed", tmp_path / "again")
    assert not marker.exists() and not (tmp_path / "again").exists()
