"""Where the files of each kind of job are: what it makes, its log and its benchmark; and which kind comes first.

Paths are relative to results/. Names in braces, Snakemake's wildcards, tell the jobs of a kind apart.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

DRAWN = (".svg", ".pdf", ".png")
TABLE = "{study}/tables/{table}"
FIGURE = "{study}/figures/{figure}"
CLAIMS = "{study}/verdict/claims"
PARTITION = "{study}/partitions/{dataset}/{setting}/seed{seed}"


@dataclass(frozen=True)
class Kind:
    """A kind of job.

    ``path`` names one job: the file that it makes, or the folder of a run. ``files`` are all that it makes, by the name
    that its rule gives them. Of the jobs that can start, those with the highest ``priority`` do. ``several``: one job
    may make several runs.
    """

    path: str
    files: Mapping[str, str] = field(default_factory=dict)
    priority: int = 0
    several: bool = False

    def made(self, name: str, places: Iterable[str]) -> list[str]:
        """The file of that name, or without one what ``path`` names, for each of the ``places`` that stand for it."""
        pattern = self.files[name] if name else self.path
        return [place + pattern.removeprefix(self.path) if place != self.path else pattern for place in places]


def each(stem: str, *endings: str) -> dict[str, str]:
    """A file for each ending, by its ending.

    >>> each("{study}/tables/{table}", ".csv", ".md")
    {'csv': '{study}/tables/{table}.csv', 'md': '{study}/tables/{table}.md'}
    """
    return {ending.strip("._"): stem + ending for ending in endings}


def folder_of_run(folder: str, priority: int, **files: str) -> Kind:
    """A kind of job that makes a run: ``files`` by name, in a folder of its own below the study's ``folder``."""
    path = f"{{study}}/{folder}/{{dataset}}/{{setting}}/{{method}}/seed{{seed}}"
    files = {name: f"{path}/{file}" for name, file in files.items()}
    return Kind(path, files, priority, several=True)


FEDERATE = folder_of_run("runs", 30, metrics="metrics.parquet", state="state.safetensors", record="run.json")
RUNS: Mapping[str, Kind] = {
    "federate": FEDERATE,
    "external": replace(FEDERATE, several=False),
    "memorize": folder_of_run(
        "generators", 20, generator="generator.safetensors", record="run.json", samples="samples.png"
    ),
    "personalize": folder_of_run("runs", 10, metrics="metrics.parquet", record="run.json"),
}
"""The jobs that make runs, by stage."""
KINDS: Mapping[str, Kind] = {
    "data": Kind("data/{name}.npz", {"data": "data/{name}.npz", "picture": "data/{name}.png"}, 50),
    "partition": Kind(f"{PARTITION}.npz", {"partition": f"{PARTITION}.npz", "picture": f"{PARTITION}.png"}, 40),
    "initial": Kind("{study}/initial/{dataset}/seed{seed}.safetensors"),
    "semantics": Kind("semantics/{dataset}/{semantics}.npz", priority=40),
    **RUNS,
    "tune": Kind("{study}/tuning/{dataset}/{method}.json", priority=20),
    "table": Kind(f"{TABLE}.csv", each(TABLE, ".csv", ".md", ".tex", ".html")),
    "figure": Kind(f"{FIGURE}.csv", each(FIGURE, *DRAWN, *(f"_own{ending}" for ending in DRAWN), ".csv")),
    "report": Kind("{study}/report.html"),
    "claims": Kind(f"{CLAIMS}.json", each(CLAIMS, ".json", ".csv", ".md")),
    "compare": Kind("{study}/verdict/{compare}.csv"),
}
"""Every kind of job, in the order of the stages; ``compare`` makes what stands beside verdicts where there are none."""
STUDY = "{study}/study.json"
PROGRAM = "{study}/programs/{dataset}/{setting}/{method}/seed{seed}/metrics.csv"
"""What a foreign program writes, from which a run is made."""
COURSE = each("{study}/figures/{course}", *DRAWN, ".csv")
"""A figure of the course of events, which is the same for all tests, by ending."""
BESIDE: Mapping[str, tuple[str, ...]] = {
    name: tuple(f"{{study}}/verdict/{name}{ending}" for ending in endings)
    for name, endings in {
        **dict.fromkeys(("forest", "dumbbell"), (".csv", *DRAWN)),
        "ranks": (".csv", "_pairs.csv", *DRAWN),
        **dict.fromkeys(("spread", "readings", "teachers", "controls"), (".csv", ".md")),
    }.items()
}
"""What is made with the verdicts, by name: their picture, published beside reproduced, ranks of the
methods, spread over clients, choice of the reading, teachers, controls."""


def log_of(kind: str, path: str) -> str:
    """Where the rule of a job writes its log; ``path`` is what the job makes, or what names one that makes several runs
    (`apfl.study.runs.jobs_of`).

    >>> log_of("federate", "demo/runs/digits/iid-clients5/fedavg/seed0")
    'demo/logs/runs/digits/iid-clients5/fedavg/seed0.log'
    >>> log_of("semantics", "semantics/digits/clip.npz"), log_of("table", "{study}/tables/{table}.csv")
    ('logs/semantics/digits/clip.log', '{study}/logs/tables/{table}.log')
    >>> log_of("federate", "demo/runs/digits/iid-clients5/fedavg/seeds")
    'demo/logs/runs/digits/iid-clients5/fedavg/seeds.log'
    """
    return _beside("logs", ".log", kind, path)


def program_log(run: str = "{study}/runs/{dataset}/{setting}/{method}/seed{seed}") -> str:
    """Where the rule of a foreign program writes its log; `log_of` its run is what checking it said."""
    return log_of("external", run).replace("/logs/runs/", "/logs/programs/", 1)


def benchmark_of(kind: str, path: str) -> str:
    """Where Snakemake writes what a job took.

    >>> benchmark_of("data", "data/digits-300.npz")
    'benchmarks/data/digits-300.tsv'
    """
    return _beside("benchmarks", ".tsv", kind, path)


def command(study: str | os.PathLike[str], *targets: str) -> str:
    """The command that makes a study in a file, or ``targets`` of it.

    >>> command("my studies/one.yaml", "results/one/tables/table2.csv")
    "snakemake --configfile='my studies/one.yaml' results/one/tables/table2.csv"
    """
    # With a space in place of = Snakemake takes a target behind the file for a second one.
    return " ".join([f"snakemake --configfile={shlex.quote(os.fspath(study))}", *map(shlex.quote, targets)])


def _beside(folder: str, ending: str, kind: str, path: str) -> str:
    """The path with ``folder`` below the study, or first where the file belongs to no study."""
    stem = path if kind in RUNS else path.rpartition(".")[0]
    study, _, rest = ("", "", stem) if kind in ("data", "semantics") else stem.partition("/")
    return "/".join(filter(None, (study, folder, f"{rest}{ending}")))
