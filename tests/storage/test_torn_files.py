"""What a power cut, a full disk, a folder that cannot be written, a second process and a wrong clock do to a run: it
ends in the right files, or in one line that names what is wrong and what to do."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from apfl.jobs.before import date_back
from apfl.registry.trees import ROOT
from apfl.storage.locks import alone_in, open_part
from apfl.storage.run_folder import KEPT
from tests.helpers.killing import WHERE, Bench, Death, Server, all_stages, artefacts, benched, differing, parts, served

DAY = 86400


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with benched(tmp_path_factory.mktemp("bench")) as made:
        yield made


def empty(path: Path) -> None:
    path.write_bytes(b"")


def half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def zeros(path: Path) -> None:
    """The length is right and the second half was never written, as some file systems leave it."""
    size = path.stat().st_size
    os.truncate(path, size // 2)
    os.truncate(path, size)


DAMAGES = (empty, half, zeros)


@contextmanager
def mounted(folder: Path, size: str = "16m") -> Iterator[Callable[..., None]]:
    """A file system of its own; yields how to mount it again with other options. Skips where mounting is refused."""
    folder.mkdir()

    def mount(*options: str) -> subprocess.CompletedProcess[str]:
        command = ["mount", "-t", "tmpfs", "-o", ",".join((f"size={size}", *options)), "none", str(folder)]
        return subprocess.run(command, capture_output=True, text=True)

    if (done := mount()).returncode:
        pytest.skip(f"needs to mount a file system: {done.stderr.strip()}")
    try:
        yield lambda *options: mount("remount", *options).check_returncode()
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(path: Path, free: int) -> None:
    """Leave so many bytes on the file system of ``path``."""
    room = os.statvfs(path.parent)
    with path.open("wb") as stream:
        stream.write(bytes(max(0, room.f_bavail * room.f_frsize - free)))


def wait_for(log: Path, pattern: str) -> str:
    """What a log says, as soon as it does."""
    for _ in range(600):
        if log.exists() and (found := re.search(pattern, log.read_text(), re.DOTALL)):
            return found[1]
        time.sleep(0.05)
    raise AssertionError(f"{log} never said {pattern}")


def unlink(path: Path) -> None:
    """Make a file one of its own, if it was a hard link."""
    whole = path.read_bytes()
    path.unlink()
    path.write_bytes(whole)


@all_stages("federate", "personalize")
def test_a_finished_run_with_a_damaged_file_is_put_back_or_made_again(bench: Bench, tmp_path: Path, stage: str) -> None:
    out = tmp_path / "run"
    shutil.copytree(bench.whole(stage), out)  # and so without links
    names = sorted(name for name in artefacts(out) if not name.startswith(KEPT))
    # Every file is damaged, in turn in another way; a record alone in all ways.
    harms = [(name, DAMAGES[place % 3]) for place, name in enumerate(names)]
    for name, damage in [*harms, *((("run.json", one) for one in DAMAGES) if stage == "federate" else ())]:
        unlink(out / name)
        damage(out / name)
        said = bench.finish(stage, out)
        assert f"{out / name}: " in said and "put back as it was kept" in said, (name, damage)
        unlink(out / name)
        damage(out / KEPT / name)
        assert "finished already" in bench.finish(stage, out), "and what was kept is so again"
        damage(out / name)
        damage(out / KEPT / name)
        said = bench.finish(stage, out)
        assert f"{out / name}: " in said and "running again" in said, (name, damage)
    (out / names[0]).unlink()
    assert "missing" in bench.finish(stage, out)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("stage", ["federate", "asynchronous"])
def test_a_damaged_checkpoint_means_starting_again(
    bench: Bench, tmp_path: Path, stage: str, damage: Callable[[Path], None]
) -> None:
    bench.server.run(bench.command(stage, tmp_path), Death(where="renamed", count=5))
    damage(tmp_path / "checkpoint.safetensors")
    said = bench.finish(stage, tmp_path)
    assert f"checkpoint {tmp_path / 'checkpoint.safetensors'}: cannot be read" in said and "starting again" in said


@pytest.mark.parametrize(
    ("stage", "name"),
    [
        ("federate", "data.npz"),
        ("federate", "partition.npz"),
        ("memorize", "semantics.npz"),
        ("memorize", "whole/asynchronous/state.safetensors"),
        ("memorize", "whole/asynchronous/run.json"),
        ("personalize", "whole/memorize/generator.safetensors"),
        ("personalize", "whole/memorize/run.json"),
    ],
)
def test_a_damaged_input_is_named_in_one_line_and_nothing_is_written(
    bench: Bench, tmp_path: Path, stage: str, name: str
) -> None:
    whole = (bench.folder / name).read_bytes()
    try:
        for damage in DAMAGES:
            (bench.folder / name).write_bytes(whole)
            damage(bench.folder / name)
            error = bench.server.run(bench.command(stage, tmp_path / "out")).error
            assert str(bench.folder / name) in error and ("again" in error or "correct" in error), (damage, error)
            assert not (tmp_path / "out").exists(), damage
    finally:
        (bench.folder / name).write_bytes(whole)


@all_stages("federate", "memorize")
def test_a_full_disk_ends_in_one_line_and_the_run_goes_on_when_there_is_room(
    bench: Bench, tmp_path: Path, stage: str
) -> None:
    with mounted(tmp_path / "disk"):
        out, filler, ends = tmp_path / "disk/run", tmp_path / "disk/filler", []
        for free in (0, 8 << 10, 64 << 10):
            fill(filler, free)
            end = bench.server.run(bench.command(stage, out))
            ends.append(end.status)
            if end.status:
                assert "cannot write" in end.error and "space" in end.error
                assert not parts(out) and not (out / "run.json").exists()
            filler.unlink()
        assert ends[0] == 2
        bench.finish(stage, out)


def test_a_full_disk_that_holds_the_log_too_ends_with_status_2(bench: Bench, tmp_path: Path) -> None:
    with mounted(tmp_path / "disk"):
        out, log = tmp_path / "disk/run", tmp_path / "disk/log"
        for free in (0, 4 << 10, 40 << 10):
            fill(tmp_path / "disk/filler", free)
            end = bench.server.run(bench.command("federate", out), log=log)
            assert end.status == 2 and "Traceback" not in end.said and not parts(out), end.said
            (tmp_path / "disk/filler").unlink()
        bench.finish("federate", out)


@all_stages("federate")
def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_computed(
    bench: Bench, tmp_path: Path, stage: str
) -> None:
    with mounted(tmp_path / "disk") as remount:
        out = tmp_path / "disk/run"
        bench.server.run(bench.command(stage, out), Death(where="written", count=2))
        before = artefacts(out)
        remount("ro")
        for folder in (out, tmp_path / "disk/new/run"):
            end = bench.server.run(bench.command(stage, folder))
            assert str(folder) in end.error and "choose another output folder" in end.error
            assert "round" not in end.said
        assert not differing(artefacts(out), before)
        remount("rw")
        bench.finish(stage, out)


def test_a_folder_without_permission_is_refused_in_one_line(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o555)
    for folder in (tmp_path / "run", tmp_path / "run/below"):
        error = bench.server.run(bench.command("federate", folder), humble=True).error
        assert str(folder) in error and "Permission denied" in error
    assert not list((tmp_path / "run").iterdir())


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A second server, which has started."""
    with served(tmp_path_factory.mktemp("other")) as server:
        server.run(["methods"])
        yield server


