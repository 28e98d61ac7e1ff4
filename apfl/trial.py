"""A study's values are tried out before its workflow, but only once: that they passed is kept until the study or the
code changes.

Whether mu may be -1, or a network has such an option, only the code can say that is going to run, and importing it
takes seconds. Planning a workflow is done again and again.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from apfl.artifacts import digest
from apfl.config import Study
from apfl.errors import UserError
from apfl.registry import ROOT, code_digest

FAILED = "apfl: error: "
STATUS = 2


def try_once(study: Study, text: str, kept: Path) -> None:
    """Run `apfl check` on a study, whose configuration is the JSON ``text``, unless ``kept`` has a note that it passed.

    A `UserError` if it does not pass. Where it cannot be run at all, as the packages of the jobs are in environments of
    their own, nothing is said: a job will find out.
    """
    cards = sorted({method.card.module for method in study.methods.values() if method.card.stage != "external"})
    code = code_digest("apfl.stages.dry", *(f"baselines.{module}" for module in cards))
    note = kept / digest([text, code])
    if note.exists():
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "study.json"
        path.write_text(text, encoding="utf-8")
        roots = {"APFL_DATA_ROOT": study.data_root, "APFL_SEMANTICS_ROOT": study.semantics_root}
        paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        command = [sys.executable, "-m", "apfl", "check", str(path)]
        done = subprocess.run(
            command, env=os.environ | roots | {"PYTHONPATH": paths}, capture_output=True, text=True, errors="replace"
        )
    if done.returncode == STATUS and done.stderr.startswith(FAILED):
        raise UserError(done.stderr.removeprefix(FAILED).replace(f"{path}: ", "").strip())
    if done.returncode == 0:
        with suppress(OSError):  # where nothing can be kept, it is tried out again
            kept.mkdir(parents=True, exist_ok=True)
            note.touch()
