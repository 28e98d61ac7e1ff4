"""The wheel outside a checkout: what it carries, that it needs no package which it does not name, and that it works."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from typer.testing import CliRunner

from apfl.cli import register
from apfl.jobs.before import code_alone
from apfl.project import CODE, home
from apfl.registry.trees import ROOT


def test_in_a_checkout_the_workflow_lies_beside_the_code() -> None:
    assert home() == CODE == ROOT and code_alone() == str(ROOT)


def test_in_a_wheel_it_lies_within_the_package_and_jobs_see_only_the_suite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = tmp_path / "site-packages/apfl/share"
    inside.mkdir(parents=True)
    (tmp_path / "site-packages/baselines").mkdir()
    (tmp_path / "site-packages/torch").mkdir()
    assert home(tmp_path / "site-packages") == inside
    monkeypatch.setattr("apfl.jobs.before.ROOT", tmp_path / "site-packages")
    for _ in range(2):
        folder = Path(code_alone(tmp_path / ".snakemake"))
        assert {path.name for path in folder.iterdir()} == {"apfl", "baselines"}
        assert (folder / "apfl").resolve() == inside.parent


def test_init_writes_a_folder_once(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    done = CliRunner().invoke(register(), ["init", str(folder)])
    assert done.exit_code == 0, done.output
    written = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert written == {"Snakefile", "config/config.yaml", "profiles/default/config.yaml"}
    (folder / "config/config.yaml").write_text("name: mine\n")
    (folder / "Snakefile").unlink()
    again = CliRunner().invoke(register(), ["init", str(folder)])
    assert "is there already" in str(again.exception) and not (folder / "Snakefile").exists()
    assert (folder / "config/config.yaml").read_text() == "name: mine\n"
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/Snakefile").symlink_to(tmp_path / "elsewhere")
    linked = CliRunner().invoke(register(), ["init", str(tmp_path / "linked")])
    assert "is there already" in str(linked.exception) and not (tmp_path / "elsewhere").exists()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source archive, which is built from this folder; both pass `twine check`."""
    out = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "--outdir", str(out), str(ROOT)], check=True, capture_output=True)
    built = sorted(out.iterdir())
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *map(str, built)], check=True)
    (found,) = (path for path in built if path.suffix == ".whl")
    return found


def needed(requirements: list[str], extras: frozenset[str] = frozenset()) -> dict[str, frozenset[str]]:
    """The distributions that requirements bring with them, transitively, each with its extras."""
    found: dict[str, frozenset[str]] = {}
    waiting = [(text, extras) for text in requirements]
    while waiting:
        text, chosen = waiting.pop()
        asked = Requirement(text)
        if asked.marker and not any(asked.marker.evaluate({"extra": extra}) for extra in (*chosen, "")):
            continue
        name, wanted = canonicalize_name(asked.name), frozenset(asked.extras)
        if name in found and wanted <= found[name]:
            continue
        found[name] = found.get(name, frozenset()) | wanted
        try:
            waiting += [(line, found[name]) for line in distribution(name).requires or ()]
        except PackageNotFoundError:
            raise AssertionError(f"{text} is asked for, and not installed here") from None
    return found


@pytest.fixture(scope="module")
def machine(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment as `pip install` of the wheel makes it: of the packages here it has those that the wheel brings
    with it, as links, so that nothing is loaded down."""
    folder = tmp_path_factory.mktemp("machine")
    venv.create(folder, with_pip=False)
    site = folder / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = archive.read(metadata).decode().split("\n\n")[0].splitlines()
    requirements = [line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist: ")]
    here = Path(sysconfig.get_path("purelib"))
    for name in needed(requirements):
        for top in {file.parts[0] for file in distribution(name).files or () if file.parts[0] != ".."}:
            if top != "__pycache__" and (here / top).exists() and not (site / top).exists():
                (site / top).symlink_to(here / top)
    for command, module in (("apfl", "apfl.cli"), ("snakemake", "snakemake.cli")):
        script = folder / "bin" / command
        script.write_text(f"#!{folder}/bin/python\nfrom {module} import main\nmain()\n")
        script.chmod(0o755)
    return folder


@pytest.mark.slow
def test_the_wheel_carries_the_workflow_and_nothing_of_the_tests(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    tracked = subprocess.run(["git", "ls-files", "workflow", "config", "profiles", "environment.yml"], cwd=ROOT,
                             capture_output=True, text=True)  # fmt: skip
    assert {f"apfl/share/{name}" for name in tracked.stdout.split()} <= names
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"apfl", "baselines"}


@pytest.mark.slow
def test_in_an_empty_folder_the_installed_wheel_makes_the_page_of_the_smallest_study(
    machine: Path, tmp_path: Path
) -> None:
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment = kept | {"PATH": f"{machine}/bin:/usr/bin:/bin", "APFL_DATA_ROOT": "", "APFL_SEMANTICS_ROOT": ""}
    done = subprocess.run(["bash", "-c", "apfl init x && cd x && snakemake"], cwd=tmp_path, env=environment,
                          capture_output=True, text=True, timeout=900)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    results = tmp_path / "x/results/first"
    assert "AP-FL" in (results / "report.html").read_text()
    rows = list(csv.DictReader((results / "tables/table2.csv").open()))
    assert {row["title"] for row in rows if row["status"] == "ok"} >= {"Local", "FedAvg", "AP-FL"}