def test_the_second_process_in_a_folder_waits_and_has_nothing_to_do(
    bench: Bench, other: Server, tmp_path: Path
) -> None:
    command = bench.command("federate", tmp_path / "run")
    bench.server.start(command, Death(signal.SIGSTOP, where="renamed", count=5), log=tmp_path / "first.log")
    first = wait_for(tmp_path / "first.log", r"process (\d+)(?=.*round 5/)")
    other.start(command, log=tmp_path / "second.log")
    wait_for(tmp_path / "second.log", "(waiting)")
    os.kill(int(first), signal.SIGCONT)
    ends = [bench.server.finish(), other.finish()]
    assert [end.status for end in ends] == [0, 0], ends
    assert "waiting" not in ends[0].said and "nothing to do" in ends[1].said
    assert not differing(artefacts(tmp_path / "run"), artefacts(bench.whole("federate")))


def test_without_locks_two_processes_in_one_folder_end_in_the_same_right_files(
    bench: Bench, other: Server, tmp_path: Path
) -> None:
    command = bench.command("federate", tmp_path / "run")
    bench.server.start(command, locks=False)
    other.start(command, locks=False)
    ends = [bench.server.finish(), other.finish()]
    assert [end.status for end in ends] == [0, 0], ends
    # One may keep the other's checkpoint, of an earlier round, as the state that more rounds start from.
    found = differing(artefacts(tmp_path / "run"), artefacts(bench.whole("federate")))
    assert set(found) <= {".kept/checkpoint.safetensors"}


