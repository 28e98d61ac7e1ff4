"""The digest of the code sees what decides results and nothing else, and is the same on every version of Python."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from apfl.registry.code import (
    NO_RESULTS,
    _fields,
    _fingerprint,
    _name,
    _write,
    code_digest,
    imported_modules,
    modules_of,
)
from apfl.registry.trees import ROOT, parse

RUNS = [("federate", "ditto"), ("federate", "fedavg"), ("memorize", None), ("personalize", "apfl")]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for folder in ("apfl", "baselines")
    for path in (ROOT / folder).rglob("*.py")
)
VERSIONS = ("3.11", "3.12", "3.13", "3.14")
F_STRINGS = r"""
a = f"{x:}" f"{y!r:}" "b" f"{z=}" f"{z = !s:>{w}.{p}}" f"{{}}" f"{x:{y}{z}}" f"{x:a{y}b{z}c}"
b = "a" f"" "b" f"plain" u"k" "\U0001fae9" f"{x:%H:%M}" rf"\d{x}\n" f"\N{DIGIT ONE}{x}"
"""


def digests(root: Path) -> list[str]:
    return [code_digest(*modules_of(*run), root=root) for run in RUNS]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the code, in which edits hurt nobody."""
    for folder in ("apfl", "baselines"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=lambda _, names: {n for n in names if "." in n[:-3]})
    return tmp_path


def edit(project: Path, name: str, old: str, new: str) -> None:
    text = (project / name).read_text()
    assert old in text
    (project / name).write_text(text.replace(old, new, 1))


INCIDENTAL = {
    "a drawing": ("apfl/stages/samples.py", "REAL, COLUMNS = 4, 8", "REAL, COLUMNS = 5, 9"),
    "an import of a drawing": (
        "apfl/stages/samples.py",
        "import numpy as np",
        "import numpy as np\nimport apfl.study.runs",
    ),
    "locks": ("apfl/storage/locks.py", 'suffix=".part"', 'suffix=".half"'),
    "how files are written": ("apfl/storage/files.py", "compression, 1)", "compression, 6)"),
    "what is kept": ("apfl/storage/run_folder.py", 'KEPT = ".kept"', 'KEPT = ".finished"'),
    "what is recorded": ("apfl/stages/job.py", '"peak_memory": peak_memory()', '"memory": peak_memory()'),
    "memory of the process": ("apfl/engine/process.py", "32 << 20", "16 << 20"),
    "when a run is finished": ("apfl/storage/run_folder.py", "if fault:\n", "if fault and restored:\n"),
    "how long a run takes": ("apfl/stages/stopwatch.py", "lap / self.shared.running", "lap"),
    "keys that are known": (
        "apfl/stages/specification.py",
        "    base: str | None",
        "    note: str | None\n    base: str | None",
    ),
    "a line of progress": ("apfl/stages/federate.py", "max(seconds, 1e-9)", "max(seconds, 1e-6)"),
    "a line of the generator": ("apfl/stages/memorize.py", "['diversity']:.4f", "['diversity']:.6f"),
    "the text of a mistake": ("apfl/stages/federate.py", "needs --{need}; give its path", "needs --{need}"),
    "the text of a condition": ("baselines/ditto.py", "must not be negative; 0 is local training", "is negative"),
    "the text of a divergence": ("apfl/memorization/generator.py", '"the generator")', '"generator")'),
    "what is printed": ("apfl/stages/personalize.py", "{number}  pooled", "{number}: pooled"),
    "another line that is printed": ("apfl/engine/training.py", "import math\n", "import math\nprint('here')\n"),
    "a comment": ("apfl/engine/training.py", "import math\n", "import math  # mathematics\n"),
    "layout": ("apfl/engine/training.py", "import math\n", "\n\nimport math\n"),
    "the docstring of a function": ("apfl/federation/evaluation.py", "in large batches.", "in batches."),
    "the card of a method": ("baselines/ditto.py", "booktitle = {ICML}", "booktitle = {Proc. ICML}"),
    "the title of a method": ("baselines/ditto.py", '"Ditto"', '"Ditto (Li et al.)"'),
    "the title of a base method": ("baselines/fedavg.py", '"FedAvg"', '"FederatedAveraging"'),
    "an annotation": (
        "apfl/federation/evaluation.py",
        "models: Mapping[str, Models], round: int",
        "models: dict, round: float",
    ),
    "the type of a variable": ("apfl/federation/asynchronous.py", "uploads: list[Upload] = []", "uploads = []"),
    "an import for annotations": (
        "apfl/stages/federate.py",
        "from __future__ import annotations\n",
        "from __future__ import annotations\nfrom typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import apfl.study.runs\n",
    ),
}


