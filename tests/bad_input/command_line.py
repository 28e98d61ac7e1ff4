"""Mistakes in commands: unknown words, missing options, outputs that cannot be, tables without runs."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from apfl.storage.files import write_json
from apfl.storage.tables import write_parquet
from tests.bad_input import Case, both, federate, folder_instead, memorize, nothing, personalize, spec, study, text

TABLES = ("tables", "study.yaml")
RUN = "tiny/runs/digits/dirichlet-alpha0.1-clients3"
SEED = ("partition", "--data", "data.npz", "--setting", "iid-clients5", "--out", "x.npz", "--seed")
DIGITS = ("data", "digits", "--source", "digits", "--out")
INITIAL = {"dataset": "noise", "seed": 0, "network": {"name": "tests.helpers.problems:Tiny"}}


def runs(**columns: object):
    """Finished runs for the tiny study's table, with other columns in their metrics."""

    def damage(world: Path) -> None:
        study(methods={"fedavg": {}}, apfl={}, semantics={})(world)
        row = {"round": 1, "client": 0, "client_role": "non_dropout", "model": "global", "test": "pooled"}
        row |= {"accuracy": 0.5, "samples": 5, "train_samples": 10} | columns
        folder = world / "results" / RUN / "fedavg" / "seed0"
        frame = pd.DataFrame([{key: value for key, value in row.items() if value is not ...}])
        write_parquet(folder / "metrics.parquet", frame)
        write_json(folder / "run.json", {"stage": "federate", "specification": {"module": "fedavg"}, "code": "a"})

    return damage


def in_results(name: str, content: str | bytes):
    return both(runs(), text(f"results/{RUN}/fedavg/seed0/{name}", content))


def table(content: str | bytes):
    return both(lambda world: (world / "results/tiny/tables").mkdir(parents=True),
                text("results/tiny/tables/table2.csv", content))  # fmt: skip


CASES = [
    Case("unknown command", nothing, ("trane",), r"No such command 'trane'.*; `apfl --help` lists what there is"),
    Case("unknown option", nothing, ("plan", "study.yaml", "--jsn"), r"No such option: --jsn.*; `apfl plan --help`"),
    Case("option missing", nothing, ("federate", "--data", "data.npz"),
         r"Missing option '--spec'.*`apfl federate --help`"),
    Case("argument missing", nothing, ("check",), r"Missing argument '(?i:study).*; `apfl check --help`"),
    Case("too many arguments", nothing, ("check", "study.yaml", "b.yaml"), r"unexpected extra argument.*; `apfl check"),
    Case("seed a word", nothing, (*SEED, "one"), r"Invalid value for '--seed': .*; `apfl partition --help`"),
    Case("seed below 0", nothing, (*SEED, "-1"), r"Invalid value for '--seed': .*; `apfl partition --help`"),
    Case("unknown source", nothing, ("data", "digits", "--source", "web", "--out", "x.npz"),
         r"source 'web': unknown; use one"),
    Case("name with a path", nothing, ("data", "../digits", "--source", "digits", "--out", "x.npz"),
         r"'\.\./digits': a name"),
    Case("digits by another name", nothing, ("data", "x", "--source", "digits", "--out", "x.npz"),
         r"holds the data set dig"),
    Case("no folder given", nothing, ("data", "x", "--source", "parquet", "--out", "x.npz"),
         r"no folder given; add --path"),
    Case("no images wanted", nothing, (*DIGITS, "x.npz", "--max-samples", "0"), r"max_samples: is 0; use at least 1"),
    Case("device", nothing, federate(device="tpu"), r"device 'tpu': not available here; choose auto or cpu"),
    Case("semantics not given", nothing, ("memorize", *memorize()[1:7], "--run", "base", "--out", "out"),
         r"Missing option '--semantics'|needs --semantics"),
    Case("no data set of all runs", nothing, federate(data="-"), r"--data -: every run reads one; give its path"),
    Case("no choice of a tuned run", nothing, federate(spec(tuned="tuning/noise/fedavg.json")),
         r"--tuning -: goes with a specification that names its choice"),
    Case("pack a study in YAML", nothing, ("pack", "study.yaml", "--out", "packed"),
         r"study\.yaml: is not the study as it was run; give results/tiny/study\.json"),
    # Outputs.
    Case("data out a folder", folder_instead("x.npz"), (*DIGITS, "x.npz"),
         r"--out x\.npz: is not a file name; end it"),
    Case("data out a picture", nothing, (*DIGITS, "x.png"), r"--out x\.png: is not a file name; end it with \.npz"),
    Case("data out below a file", nothing, (*DIGITS, "study.yaml/x.npz"), r"study\.yaml is not a folder; choose"),
    Case("data out nameless", nothing, (*DIGITS, "."), r"--out \.: is not a file name"),
    Case("data out of a long name", nothing, (*DIGITS, "a" * 300 + ".npz"), r"--out a+\.npz: .*; choose another"),
    Case("data out on no disk", nothing, (*DIGITS, "/proc/x.npz"), r"/proc/x\.\S+: .*; choose another output folder"),
    Case("run out a file", text("out", "x"), federate(), r"--out out: .* is not a folder; choose another"),
    Case("run out below a file", text("out", "x"), federate(out="out/run"), r"out is not a folder; choose another"),
    Case("generator out a file", text("out", "x"), memorize(), r"--out out: .* is not a folder"),
    Case("personalized out a file", text("out", "x"), personalize(), r"--out out: .* is not a folder"),
    Case("initial out", nothing, ("initial", "--spec", json.dumps(INITIAL), "--data", "data.npz", "--out", "x.npz"),
         r"end it with \.safet"),
    # Tables from runs.
    Case("table without runs", nothing, TABLES,
         r"run tiny/runs/\S+: not finished under results; make it with `snakemake"),
    Case("table unknown", nothing, (*TABLES, "--only", "table9"),
         r"--only table9: not part of this study; it has table2"),
    Case("results a file", text("results", "x"), TABLES, r"not finished under results"),
    Case("metrics without accuracy", runs(accuracy=...), TABLES,
         r"metrics \S+: has no column 'accuracy'; make it again"),
    Case("metrics of texts", runs(accuracy="high"), TABLES, r"metrics \S+: column 'accuracy' .*; make it again"),
    Case("metrics above one", runs(accuracy=50.0), TABLES, r"metrics \S+: column 'accuracy' .*; make it again"),
    Case("metrics below zero", runs(samples=-1), TABLES, r"column 'samples' has -1, not 0 or more; make it again"),
    Case("metrics truncated", in_results("metrics.parquet", b"PAR1"), TABLES, r"metrics \S+: cannot be read"),
    Case("run record a list", in_results("run.json", "[]"), TABLES, r"run \S+run\.json: holds no JSON object"),
    Case("run record cut short", in_results("run.json", '{"stage": '), TABLES, r"run \S+run\.json: not JSON"),
    Case("run record without meaning", in_results("run.json", '{"specification": 3}'), TABLES, r"run \S+: .*; "),
    Case("written tables missing", nothing, ("check-tables", "study.yaml"),
         r"table results/tiny/tables/table2\.csv: no such"),
    Case("written table binary", table(bytes(range(256))), ("check-tables", "study.yaml"),
         r"table2\.csv: .*; make it again"),
    Case("written table of other columns", table("a,b\n1,2\n"), ("check-tables", "study.yaml"),
         r"table2\.csv: .*; make it"),
]  # fmt: skip
