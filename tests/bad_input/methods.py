"""Mistakes in the files of methods: (name, the file, the command's line). They run in a copy of the project."""

from __future__ import annotations

from textwrap import dedent

CLASS = """
    from dataclasses import dataclass
    from typing import ClassVar
    from baselines.fedavg import FedAvg
    @dataclass(frozen=True)
    class Mine(FedAvg):
        {body}
        title: ClassVar[str] = "Mine"
    METHOD = Mine
"""


def mine(body: str, docstring: str = '"""Mine."""') -> str:
    """A method like FedAvg with something more in its class."""
    return docstring + dedent(CLASS).format(body=body)


FILES: list[tuple[str, str, str, str]] = [
    ("empty", "plan", "", r"does not name a method; end it with METHOD = the name of its class"),
    ("no_method", "plan", mine("mu: float = 1.0").replace("METHOD", "MINE"), r"does not name a method; end it"),
    ("method_is_a_number", "plan", '"""Mine."""\nMETHOD = 3\n', r"does not name a method; end it with METHOD"),
    ("method_is_made", "plan", mine("mu: float = 1.0").replace("= Mine", "= Mine()"), r"does not name a method"),
    ("method_is_unknown", "plan", '"""Mine."""\nMETHOD = Mine\n', r"has no class Mine; define it there, or import it"),
    ("method_of_a_plain_class", "plan", '"""Mine."""\nclass Mine:\n    pass\nMETHOD = Mine\n', r"Mine has no title; a"),
    ("syntax_error", "plan", '"""Mine."""\ndef broken(:\n', r"baselines/syntax_error\.py: line 2: .*; correct the fil"),
    ("tabs_and_spaces", "plan", '"""Mine."""\nif 1:\n\tx = 1\n        y = 2\n', r"line 4: .*; correct the file"),
    ("nul_byte", "plan", '"""Mine."""\nx = "\0"\n', r"baselines/nul_byte\.py: .*null byte.*; correct the file"),
    ("no_docstring", "plan", mine("mu: float = 1.0", ""), r"no_docstring\.py: has no docstring; begin it with what"),
    ("no_default", "plan", mine("mu: float"), r"no_default\.py: hyper-parameter mu has no literal default; give it on"),
    ("computed_default", "plan", mine("mu: float = 1.0 / 3"), r"hyper-parameter mu has no literal default; give it on"),
    ("default_of_another_type", "plan", mine("steps: int = 1.5"), r"default: steps 1\.5 is not of type int; give a in"),
    ("default_none", "plan", mine("mu: float = None"), r"default: mu None is not of type float; give a float"),
    ("type_unknown", "plan", mine("layers: list[int] = []"), r"hyper-parameter layers has type list\[int\]; use int, "),
    ("unknown_stage", "plan", mine('stage: ClassVar[str] = "train"'), r"stage 'train' is neither 'federate' nor"),
    ("unknown_model", "plan", mine('model: ClassVar[str] = "glob"'), r"model 'glob': unknown; choose one of global, l"),
    ("unknown_need", "plan", mine('needs: ClassVar[tuple] = ("proxies",)'), r"needs 'proxies': give a tuple of names"),
    ("need_is_a_text", "plan", mine('needs: ClassVar[tuple] = "proxy"'), r"needs 'proxy': give a tuple of names among"),
    ("additive_unknown", "plan", mine('additive: ClassVar[dict] = {"nu": 1}'), r"additive \{'nu': 1\}: give True, Fal"),
    ("title_empty", "plan", mine("mu: float = 1.0").replace('"Mine"\n', '""\n'), r"title '': is not text; give"),
    ("circle", "plan", '"""Mine."""\nclass Mine(Other): pass\nclass Other(Mine): pass\nMETHOD = Mine\n', r"in a circl"),
    ("base_missing", "plan", '"""Mine."""\nfrom baselines.nowhere import Base\nclass Mine(Base): pass\nMETHOD = Mine\n',
     r"baselines/nowhere\.py: cannot be read \(.*\); correct the import"),
    ("import_error", "check", '"""Mine."""\nimport a_package_that_nobody_has\n' + mine("mu: float = 1.0", ""),
     r"baselines/import_error\.py: needs a_package_that_nobody_has, which is not installed; install it"),
    ("name_error", "check", mine("mu: float = 1.0") + "\nprint(undefined)\n",
     r"baselines/name_error\.py: cannot be imported \(name_error\.py, line \d+: NameError: .*undefined.*\); correct"),
    ("ends_python", "check", mine("mu: float = 1.0") + "\nraise SystemExit(0)\n",
     r"baselines/ends_python\.py: cannot be imported \(ends_python\.py, line \d+: SystemExit: 0\); correct the file"),
    ("refuses_oddly", "check", mine("mu: float = 1.0\n\n    def __post_init__(self):\n        raise ValueError('no')"),
     r"baselines/refuses_oddly\.py: refuses its values \(ValueError: no\); correct them or the file"),
    ("method_replaced", "check", mine("mu: float = 1.0") + "\nglobals()['METHOD'] = 3\n",
     r"baselines/method_replaced\.py: METHOD 3 is not derived from Method or Derived; name one"),
]  # fmt: skip
"""Name of the module, command, file, line. What `plan` refuses is read; what only `check` refuses is imported."""

PROGRAM = """
import contextlib, io, json, sys
from apfl.cli import main
answers = {}
for command, module in json.loads(sys.argv[1]):
    study = {"name": "x", "seeds": [0], "data": {"digits": {"source": "digits"}}}
    study["methods"] = {module.replace("_", "-"): {}}
    open("study.json", "w").write(json.dumps(study))
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        try:
            main([command, "study.json"])
        except SystemExit as ended:
            answers[module] = (ended.code, said.getvalue())
        except BaseException as error:
            answers[module] = (1, repr(error))
print(json.dumps(answers))
"""
"""All cases in one process, as each start takes a second."""
