"""The documentation says what the code does."""

from __future__ import annotations

import importlib.util
import inspect
import re
import subprocess
import sys

import pandas as pd
import pytest
import torch
import yaml

from apfl.data.setting import EXAMPLES
from apfl.engine.networks import NETWORKS, build_network
from apfl.federation.synchronous import run
from apfl.registry.cards import methods
from apfl.registry.trees import ROOT
from tests.helpers.commands import files_of
from tests.helpers.problems import equal, tiny_problem
from tests.pictures import rule_arrows

PAGES = sorted(
    [*ROOT.glob("docs/**/*.md"), *ROOT.glob("*.md"), ROOT / "config/README.md", *ROOT.glob("results/*/README.md")]
)


def test_the_methods_page_is_what_the_command_prints() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "apfl", "methods", "--markdown"], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    assert (ROOT / "docs" / "methods.md").read_text() == printed, "run: apfl methods --markdown > docs/methods.md"


def test_every_method_has_a_reference_and_every_hyper_parameter_an_explanation() -> None:
    for card in methods().values():
        assert card.summary, card.module
        assert all(field.doc for field in card.fields.values()), card.module


def test_the_method_of_the_tutorial_works_as_it_stands() -> None:
    code = files_of(ROOT / "docs" / "adding-a-method.md")["fedfoo.py"]
    namespace: dict = {"__name__": "fedfoo"}
    sys.modules["fedfoo"] = type(sys)("fedfoo")
    exec(compile(code, "fedfoo.py", "exec"), namespace)
    problem = tiny_problem(rounds=1)
    still, whole = namespace["METHOD"](strength=0.0), namespace["METHOD"](strength=1.0)
    assert equal([*run(still, problem)][-1].state["global"], problem.start)
    assert not equal([*run(whole, problem)][-1].state["global"], problem.start)


def test_the_networks_of_the_page_on_networks_work_as_they_stand(monkeypatch) -> None:
    page = (ROOT / "docs" / "networks.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    asked = re.findall(r'^network: (\{name: "mine.*\})$', page, re.MULTILINE)
    assert len(blocks) == len(asked) == 2
    for code, line in zip(blocks, asked, strict=True):
        mine = type(sys)("mine")
        exec(compile(code, "mine.py", "exec"), vars(mine))
        monkeypatch.setitem(sys.modules, "mine", mine)
        network = build_network(yaml.safe_load(line), channels=3, classes=10)
        assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_the_table_of_networks_has_the_parameters_and_defaults_of_each() -> None:
    page = (ROOT / "docs" / "networks.md").read_text()
    for name, network in NETWORKS.items():
        (row,) = re.findall(rf"^\| `{name}`.*$", page, re.MULTILINE)
        options = [*inspect.signature(network).parameters.values()][2:]
        assert all(f"`{option.name}` ({option.default})" in row for option in options), name
    count = sum(value.numel() for value in build_network({"name": "cnn"}, channels=3, classes=10).parameters())
    assert f"{count:,} parameters" in page


def test_the_page_on_partitions_names_every_kind() -> None:
    page = (ROOT / "docs" / "partitions.md").read_text()
    assert {kind.split("-")[0] for kind in re.findall(r"^\| `([\w.-]+)` \|", page, re.MULTILINE)} == set(EXAMPLES)


def test_the_picture_of_the_rules_has_every_arrow_of_the_workflow() -> None:
    drawn = (ROOT / "docs" / "images" / "rulegraph.svg").read_text()
    assert set(re.findall(r'id="(\w+-\w+)"', drawn)) == {"-".join(arrow) for arrow in rule_arrows()}


def test_every_page_is_on_the_site() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    # What is for those who work in the repository is read there.
    shown = {str(page.relative_to(ROOT)) for page in PAGES if page.parent == ROOT / "docs"} | {"README.md"}
    assert shown <= set(re.findall(r"[\w./-]+\.md", str(site["nav"])))


def test_every_module_of_the_pages_on_the_api_exists() -> None:
    named = [
        name for page in (ROOT / "docs/api").glob("*.md") for name in re.findall(r"^::: (\S+)", page.read_text(), re.M)
    ]
    assert named and not [name for name in named if importlib.util.find_spec(name) is None]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_and_link_that_a_page_names_exists(page) -> None:
    text = page.read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if not link.startswith("http")]
    missing = [link for link in links if not (page.parent / link).exists()]
    named = re.findall(r"`((?:apfl|baselines|tests|workflow|config|docs)/[\w./-]+\.\w+)`", text)
    missing += [name for name in named if not re.search("fedfoo|fedavgm", name) and not (ROOT / name).exists()]
    assert not missing


def test_the_baselines_are_in_order_on_real_images() -> None:
    mean = pd.read_csv(ROOT / "docs" / "measurements" / "check.csv").groupby(["method", "model"]).mean()
    assert 0.42 < mean.loc[("FedAvg", "global"), "pooled"] < 0.54
    assert 0.20 < mean.loc[("Local", "local"), "pooled"] < 0.32
    assert mean.loc[("FedAvg", "local"), "own_plain"] > 0.78
    for method in ("FedProx", "SCAFFOLD", "FedDF"):
        assert abs(mean.loc[(method, "global"), "pooled"] - mean.loc[("FedAvg", "global"), "pooled"]) < 0.08, method
