"""Cards and code digests are read from files, never by running them."""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path
from textwrap import dedent

import pytest

from apfl.errors import UserError
from apfl.registry import ROOT, _fingerprint, card, check_values, code_digest, imported_modules, methods, parameters_of

METHODS = sorted(methods())


FILES = {
    "apfl/__init__.py": "",
    "baselines/__init__.py": "",
    "apfl/nets.py": "LAYERS = 2",
    "apfl/federation.py": """
        from typing import ClassVar
        from apfl.nets import LAYERS
        class Method:
            stage: ClassVar[str] = "federate"
            model: ClassVar[str] = "global"
            needs: ClassVar[tuple] = ()
    """,
    "baselines/parent.py": """
        '''The parent.

        More.'''
        from dataclasses import dataclass
        from apfl.federation import Method
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
        from apfl.federation import Method
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


def test_the_generator_s_hyper_parameters_are_read_like_a_method_s() -> None:
    from apfl.memorization import GeneratorConfig

    read = parameters_of("apfl.memorization", "GeneratorConfig")
    assert {name: field.default for name, field in read.items()} == {
        field.name: field.default for field in fields(GeneratorConfig)
    }


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("x = 1\n", "names no method"),
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


def digest_after(tree: Path, path: str, old: str, new: str) -> str:
    """The digest of the method `child` in a fresh process, after an edit of a file."""
    text = (tree / path).read_text()
    assert old in text
    (tree / path).write_text(text.replace(old, new))
    program = (
        "import sys; from pathlib import Path; from apfl.registry import code_digest;"
        "print(code_digest('baselines.child', root=Path(sys.argv[1])))"
    )
    command = [sys.executable, "-c", program, str(tree)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_digest_sees_code_anywhere_below_a_method_and_nothing_else(tree: Path) -> None:
    before = code_digest("baselines.child", root=tree)
    assert digest_after(tree, "baselines/parent.py", "# how many", "# how many steps") == before
    assert digest_after(tree, "baselines/parent.py", "The parent.", "A better word for the parent.") == before
    assert digest_after(tree, "baselines/heavy.py", '"Heavy"', '"Heavier"') == before
    assert digest_after(tree, "apfl/nets.py", "LAYERS = 2", "LAYERS = 3") != before
    changed = digest_after(tree, "apfl/nets.py", "LAYERS = 3", "LAYERS = 2")
    assert changed == before
    assert digest_after(tree, "baselines/child.py", "-0.5", "-0.25") != before


def test_the_code_of_a_method_reaches_the_engine_but_no_other_method() -> None:
    covered = imported_modules("apfl.stages.federate", "baselines.fedavg")
    assert {"baselines.fedavg", "apfl.federation", "apfl.training", "apfl.nets", "apfl.streams"} <= covered
    assert not covered & {"baselines.local", "baselines.apfl", "apfl.registry", "apfl.cli"}


def fingerprint(folder: Path, text: str) -> str:
    """The digest of a file with this text."""
    path = folder / f"{len([*folder.iterdir()])}.py"
    path.write_text(text)
    return _fingerprint(path, folder)[0]


@pytest.mark.parametrize("path", ["apfl/training.py", "apfl/registry.py", "baselines/scaffold.py"])
def test_the_digest_does_not_see_layout(path: str, tmp_path: Path) -> None:
    text = (ROOT / path).read_text()
    assert fingerprint(tmp_path, ast.unparse(ast.parse(text))) == fingerprint(tmp_path, text)
    assert fingerprint(tmp_path, "# A comment.\n\n" + text.replace(":\n", ":  # why\n\n")) == fingerprint(
        tmp_path, text
    )


CODE = '''
import os
def f(a, b=1, *c, d: int = 2, **e):
    """Text."""
    for i in range(a):
        if i < b and not d:
            continue
    else:
        return f"{a + b!r:>{d}}"
    match a:
        case [1, *rest] if rest:
            yield from (x for x in rest if x)
        case {"k": v} | None:
            with open(v) as g, g:
                return lambda: g if v else -1.5
    try:
        a[b].c = {**e, 'z': (1, 2)}
    except (KeyError, ValueError) as error:
        raise TypeError from error
    finally:
        del a
async def g(): return await f(1, *[2], b=3)
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("import os", "import sys"),
        ("import os", "import os as o"),
        ("b=1", "b=True"),
        ("b=1", "b=1.0"),
        ("b=1, *c", "*c, b=1"),
        ("d: int", "d: str"),
        ("i < b", "i <= b"),
        ("and not", "or not"),
        ("continue", "break"),
        ("a + b!r", "a + b!s"),
        ("a + b", "b + a"),
        (":>{d}", ":<{d}"),
        ("*rest", "*left"),
        ('"k"', '"K"'),
        ("(x for", "(i for"),
        ("-1.5", "1.5"),
        ("a[b].c", "a[b].d"),
        ("(1, 2)", "[1, 2]"),
        ("(1, 2)", "(1, (2,))"),
        ("'z'", "b'z'"),
        ("as error", "as fault"),
        ("from error", "from None"),
        ("del a", "del b"),
        ("del a", "pass"),
        ("async def", "def"),
        ("*[2]", "[2]"),
        ("return await", "await"),
        ("    else:\n        return", "    if a:\n        return"),
    ],
)
def test_the_digest_sees_every_change_of_code(old: str, new: str, tmp_path: Path) -> None:
    assert CODE.count(old) == 1 and ast.dump(ast.parse(CODE)) != ast.dump(ast.parse(CODE.replace(old, new)))
    assert fingerprint(tmp_path, CODE) != fingerprint(tmp_path, CODE.replace(old, new))


def test_imports_are_found_at_any_depth(tmp_path: Path) -> None:
    for name in "abcdefg":
        (tmp_path / "apfl").mkdir(exist_ok=True)
        (tmp_path / f"apfl/{name}.py").write_text("")
    (tmp_path / "apfl/top.py").write_text(
        "import apfl.a\n"
        "class X:\n    def f(self):\n        from apfl import b\n"
        "if 1:\n    pass\nelse:\n    from apfl.c import d\n"
        "try:\n    pass\nexcept OSError:\n    from apfl import d\nfinally:\n    import apfl.e\n"
        "match 1:\n    case 1:\n        import apfl.f\n"
        "for i in ():\n    with i:\n        import apfl.g, os\n"
    )
    expected = {f"apfl.{name}" for name in "abcdefg"} | {"apfl.top"}
    assert imported_modules("apfl.top", root=tmp_path) - {"apfl"} == expected