@pytest.mark.parametrize("what", INCIDENTAL)
def test_what_decides_no_result_retrains_nothing(project: Path, what: str) -> None:
    edit(project, *INCIDENTAL[what])
    assert digests(project) == digests(ROOT)


DECISIVE = {
    "the engine": ("apfl/engine/training.py", "math.isfinite(loss)", "math.isnan(loss)"),
    "stacks of models": ("apfl/engine/stack.py", "-_steps(tasks[place])", "_steps(tasks[place])"),
    "an optimizer": ("apfl/engine/optimizers.py", "dampening=0.0", "dampening=0.5"),
    "the network": ("apfl/engine/networks.py", "nn.Linear(50 * width, 16 * width)", "nn.Linear(50 * width, 8 * width)"),
    "averaging": ("apfl/federation/aggregation.py", "(total / self.weight)", "total"),
    "runs side by side": ("apfl/federation/side_by_side.py", "for own in tasks:", "for own in tasks[:1]:"),
    "a method": ("baselines/ditto.py", 'state["global"], self.lam)', "problem.start, self.lam)"),
    "a base method": ("baselines/fedavg.py", "RunningMean()", "RunningMean(0)"),
    "the default of a hyper-parameter": ("baselines/ditto.py", "lam: float = 1.0", "lam: float = 2.0"),
    "the name of a hyper-parameter": ("baselines/ditto.py", "lam: float = 1.0", "mu: float = 1.0"),
    "the type of a hyper-parameter": ("baselines/ditto.py", "lam: float = 1.0", "lam: int = 1.0"),
    "what a method needs to be valid": ("baselines/ditto.py", "self.lam >= 0", "self.lam > 0"),
    "data": ("apfl/data/dataset.py", 'arrays["images"], arrays["labels"]', 'arrays["images"][::-1], arrays["labels"]'),
    "normalisation": ("apfl/stages/problem.py", "clamp_min(1e-12)", "clamp_min(1e-6)"),
    "the partition": ("apfl/data/partition.py", "// 10", "// 5"),
    "a kind of partition": ("apfl/data/partitioners/dirichlet.py", "ends[-1] = size", "ends[0] = size"),
    "embeddings": ("apfl/semantics/table.py", "rows.mean(axis=0)", "rows.mean(axis=1)"),
    "the random streams": ("apfl/streams.py", 'f"apfl/{int(seed)}/', 'f"{int(seed)}/'),
    "the name of a stream": ("apfl/engine/work.py", 'f"batches/', 'f"batch/'),
    "the clock": ("apfl/clock/timeline.py", "-(sigma**2) / 2", "0"),
    "merging of late uploads": ("apfl/federation/asynchronous.py", "/ total if total else", "* total if total else"),
    "memorization": ("apfl/memorization/generator.py", "(1 - config.ce_weight)", "config.ce_weight"),
    "personalization": ("apfl/memorization/friends.py", "torch.ones_like(own)", "torch.zeros_like(own)"),
    "AP-FL": ("baselines/apfl.py", "beta: float = ", "beta: float = 0.1 + "),
    "accuracies": ("apfl/federation/evaluation.py", "logits.argmax(1)", "logits.argmin(1)"),
    "when a run has diverged": (
        "apfl/federation/evaluation.py",
        'not math.isfinite(row["loss"])',
        'math.isnan(row["loss"])',
    ),
    "what a checkpoint gives back": ("apfl/stages/checkpoint.py", 'tree.get("state", {})', 'tree.get("saved", {})'),
    "the teachers' accuracy": ("apfl/stages/memorize.py", 'teacher="clients"', 'teacher="global"'),
    "rounds that are personalized": ("apfl/stages/personalize.py", 'tuple(record.specification["rounds"])', "(1,)"),
}


