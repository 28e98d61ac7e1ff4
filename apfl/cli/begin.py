"""``apfl init``: a folder in which `snakemake` runs a study of its own, with the installed workflow."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

SNAKEFILE = """\
from apfl.project import SNAKEFILE


configfile: "config/config.yaml"


module apfl_bench:
    snakefile:
        SNAKEFILE
    config:
        config


use rule * from apfl_bench


onstart:
    apfl_bench.onstart()


onsuccess:
    apfl_bench.onsuccess()


onerror:
    apfl_bench.onerror()
"""
TAKEN = ("config/config.yaml", "profiles/default/config.yaml")
"""What the folder gets of the project's own files."""


def init(folder: Annotated[Path, typer.Argument(help="The folder, which is created if it does not exist.")]) -> None:
    """Create a folder for a study of your own: a Snakefile, a minimal study to edit, and settings for Snakemake.

    In that folder, `snakemake` runs the study in config/config.yaml. No existing file is overwritten.
    """
    from apfl.errors import UserError
    from apfl.project import home

    texts = {"Snakefile": SNAKEFILE} | {name: (home() / name).read_text(encoding="utf-8") for name in TAKEN}
    if there := [name for name in texts if os.path.lexists(folder / name)]:
        raise UserError(f"{folder / there[0]}: is there already; name another folder, or remove it")
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    print(f"{folder}: next, cd {shlex.quote(str(folder))} && snakemake; the study is config/config.yaml")
