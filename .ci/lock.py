"""Write locks/: every package with its version and the hashes of its files, for Python 3.11 and newer: ``make lock``.

Versions that results/reference was made with are kept; the others are the newest that fit. `core.txt` has what the demo
needs, `full.txt` all extras beside it; both have what an installation of the suite itself is built with.
"""

from __future__ import annotations

import json
import subprocess
import tomllib
from pathlib import Path

from apfl.jobs.archive import contents

ROOT = Path(__file__).resolve().parents[1]
COMPILE = (
    "uv",
    "pip",
    "compile",
    "--quiet",
    "--universal",
    "--generate-hashes",
    "--python-version",
    "3.11",
    "--upgrade",
)
HEADER = ("--custom-compile-command", "make lock")


def of_the_reference() -> list[str]:
    """The versions that the runs of the reference name, where they agree."""
    versions: dict[str, set[str]] = {}
    for name, text in contents(ROOT / "results/reference").items():
        if name.endswith("run.json"):
            for package, version in json.loads(text)["versions"].items():
                versions.setdefault(package, set()).add(version)
    return [f"{name}=={found.pop()}" for name, found in sorted(versions.items()) if len(found) == 1]


def lock(name: str, constraints: list[str], *options: str) -> Path:
    """Write one file of locks/, and return its path."""
    built_with = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
    out = ROOT / "locks" / name
    out.parent.mkdir(exist_ok=True)
    (ROOT / "build").mkdir(exist_ok=True)
    for file, lines in (("constraints.txt", constraints), ("build.in", [*built_with, "editables"])):
        (ROOT / "build" / file).write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = [*COMPILE, *HEADER, "pyproject.toml", "build/build.in", *options, "--constraint", "build/constraints.txt"]
    subprocess.run([*command, "--output-file", str(out)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return out


if __name__ == "__main__":
    kept = [line for line in of_the_reference() if not line.startswith("apfl-bench")]
    lock("core.txt", kept)
    lock("full.txt", kept, "--all-extras")
