"""What is prepared for a GPU works on a CPU: the ways to take a step agree, and the steps keep to their time."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from apfl.engine.device import Engine
from benchmarks import bench_gpu, gpu
from benchmarks.gpu import Part, carry_out
from benchmarks.measuring import Record
from benchmarks.stack_ways import Setting, ways
from benchmarks.suites import common

SMALL = Setting(3, 4, "cpu", network=(("name", "cnn"), ("width", 4)))


def test_all_ways_take_the_same_steps() -> None:
    found = {name: torch.stack([step() for step in [make()] * 3]) for name, make in ways(SMALL).items()}
    usual = found["one after another, fp32"]
    assert usual.shape == (3, 3) and (usual[2] < usual[0]).all(), "each model learns its own batch"
    for name, losses in found.items():
        assert torch.allclose(losses.float(), usual, atol=1e-5 if "fp32" in name else 0.05), name


def test_figures_of_the_ways_and_of_the_agreement_are_recorded(tmp_path: Path) -> None:
    record = Record({})
    benchmark = SimpleNamespace(pedantic=lambda function, rounds: function())
    bench_gpu.step_by_step(benchmark, record, lambda what, why: pytest.fail(why), SMALL, 1)
    common.write(tmp_path / "federation.npz", clients=3, images=12)
    own = bench_gpu.problems(common.load(tmp_path / "federation.npz"), 2, 1, Engine(stack=64))
    assert 0 <= bench_gpu.agreement(record, own) < 0.01
    assert len(record.info["figures"]) == len(ways(SMALL)) + 1
    assert all(row["value"] > 0 for row in record.info["figures"][:-1])


def test_a_way_that_fails_is_left_out_and_the_others_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(bench_gpu, "ways", lambda setting: {"bad, bf16": fails} | ways(setting))
    record, left_out = Record({}), list[tuple[str, str]]()
    benchmark = SimpleNamespace(pedantic=lambda function, rounds: function())
    bench_gpu.step_by_step(benchmark, record, lambda *said: left_out.append(said), SMALL, 1)
    assert left_out == [("bad, bf16, a step", "failed: no compiler")]
    assert len(record.info["figures"]) == len(ways(SMALL))


def test_all_that_is_trained_on_stands_on_the_engine_s_device(tmp_path: Path) -> None:
    common.write(tmp_path / "federation.npz", clients=3, images=12)
    engine = Engine(torch.device("meta"), stack=64)
    for problem in bench_gpu.problems(common.load(tmp_path / "federation.npz"), 2, 1, engine):
        images = problem.images
        held = (images.pixels, images.labels, images.mean, images.std, problem.counts, problem.unseen)
        parts = (*held, *problem.train, *problem.test, *problem.start.values())
        assert {part.device for part in parts} == {engine.device}


def test_a_part_that_is_cut_short_is_interrupted_and_may_write_down_what_it_has(tmp_path: Path) -> None:
    program = "import time\ntry: print('began', flush=True), time.sleep(60)\nexcept KeyboardInterrupt: print('kept')"
    parts = [Part("slow", (sys.executable, "-c", program), 0.5)]
    assert [one.state for one in carry_out(parts, tmp_path, limit=10)] == ["cut short"]
    assert (tmp_path / "1.log").read_text() == "began\nkept\n"


def test_a_part_whose_program_is_not_there_has_failed(tmp_path: Path) -> None:
    done = carry_out([Part("none", ("no-such-program",), 0.5), Part("good", ("true",), 1.0)], tmp_path, limit=20)
    assert [one.state for one in done] == ["failed", "passed"] and "no-such-program" in (tmp_path / "1.log").read_text()


def test_a_part_that_fails_or_takes_too_long_leaves_the_others_their_turn(tmp_path: Path) -> None:
    def part(name: str, program: str, share: float) -> Part:
        return Part(name, (sys.executable, "-c", program), share)

    sleeper = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    parts = [part("wrong", "raise SystemExit(3)", 0.5), part("slow", sleeper, 0.2), part("good", "print('yes')", 1.0)]
    began = time.monotonic()
    done = carry_out(parts, tmp_path / "out", limit=20)
    assert [one.state for one in done] == ["failed", "cut short", "passed"] and time.monotonic() - began < 20
    assert (tmp_path / "out/3.log").read_text() == "yes\n"
    assert [one["name"] for one in json.loads((tmp_path / "out/summary.json").read_text())] == ["wrong", "slow", "good"]


@pytest.mark.parametrize(("answer", "said"), [(0, "no GPU answers here"), (1, "torch sees no GPU here")])
def test_without_a_gpu_nothing_is_begun(monkeypatch: pytest.MonkeyPatch, answer: int, said: str) -> None:
    monkeypatch.setattr(gpu, "gpus", lambda: answer)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu"])
    monkeypatch.setattr(gpu, "carry_out", lambda *given: pytest.fail("it was begun"))
    with pytest.raises(SystemExit, match=said):
        gpu.main()
