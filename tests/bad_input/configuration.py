"""Mistakes in a study."""

from __future__ import annotations

from typing import Any

from tests.bad_input import Case, Damage, appended, both, folder_instead, study, text, unreadable, without

CHECK = ("check", "study.yaml")
PLAN = ("plan", "study.yaml")
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)
)
MERGES = "b0: &b0 {x: 1}\n" + "".join(f"b{n}: &b{n} {{<<: [{', '.join([f'*b{n - 1}'] * 10)}]}}\n" for n in range(1, 10))
TRACE = {"schedules": {"slow": {"latency": "trace", "trace": "slow.csv"}}}


def changed(name: str, line: str, /, **changes: Any) -> Case:
    return Case(name, study(**changes), PLAN, line)


def written(name: str, content: str | bytes, line: str) -> Case:
    return Case(name, text("study.yaml", content), PLAN, line)


def traced(name: str, content: str | bytes, line: str) -> Case:
    return Case(name, both(study(**TRACE), text("slow.csv", content)), PLAN, line)


def added(name: str, lines: str, line: str) -> Case:
    return Case(name, appended(lines), PLAN, line)


def _file(name: str, damage: Damage, line: str) -> Case:
    return Case(name, damage, PLAN, line)


CASES = [
    # The file.
    _file("study missing", without("study.yaml"), r"study study\.yaml: no such file; name one of config"),
    _file("study is a folder", folder_instead("study.yaml"), r"study\.yaml: no such file"),
    _file("study unreadable", unreadable("study.yaml"), r"study\.yaml: cannot be read \(.*\); correct the path"),
    written("study empty", "", r"study\.yaml: has no keys; a study has at least name"),
    written("study is a list", "- name: x\n", r"study\.yaml: has no keys"),
    written("study binary", bytes(range(256)), r"study\.yaml: not UTF-8 \(byte 128\); save it as UTF-8"),
    written("study of NUL bytes", bytes(64), r"study\.yaml: not YAML \(.*\); correct the file"),
    written("study in UTF-16", "name: tiny\n".encode("utf-16"), r"study\.yaml: not UTF-8 \(byte 0\)"),
    written("tabs for indentation", "name: x\ntraining:\n\trounds: 1\n", r"study\.yaml: not YAML \(.*tab|\\t.*\)"),
    written("bracket left open", "seeds: [0, 1\nname: x\n", r"study\.yaml: not YAML \(.*\); correct the file"),
    written("two documents", "name: x\n---\nname: y\n", r"study\.yaml: not YAML \(.*single document"),
    written("Python object", "name: !!python/object/apply:os.getcwd []\n", r"study\.yaml: not YAML \(.*python"),
    written("date that is none", "name: 2020-13-45\n", r"study\.yaml: not YAML \(.*month"),
    written("number of 5000 digits", f"seeds: [{'9' * 5000}]\n", r"study\.yaml: not YAML \(.*digits"),
    written("nested too deep", "a: " + "[" * 3000 + "]" * 3000, r"study\.yaml: nested too deep; correct the file"),
    added("key twice", "seeds: [1]\n", r"study\.yaml: line \d+: key 'seeds' appears twice; remove one"),
    added("method twice", "x: {fedavg: {}, fedavg: {}}\n", r"line \d+: key 'fedavg' appears twice"),
    written("bomb of lists", BOMB, r"study\.yaml: its aliases \(\*\) stand for more than 1,000,000 values; write"),
    written("bomb of merged keys", MERGES, r"study\.yaml: its aliases \(\*\) stand for more than"),
    written("alias of itself", "name: &a [*a]\n", r"study\.yaml: line 1: holds an alias \(\*\) of itself; write out"),
    Case("JSON key twice", text("s.json", '{"name": "x", "name": "y"}'), ("plan", "s.json"),
         r"s\.json: key 'name' appears twice; remove one"),
    Case("JSON not a number", text("s.json", '{"seeds": [NaN]}'), ("plan", "s.json"), r"seeds\.0 nan: is not finite"),
    Case("JSON nested too deep", text("s.json", "[" * 99999), ("plan", "s.json"), r"s\.json: nested too deep"),
    # Values.
    added("no number", "description: .nan\n", r"study\.yaml: description nan: is not finite; give a finite number"),
    changed("infinite", r"training\.learning_rate inf: is not finite", training__learning_rate=float("inf")),
    changed("seed of 70 bits", r"seeds\.0: a whole number of \d+ bits; give a smaller", seeds=[2**70]),
    changed("negative seed", r"seeds\.0: -1 is less than the minimum of 0; give a whole number", seeds=[-1]),
    changed("seed true", r"seeds\.0: True is not of type 'integer'; give a whole number", seeds=[True]),
    changed("seeds a number", r"seeds: 3 is not of type 'array'; give one or more", seeds=3),
    changed("rounds with a fraction", r"training\.rounds: 1\.5 is not of type 'integer'; give", training__rounds=1.5),
    changed("rounds without end", r"training\.rounds: \d+ is greater than the maximum", training__rounds=10**15),
    changed("clients without end", r"tables\.table2\.clients\.0: \d+ is greater", tables__table2__clients=[10**12]),
    changed("rate of learning zero", r"training\.learning_rate: 0 is less than or equal to", training__learning_rate=0),
    changed("batch negative", r"training\.batch_size: -50 is less than the minimum of 1", training__batch_size=-50),
    changed("number as text", r"training\.rounds: '4' is not of type 'integer'", training__rounds="4"),
    changed("list for a mapping", r"training: \['rounds', 4\] is not of type 'object'", training=["rounds", 4]),
    changed("methods as a list", r"methods: \['fedavg'\] is not of type 'object'; give the methods",
            methods=["fedavg"]),
    changed("nothing for a mapping", r"data: None is not of type 'object'; give the data sets", data=None),
    changed("unknown section", r"study: unknown key 'trainning'; known: name", trainning={}),
    changed("network without a name", r"network: name is missing; add it \(name of the network\)",
            network={"depth": 1}),
    changed("network of a list", r"network\.depth: \[1\] is not of type .*; give",
            network={"name": "cnn", "depth": [1]}),
    # Names.
    changed("path in the name", r"name: '\.\./other' is not valid; give a name of lower-case letters", name="../other"),
    changed("absolute name", r"name: '/etc' is not valid", name="/etc"),
    changed("end of line in the name", r"name 'tiny\\n': holds the character '\\n'; remove it", name="tiny\n"),
    changed("name of 300 letters", r"name: .*is too long; give a name", name="a" * 300),
    changed("name in Greek", r"name: 'αβγ' is not valid; give a name of lower-case", name="αβγ"),
    changed("control character", r"description 'bell\\x07': holds the character '\\x07'; remove it",
            description="bell\a"),
    changed("path in a data set", r"data: '\.\./digits' is not a valid name; use lower-case", data={"../digits": {}}),
    changed("end of line in a method", r"methods: key 'fedavg\\n': holds the character", **{"methods__fedavg\n": {}}),
    changed("path of a module", r"method '\.\./errors': there is no", **{"methods__x": {"module": "../errors"}}),
    changed("end of line in a folder", r"data\.digits\.folder 'a\\nb': holds the character",
            data__digits__folder="a\nb"),
    changed("partition with a path", r"'\.\./x-clients5': unknown kind", tables__table2__partitions={"digits": "../x"}),
    changed("setting that does not parse", r"setting dirichlet-alphax-clients5: alpha is 'x'; it must be",
            tables__table2__partitions={"digits": "dirichlet-alphax"}),
    # Traces of latencies.
    changed("trace missing", r"schedules\.slow\.trace 'slow\.csv': no such file beside the study", **TRACE),
    changed("trace of a long name", r"schedules\.slow\.trace 'a+': .*; correct the path",
            schedules={"slow": {"latency": "trace", "trace": "a" * 300}}),
    traced("trace empty", "", r"slow\.csv: line 1: must be client,start,arrival, with rows below; correct"),
    traced("trace of other columns", "who,from,to\n0,0,1\n", r"slow\.csv: line 1: must be client,start,arrival"),
    traced("trace without rows", "client,start,arrival\n",
           r"slow\.csv: line 1: must be client,start,arrival, with rows"),
    traced("trace with a word", "client,start,arrival\n0,0,soon\n",
           r"slow\.csv: line 2: '0,0,soon' is not a client and two"),
    traced("trace with NaN", "client,start,arrival\n0,0,nan\n", r"slow\.csv: line 2: '0,0,nan' is not a client"),
    traced("trace back in time", "client,start,arrival\n0,2,1\n",
           r"slow\.csv: line 2: client 0 from 2 to 1 is out of order"),
    traced("trace of overlapping cycles", "client,start,arrival\n0,0,2\n0,1,3\n",
           r"line 3: client 0 from 1 to 3 is out"),
    traced("trace binary", bytes(range(256)), r"slow\.csv: not a CSV file \(.*\); write columns client,start,arrival"),
    Case("trace unreadable", both(study(**TRACE), text("slow.csv", ""), unreadable("slow.csv")), PLAN,
         r"slow\.csv: .*(cannot be read|Input/output error).*; "),
    Case("trace a folder", both(study(**TRACE), folder_instead("slow.csv")), PLAN, r"'slow\.csv': no such file"),
    # What would be asked for twice, or not at all.
    Case("clients twice", study(tables={"table2": {"clients": [3, 3]}}), PLAN, r"clients.*non-unique|clients.*; "),
    Case("no methods", study(tables={"table2": {"methods": []}}), PLAN, r"methods.*; "),
    # What only the code can judge.
    Case("negative mu", study(methods__fedprox={"mu": -1.0}), CHECK,
         r"methods\.fedprox: fedprox\.mu -1\.0: must not be"),
    Case("unknown option", study(network={"name": "cnn", "depth": 3}), CHECK, r"network\.name 'cnn': .*depth.*; see"),
    Case("network of another kind", study(network={"name": "os:getcwd"}), CHECK, r"network\.name 'os:getcwd': .*; "),
    Case("network that cannot be imported", study(network={"name": "nowhere:Net"}), CHECK,
         r"network\.name 'nowhere:Net': unknown; choose one of cnn"),
]  # fmt: skip