@pytest.mark.parametrize("what", DECISIVE)
def test_what_decides_results_trains_anew(project: Path, what: str) -> None:
    edit(project, *DECISIVE[what])
    assert digests(project) != digests(ROOT)


def test_an_edit_trains_only_what_it_decides(project: Path) -> None:
    edit(project, *DECISIVE["a method"])
    edit(project, *DECISIVE["personalization"])
    ditto, fedavg, memorized, personalized = zip(digests(project), digests(ROOT), strict=True)
    assert ditto[0] != ditto[1] and fedavg[0] == fedavg[1]
    assert memorized[0] == memorized[1] and personalized[0] != personalized[1]


def test_what_is_said_to_decide_nothing_is_there() -> None:
    for name in NO_RESULTS - {"typing", "collections.abc"}:
        module, _, part = name.rpartition(".")
        assert name in MODULES or part in map(_name, parse(ROOT / f"{module.replace('.', '/')}.py").body), name


def test_a_run_is_decided_by_the_engine_and_its_method_and_by_no_other() -> None:
    covered = imported_modules(*modules_of("federate", "fedavg"))
    assert {
        "baselines.fedavg",
        "apfl.federation.method",
        "apfl.engine.training",
        "apfl.engine.networks",
        "apfl.streams",
    } <= covered
    assert not covered & {"baselines.local", "baselines.apfl", "apfl.registry.cards", "apfl.cli", "apfl.stages.samples"}


def test_a_module_beside_a_folder_of_its_name_is_covered() -> None:
    assert "apfl.paper.published" in imported_modules("apfl.paper.report.report")


@pytest.mark.parametrize(
    ("rule", "command"), [("table", "tables"), ("figure", "figures"), ("course", "figures"), ("page", "report")]
)
def test_a_rule_that_shows_results_sees_all_code_that_its_command_calls(rule: str, command: str) -> None:
    text = (ROOT / "workflow/rules/paper.smk").read_text(encoding="utf-8")
    body = text.partition(f"\nrule {rule}:\n")[2].partition("\nrule ")[0]
    (code,) = re.findall(r"shown_code\((.*)\),\n", body)
    commands = ast.parse((ROOT / "apfl/cli/paper.py").read_text(encoding="utf-8")).body
    (function,) = (node for node in commands if isinstance(node, ast.FunctionDef) and node.name == command)
    called = {node.module for node in ast.walk(function) if isinstance(node, ast.ImportFrom)}
    shown = {module for module in called if module and module.startswith("apfl.paper.")}
    assert shown and shown <= imported_modules(*re.findall(r'"(apfl\.[\w.]+)"', code))


# One digest on all versions of Python.


def interpreter(version: str) -> str | None:
    """A Python of this version on the path or among those of pyenv."""
    installed = sorted((Path.home() / ".pyenv/versions").glob(f"{version}.*/bin/python"))
    for candidate in filter(None, [shutil.which(f"python{version}"), *map(str, installed)]):
        said = subprocess.run([candidate, "-c", "import sys; print(sys.version)"], capture_output=True, text=True)
        if said.stdout.startswith(f"{version}."):
            return candidate
    return None


def write(tree: ast.AST) -> list[str]:
    code: list[str] = []
    _write(tree, code)
    return code


@pytest.mark.parametrize("version", VERSIONS)
def test_the_digest_is_the_same_on_every_version_of_python_and_needs_no_package(version: str, tmp_path: Path) -> None:
    (tmp_path / "strings.py").write_text(F_STRINGS)
    (tmp_path / "code.py").write_text(CODE)
    program = (
        "import json, sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]);"
        "import apfl.registry.code as code;"
        "places = [(name, Path(sys.argv[1])) for name in sys.argv[3:]];"
        "places += [(name, Path(sys.argv[2])) for name in ('strings', 'code')];"
        "print(json.dumps([code._fingerprint(*place)[0] for place in places]))"
    )
    if (python := interpreter(version)) is None:
        pytest.skip(f"Python {version} is not installed")
    command = [python, "-I", "-S", "-c", program, str(ROOT), str(tmp_path), *MODULES]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    places = [*((name, ROOT) for name in MODULES), ("strings", tmp_path), ("code", tmp_path)]
    here = [_fingerprint(*place)[0] for place in places]
    assert [
        place for place, one, other in zip(places, here, json.loads(done.stdout), strict=True) if one != other
    ] == []


