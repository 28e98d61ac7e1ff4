"""What a GPU is to show, in ten minutes at most: ``python -m benchmarks.gpu``, or ``make bench-gpu``.

Steps follow each other, each within its share of the time; one that fails or is cut short leaves the others their turn.
What they print goes to ``build/gpu/``, and the summary, one line a step, to the terminal and to
``build/gpu/summary.json``. The figures are added to docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from apfl.study.runs import gpus
from benchmarks import performance

PYTHON = sys.executable
LIMIT = 600.0
STUDY = "config/paper_scale.yaml"
FIGURES = Path("build/gpu/figures.json")


@dataclass(frozen=True)
class Part:
    """A step: its command, and the share of the time that is left when it begins which it may take."""

    name: str
    command: tuple[str, ...]
    share: float


PARTS = (
    Part("tests", (PYTHON, "-m", "pytest", "-q", "tests/engine/test_stack.py", "tests/stages/test_several.py"), 0.25),
    Part(
        "figures",
        (PYTHON, "-m", "pytest", "benchmarks/bench_gpu.py", "-o", "python_files=bench_*.py", "-o",
         "python_functions=bench_*", "--benchmark-json", str(FIGURES)),
        0.7,
    ),
    # The runs go on from their checkpoints, here and wherever results/ is taken.
    Part("runs at the paper's scale", ("snakemake", f"--configfile={STUDY}", "--config", "one_job_per=cell"), 1.0),
)  # fmt: skip


@dataclass(frozen=True)
class Done:
    """What became of a step: "passed", "failed" or "cut short", and how long it took, in seconds."""

    name: str
    state: str
    seconds: float


def carry_out(
    parts: Sequence[Part], out: Path, limit: float = LIMIT, now: Callable[[], float] = time.monotonic
) -> list[Done]:
    """The steps in their order, within ``limit`` seconds."""
    out.mkdir(parents=True, exist_ok=True)
    end, found = now() + limit, list[Done]()
    for number, part in enumerate(parts, 1):
        began = now()
        state = _run(part.command, out / f"{number}.log", max(0.0, part.share * (end - began)))
        found.append(Done(part.name, state, now() - began))
        print(f"{part.name}: {state} after {found[-1].seconds:.0f} s (log: {out / f'{number}.log'})", flush=True)
    (out / "summary.json").write_text(json.dumps([asdict(one) for one in found], indent=2) + "\n")
    return found


def _run(command: Sequence[str], log: Path, patience: float) -> str:
    """Run a command in a session of its own, so that it is ended with all that it has started."""
    with log.open("w") as stream:
        try:
            process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True)
        except OSError as error:
            stream.write(f"{error}\n")
            return "failed"
        try:
            return "passed" if process.wait(patience) == 0 else "failed"
        except subprocess.TimeoutExpired:
            # Interrupted, pytest writes down what it has measured, and Snakemake ends its jobs.
            for sent, more in ((signal.SIGINT, 20.0), (signal.SIGTERM, 5.0), (signal.SIGKILL, None)):
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, sent)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(more)
                    break
            return "cut short"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds for all of it")
    given = parser.parse_args()
    if not gpus():
        raise SystemExit("no GPU answers here (nvidia-smi --list-gpus): run this on a machine that has one")
    if not torch.cuda.is_available():
        raise SystemExit("torch sees no GPU here: install a torch that this machine's driver is new enough for")
    FIGURES.unlink(missing_ok=True)
    done = carry_out(PARTS, FIGURES.parent, given.limit)
    if FIGURES.exists() and FIGURES.read_text():
        performance.main(FIGURES, add=True)
    raise SystemExit(any(one.state == "failed" for one in done))


if __name__ == "__main__":
    main()
