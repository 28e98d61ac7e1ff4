"""Cards are read from files, never by running them."""

from __future__ import annotations

import sys
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path
from textwrap import dedent

import pytest

from apfl.errors import UserError
from apfl.federation.asynchronous import is_additive
from apfl.registry.cards import card, check_values, methods, parameters_of
from apfl.registry.trees import ROOT

METHODS = sorted(methods())


FILES = {
    "apfl/__init__.py": "",
    "baselines/__init__.py": "",
    "apfl/engine/networks.py": "LAYERS = 2",
    "apfl/federation/method.py": """
        from typing import ClassVar
        from apfl.engine.networks import LAYERS
        class Method:
            stage: ClassVar[str] = "federate"
            model: ClassVar[str] = "global"
            needs: ClassVar[tuple] = ()
    """,
    "baselines/parent.py": """
        '''The parent.

        More.'''
        from dataclasses import dataclass
        from apfl.federation.method import Method
        @dataclass(frozen=True)
        class Parent(Method):
            '''
            :param mu: weight of
                the term.
            '''
            mu: float = 1
            steps: int = 3  # how many
            title = "Parent"
        METHOD = Parent
    """,
    "baselines/child.py": """
        "A child."
        from dataclasses import dataclass
        from baselines.parent import Parent
        @dataclass(frozen=True)
        class Child(Parent):
            mu: float = -0.5
            title = "Child"
            needs = ("proxy",)
        METHOD = Child
    """,
    "baselines/heavy.py": """
        "A method for which something is not installed."
        import a_package_that_nobody_has
        from apfl.federation.method import Method
        class Heavy(Method):
            title = "Heavy"
        METHOD = Heavy
    """,
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A project of three methods: `child` derives from `parent`, and `heavy` cannot be imported."""
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(dedent(text))
    return tmp_path


def test_a_card_holds_the_facts_and_hyper_parameters_of_its_class_and_of_the_classes_it_derives_from(
    tree: Path,
) -> None:
    child = card("child", tree)
    assert (child.title, child.stage, child.model, child.needs) == ("Child", "federate", "global", ("proxy",))
    assert {name: (field.type, field.default) for name, field in child.fields.items()} == {
        "mu": ("float", -0.5),
        "steps": ("int", 3),
    }
    assert card("parent", tree).fields["mu"].doc == "weight of the term."
    assert card("parent", tree).fields["steps"].doc == "how many"
    assert card("parent", tree).summary == "The parent."


def test_a_method_whose_imports_are_missing_can_still_be_listed(tree: Path) -> None:
    assert sorted(methods(tree)) == ["child", "heavy", "parent"]


@pytest.mark.parametrize("module", METHODS)
def test_the_card_of_every_method_agrees_with_its_class(module: str) -> None:
    kind = import_module(f"baselines.{module}").METHOD
    read = card(module)
    assert is_dataclass(kind) and kind.__dataclass_params__.frozen
    assert {field.name: field.default for field in fields(kind)} == {
        name: field.default for name, field in read.fields.items()
    }
    assert (read.title, read.stage, read.model, read.needs) == (kind.title, kind.stage, kind.model, kind.needs)
    assert read.base == getattr(kind, "base", "")
    assert read.summary and all(field.doc for field in read.fields.values()), "explain every hyper-parameter"


UPDATED = """
    "Another update."
    from typing import ClassVar
    from dataclasses import dataclass
    from apfl.federation.method import streaming
    from baselines.fedavg import FedAvg
    class Middle:
        {middle}
    @dataclass(frozen=True)
    class Mine({bases}):
        title: ClassVar[str] = "Mine"
        {body}
    METHOD = Mine
"""
UPDATE = "def server_update(self, state, problem, round, results): return state"


@pytest.mark.parametrize(
    ("middle", "bases", "body", "additive"),
    [
        ("pass", "FedAvg", "pass", True),
        ("pass", "FedAvg", UPDATE, False),
        ("pass", "FedAvg", f"@streaming\n        {UPDATE}", False),
        ("pass", "FedAvg", "server_update = lambda *_: {}", False),
        ("pass", "FedAvg", f"additive: ClassVar[bool] = True\n        {UPDATE}", True),
        ("pass", "FedAvg", f"additive = {{'mu': 0.0}}\n        mu: float = 0.0\n        {UPDATE}", True),
        (UPDATE, "Middle, FedAvg", "pass", False),
        (UPDATE, "FedAvg, Middle", "pass", True),
    ],
)
def test_additive_is_said_anew_of_another_server_update(tmp_path: Path, middle, bases, body, additive) -> None:
    text = dedent(UPDATED).format(middle=middle, bases=bases, body=body.replace("\n        ", "\n    "))
    for name in ("fedavg.py", "__init__.py"):
        (tmp_path / "baselines").mkdir(exist_ok=True)
        (tmp_path / "baselines" / name).write_text((ROOT / "baselines" / name).read_text())
    (tmp_path / "apfl/federation").mkdir(parents=True)
    for name in ("__init__.py", "federation/__init__.py", "federation/method.py"):
        (tmp_path / "apfl" / name).write_text((ROOT / "apfl" / name).read_text())
    (tmp_path / "baselines/mine.py").write_text(text)
    assert card("mine", tmp_path).is_additive({}) is additive
    namespace: dict = {"__name__": "mine"}
    sys.modules["mine"] = type(sys)("mine")
    exec(compile(text, "mine.py", "exec"), namespace)
    assert is_additive(namespace["METHOD"]()) is additive, "a run takes it as the study's check does"


def test_the_generator_s_hyper_parameters_are_read_like_a_method_s() -> None:
    from apfl.memorization.generator import GeneratorConfig

    read = parameters_of("apfl.memorization.generator", "GeneratorConfig")
    assert {name: field.default for name, field in read.items()} == {
        field.name: field.default for field in fields(GeneratorConfig)
    }


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("x = 1\n", "does not name a method"),
        ("class A:\n    title = 'A'\n\n\nMETHOD = A\n", "has no stage"),
        ("METHOD = Missing\n", "has no class Missing"),
        ("class A:\n    stage = 'serve'; title = 'A'; model = 'global'\n\n\nMETHOD = A\n", "'serve'"),
        ("class A:\n    beta: list = []\n\n\nMETHOD = A\n", "type list"),
        ("class A:\n    beta: float = f()\n\n\nMETHOD = A\n", "no literal default"),
        ("def broken(:\n", "line 1"),
    ],
)
def test_a_file_that_is_no_method_is_refused_in_one_line(tree: Path, text: str, problem: str) -> None:
    (tree / "baselines/new.py").write_text(text)
    with pytest.raises(UserError, match=problem) as error:
        card("new", tree)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("module", ["nothing", "../errors", "__init__", ""])
def test_an_unknown_method_is_refused_with_the_known_ones(module: str) -> None:
    with pytest.raises(UserError, match=r"choose from .*fedavg"):
        card(module)


def test_a_hyper_parameter_of_the_wrong_name_or_type_is_refused(tree: Path) -> None:
    fields = card("parent", tree).fields
    assert check_values(fields, {"mu": 2}, "methods.parent") == {"mu": 2.0}
    for values, problem in (
        ({"nu": 1}, "known: mu, steps"),
        ({"steps": 1.5}, "not of type int"),
        ({"steps": True}, "not of type int"),
        ({"mu": "1e-3"}, "write 1.0e-3"),
    ):
        with pytest.raises(UserError, match=problem):
            check_values(fields, values, "methods.parent")