@pytest.mark.parametrize("path", ["apfl/engine/training.py", "baselines/ditto.py"])
def test_fields_that_versions_of_python_add_and_ways_to_cut_f_strings_do_not_count(path: str, monkeypatch) -> None:
    text = (ROOT / path).read_text() + F_STRINGS
    tree, same = ast.parse(text), write(ast.parse(text))
    for kind in {type(node) for node in ast.walk(tree)}:  # in another order, and with fields of an unknown version
        older = [name for name in reversed(kind._fields) if name != "type_params"]
        monkeypatch.setattr(kind, "_fields", ("new_list", *older, "new_value"))
    for node in ast.walk(tree):
        node.new_list, node.new_value = [], None
        if isinstance(node, ast.Constant):
            node.kind = "u"
        if isinstance(node, ast.JoinedStr):
            node.values = [part for value in node.values for part in cut(value)]
    _fields.cache_clear()
    try:
        assert write(tree) == same
    finally:
        _fields.cache_clear()


def cut(value: ast.expr) -> list[ast.expr]:
    """A text of an f-string in pieces."""
    if not isinstance(value, ast.Constant):
        return [value]
    return [ast.Constant(value=piece) for piece in ("", value.value[:1], value.value[1:])]


# What counts in a file.


def fingerprint(folder: Path, text: str) -> str:
    """The digest of a file with this text."""
    name = f"m{len([*folder.iterdir()])}"
    (folder / f"{name}.py").write_text(text)
    return _fingerprint(name, folder)[0]


@pytest.mark.parametrize("path", ["apfl/engine/training.py", "apfl/registry/cards.py", "baselines/scaffold.py"])
def test_the_digest_does_not_see_layout(path: str, tmp_path: Path) -> None:
    text = (ROOT / path).read_text()
    assert fingerprint(tmp_path, ast.unparse(ast.parse(text))) == fingerprint(tmp_path, text)
    assert fingerprint(tmp_path, "# A comment.\n\n" + text.replace(":\n", ":  # why\n\n")) == fingerprint(
        tmp_path, text
    )


SAID = """
from __future__ import annotations
import logging, sys
from typing import TYPE_CHECKING, Any, ClassVar
from apfl.errors import UserError, require
if TYPE_CHECKING:
    import torch
class Method:
    title: ClassVar[str] = "A title"
    title_: ClassVar[str] = "Another"
    width: int = 3
    def check(self, value: int) -> Any:
        require(self.width > 0, f"width {self.width}: must be positive")
        if value < 0:
            raise UserError(f"value {value}: is negative")
        number: int = stream(f"batches/{value}")
        print(f"number {number}", flush=True)
        logging.info("it is %s", number)
        print("written", file=sys.stdout)
        return number
"""


@pytest.mark.parametrize(
    ("old", "new", "counts"),
    [
        ("must be positive", "is too small", False),
        ("self.width > 0", "self.width > 1", True),
        ("is negative", "must be positive", False),
        ("value < 0", "value < 1", True),
        ("raise UserError", "raise ValueError", True),
        ("raise UserError", "return UserError", True),
        ('print(f"number {number}", flush=True)', 'print("a number", number)', False),
        ('print(f"number {number}", flush=True)', "", False),
        ('print("written"', 'print("said"', True),
        ("it is %s", "it was %s", False),
        ("batches/", "batch/", True),
        ("value: int", "value: float", False),
        (" -> Any", "", False),
        ("number: int =", "number =", False),
        ("width: int", "width: float", True),
        ("width: int = 3", "width = 3", True),
        ('"A title"', '"One title"', False),
        ('"Another"', '"One other"', True),
        ("import torch", "import numpy", False),
        ("TYPE_CHECKING, Any,", "TYPE_CHECKING, Any, Final,", False),
        ("import UserError, require", "import UserError, require, Other", False),
        ("import annotations", "import division", True),
        ("import logging, sys", "import sys", True),
    ],
)
def test_what_is_said_to_people_and_types_do_not_count_and_conditions_and_fields_do(
    old: str, new: str, counts: bool, tmp_path: Path
) -> None:
    assert SAID.count(old) == 1
    assert (fingerprint(tmp_path, SAID) != fingerprint(tmp_path, SAID.replace(old, new))) is counts


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