def test_who_waits_goes_on_where_the_other_one_was_killed(bench: Bench, other: Server, tmp_path: Path) -> None:
    command = bench.command("federate", tmp_path / "run")
    bench.server.start(command, Death(signal.SIGSTOP, where="renamed", count=5), log=tmp_path / "first.log")
    first = wait_for(tmp_path / "first.log", r"process (\d+)(?=.*round 5/)")
    other.start(command, log=tmp_path / "second.log")
    wait_for(tmp_path / "second.log", "(waiting)")
    os.kill(int(first), signal.SIGKILL)
    assert bench.server.finish().status == -signal.SIGKILL
    end = other.finish()
    assert end.status == 0 and "round 6/" in end.said and "round 5/" not in end.said
    assert not differing(artefacts(tmp_path / "run"), artefacts(bench.whole("federate")))


def test_a_clock_that_is_wrong_changes_nothing(bench: Bench, tmp_path: Path) -> None:
    out = tmp_path / "run"
    bench.server.run(bench.command("federate", out), Death(where="renamed", count=5))
    for path in (*out.iterdir(), out, bench.folder / "data.npz"):
        os.utime(path, (time.time() + DAY, time.time() + DAY))
    end = bench.server.run(bench.command("federate", out), clock=-DAY)
    assert end.status == 0 and "round 6/" in end.said and "round 5/" not in end.said
    assert not differing(artefacts(out), artefacts(bench.whole("federate")))
    for path in out.iterdir():
        os.utime(path, (0, 0))
    assert "nothing to do" in bench.finish("federate", out)


@pytest.mark.parametrize(
    "where", [pytest.param(one, marks=pytest.mark.slow) if one != "torn" else one for one in WHERE]
)
def test_ctrl_c_ends_a_run_without_a_trace(bench: Bench, tmp_path: Path, where: str) -> None:
    end = bench.server.run(bench.command("federate", tmp_path), Death(signal.SIGINT, where=where, count=5))
    assert end.status in (1, 130) and "Traceback" not in end.said
    assert where == "created" or not parts(tmp_path)
    assert "round 1/" not in bench.finish("federate", tmp_path)


def test_files_of_tomorrow_are_dated_back_and_no_others(tmp_path: Path) -> None:
    now = time.time()
    for name, age in (("old", DAY), ("new", -DAY), ("below", -1)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(b"")
        os.utime(tmp_path / name / "file", (now - age, now - age))
    (tmp_path / "new/link").symlink_to("nowhere")
    assert date_back(tmp_path, now + 0.5) == 2
    times = {name: (tmp_path / name / "file").stat().st_mtime for name in ("old", "new", "below")}
    assert times == {"old": pytest.approx(now - DAY, abs=0.1), "new": pytest.approx(now + 0.5, abs=0.1)} | {
        "below": pytest.approx(now + 0.5, abs=0.1)
    }


def test_the_locks_of_a_killed_snakemake_are_removed_by_its_successor_alone(tmp_path: Path) -> None:
    script = "import sys, time; from apfl.jobs.before import clear_stale_locks; clear_stale_locks(sys.argv[1]); "
    state, stale = tmp_path / ".snakemake", tmp_path / ".snakemake/locks/0.output.lock"

    def begin(more: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", script + more, str(state)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})

    first = begin("print('alive', flush=True); time.sleep(600)")
    assert first.stdout.readline() == "alive\n"
    stale.parent.mkdir()
    stale.write_text("results\n")
    assert begin("").wait(timeout=60) == 0 and stale.exists(), "its owner is alive"
    first.kill()
    first.wait()
    first.stdout.close()
    here = (state / "host").read_text()
    (state / "host").write_text("another machine")
    assert begin("").wait(timeout=60) == 0 and stale.exists(), "its owner may be alive elsewhere"
    (state / "host").write_text(here)
    assert begin("").wait(timeout=60) == 0 and not stale.exists()


def test_what_was_abandoned_is_removed_and_what_is_being_written_is_not(tmp_path: Path) -> None:
    handle, written = open_part(tmp_path / "metrics.parquet")
    (tmp_path / ".checkpoint.safetensors.abandoned.part").write_bytes(b"half")
    with alone_in(tmp_path):
        assert parts(tmp_path) == {written}
    os.close(handle)
    with alone_in(tmp_path):
        assert not parts(tmp_path)
