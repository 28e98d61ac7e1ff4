"""A copy of the project in which Snakemake is run on a tiny study."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from apfl.registry.trees import ROOT
from tests.helpers import forked
from tests.helpers.studies import tiny

BIN = Path(sys.executable).parent


PARTS = (
    "Snakefile", "environment.yml", "environment.post-deploy.sh", "pyproject.toml",
    "apfl", "baselines", "workflow", "profiles", "config",
)  # fmt: skip


STUDY = tiny(paper=True, figures={"figure4": {"panels": {"digits": "dirichlet-alpha0.1"}, "clients": 3}})


RUNS = Path("results/tiny/runs/digits/dirichlet-alpha0.1-clients3")


TABLE = Path("results/tiny/tables/table2.csv")


class Project:
    """A copy of the project in which edits hurt nobody, with the tiny study in place of the demo."""

    def __init__(self, root: Path, study: dict[str, Any] | None = None) -> None:
        """Without a study, one that is there."""
        self.root = root
        if study is None:
            return
        root.mkdir(exist_ok=True)
        for name in PARTS:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, root / name)
        self.configure(study)

    def configure(self, study: dict[str, Any]) -> None:
        (self.root / "config/demo.yaml").write_text(yaml.safe_dump(study, sort_keys=False))

    def run(
        self, *command: str, path: str = f"{BIN}:{os.environ['PATH']}", root: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """A command in the project; ``root`` is the folder of real data, of which there need be none."""
        environment = os.environ | {"PATH": path, "APFL_DATA_ROOT": root, "APFL_SEMANTICS_ROOT": root}
        return forked.run(command, self.root, environment, timeout=500)

    def succeed(self, *command: str, **options: str) -> subprocess.CompletedProcess[str]:
        """`run`, of what must end well."""
        done = self.run(*command, **options)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    def plan(self, *arguments: str) -> dict[str, int]:
        """How many jobs of each rule would run."""
        done = self.succeed("snakemake", "--dry-run", *arguments)
        stats = re.search(r"^job +count\n[- ]+\n(.*?)^total", done.stdout + done.stderr, re.MULTILINE | re.DOTALL)
        rows = (line.split() for line in stats[1].splitlines()) if stats else ()
        return {name: int(count) for name, count in rows if name != "all"}

    @contextmanager
    def edited(self, name: str, old: str, new: str) -> Iterator[None]:
        """The project with a file edited; afterwards it is as it was, times included."""
        path, times = self.root / name, (self.root / name).stat()
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
        try:
            yield
        finally:
            path.write_text(text)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
