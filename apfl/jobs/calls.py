"""What the jobs of a study read, make and are called with: what the rules of the workflow say, without Snakemake.

A job is found by its kind and by Snakemake's wildcards, the names in braces in `apfl.jobs.paths`. Files are relative to
the folder that Snakemake works in, so that they begin with results/. Where another workflow takes this one as a module
with a prefix, Snakemake puts it before all inputs and outputs, and calls get it as ``root``.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from posixpath import dirname, join
from typing import Any

from apfl.data.catalogue import UNDER_ROOT
from apfl.errors import UserError, require
from apfl.jobs.before import NOTE
from apfl.jobs.paths import KINDS, PROGRAM, RUNS, benchmark_of, log_of
from apfl.registry.code import code_digest, files_digest
from apfl.registry.trees import ROOT
from apfl.storage.files import canonical_json, first_line
from apfl.study import cells as asked
from apfl.study.cells import Cell
from apfl.study.outputs import OUTPUTS
from apfl.study.runs import Artefact, Run, jobs_of
from apfl.study.study import MethodEntry, Study

RESULTS = "results/"
LISTED = {"data", "methods"}
"""Parts of a study whose entries tables show in the order in which they are listed."""
READ_OF_A_RUN = {"run": "/state.safetensors", "generator": "/generator.safetensors"}
"""What of a run's folder the runs read that start from it, by the name of the input."""
LONGEST = 120_000
"""How many characters a job's call may have: Linux takes 131,072 bytes in one word, with what `shell_prefix` adds."""
DATA_ROOTS = dict.fromkeys(UNDER_ROOT, "$APFL_DATA_ROOT") | {"torchvision": "${APFL_DATA_ROOT:-downloads}"}
"""Where a source looks for images; the job's shell sets the variables (`shell_prefix`)."""


@dataclass(frozen=True)
class Rule:
    """A rule of the workflow for a ``kind`` of job, its ``name`` there, and where its files are.

    job: what names a job of the rule, with wildcards or without; places: the `Kind.path` of all that it makes;
    runs: the runs that it makes, if no wildcards say so.
    """

    kind: str
    name: str
    job: str
    places: tuple[str, ...]
    runs: tuple[Run, ...] = ()

    def made(self, name: str = "") -> list[str]:
        """The file of that name, or without one what the job is there to make; of several runs those of each."""
        return [RESULTS + path for path in KINDS[self.kind].made(name, self.places)]

    @property
    def log(self) -> str:
        return RESULTS + log_of(self.kind, self.job)

    @property
    def benchmark(self) -> str:
        return RESULTS + benchmark_of(self.kind, self.job)


@dataclass(frozen=True)
class Plan:
    """A study with all that is made for it: by path its runs and the files that they read, by output its cells."""

    study: Study
    runs: Mapping[str, Run]
    artefacts: Mapping[str, Artefact]
    cells: Mapping[str, Sequence[Cell]]

    @classmethod
    def of(cls, study: Study) -> Plan:
        given = list(asked.requests(study))
        runs, cells = asked.runs(study, given), {output: list[Cell]() for output in OUTPUTS}
        for cell, _ in given:
            cells[cell.output].append(cell)
        artefacts = asked.artefacts(study, runs)
        return cls(study, {run.path: run for run in runs}, {entry.path: entry for entry in artefacts}, cells)

    def jobs(self, kind: str, wildcards: Mapping[str, str]) -> list[Run | Artefact]:
        """What the wildcards spell out: a file that runs read, a run, or, without a seed, the runs of all seeds."""
        seeds = (wildcards["seed"],) if "seed" in wildcards else self.study.seeds
        paths = dict.fromkeys(KINDS[kind].path.format_map({**wildcards, "seed": seed}) for seed in seeds)
        return [self.runs[path] if kind in RUNS else self.artefacts[path] for path in paths]

    def rules(self, kind: str, unit: str) -> list[Rule]:
        """The rules that make jobs of a kind, if a training job makes the runs of one ``unit`` (`job_unit`): one whose
        wildcards tell its jobs apart, or one for each batch of runs, whose paths no pattern covers."""
        path = KINDS[kind].path
        if not KINDS[kind].several or unit == "seed":
            return [Rule(kind, kind, path, (path,))]
        if unit == "cell":
            cell = path.removesuffix("/seed{seed}")
            return [Rule(kind, kind, f"{cell}/seeds", tuple(f"{cell}/seed{seed}" for seed in self.study.seeds))]
        batches = jobs_of((run for run in self.runs.values() if run.stage == kind), unit)
        return [
            Rule(kind, f"{kind}_{number}", name, tuple(run.path for run in runs), tuple(runs))
            for number, (name, runs) in enumerate(batches.items(), 1)
        ]

    def run_files(self) -> list[str]:
        """Every file of every run."""
        return [
            RESULTS + file
            for run in self.runs.values()
            for name in RUNS[run.stage].files
            for file in RUNS[run.stage].made(name, [run.path])
        ]

    def partitions(self, ending: str = ".npz") -> list[str]:
        """The file of every partition, or its picture."""
        paths = (path for path, entry in self.artefacts.items() if entry.kind == "partition")
        return [RESULTS + path.removesuffix(".npz") + ending for path in paths]

    def shown(self, outputs: Iterable[str]) -> list[str]:
        """What tables and figures are made from: Table 1's partition, otherwise metrics and records of runs."""
        paths: dict[str, None] = {}
        for cell in (cell for output in outputs for cell in self.cells[output]):
            for path in (*cell.runs, *cell.origins):
                names = ("/metrics.parquet", "/run.json") if path in self.runs else ("",)
                paths |= dict.fromkeys(RESULTS + path + name for name in names)
        return list(paths)

    def page_inputs(self) -> list[str]:
        """What the page is made from: what all outputs and the choices show, every record, every partition."""
        records = (f"{RESULTS}{path}/run.json" for path in self.runs)
        shown = self.shown((*self.study.tables, *self.study.figures, "selection"))
        return list(dict.fromkeys([*shown, *records, *self.choices(), *self.partitions()]))

    def choices(self) -> list[str]:
        """The file of every choice among trials."""
        return [RESULTS + path for path, entry in self.artefacts.items() if entry.kind == "tune"]

    def tuned(self) -> set[str]:
        """The methods that are tuned."""
        return {entry.spec["method"] for entry in self.artefacts.values() if entry.kind == "tune"}

    def variants(self, stage: str, module: str | None = None) -> set[str]:
        """The folders below a setting that a stage makes, or of these the runs of one ``module``."""
        runs = (run for run in self.runs.values() if run.stage == stage)
        return {run.variant for run in runs if module in (None, run.spec.get("module"))}

    def programs(self, way: str, value: str = "") -> set[str]:
        """The folders below a setting of foreign programs that run by a "command", or by the "rule" of that name."""
        foreign = (run for run in self.runs.values() if run.stage == "external")
        ours = {run.variant: self.study.methods[run.method].external.get(way) for run in foreign}
        return {variant for variant, found in ours.items() if found and value in ("", found)}

    def program_files(self, runs: Sequence[Run]) -> list[str]:
        """What of a run's program lies beside the study."""
        return [os.path.abspath(file) for file in self._method(runs).files]

    def command(self, runs: Sequence[Run]) -> str:
        """The command of a run's program."""
        return self._method(runs).external["command"]

    def path(self, runs: Sequence[Run]) -> str:
        """Where a run's program looks for programs first, as the beginning of PATH."""
        env = self._method(runs).external.get("env")
        return shlex.quote(f"{os.path.abspath(env)}/bin:") if env else ""

    def accepted(self, runs: Sequence[Run]) -> str:
        """What is said of a run's program when it is checked: the role of its models, and a digest of its files."""
        method, rules = self._method(runs), [self.study.rules] if self.study.rules else []
        files = method.files if "command" in method.external else rules
        digested = files_digest(*files, root=Path.cwd())
        return _options({"model": method.external["model"], "code": digested})

    def _method(self, runs: Sequence[Run]) -> MethodEntry:
        return self.study.methods[runs[0].method]

    def text(self, config: Mapping[str, Any]) -> str:
        """The configuration as it is run, with all that the command line changed but for where the data lie, with the
        rows of traces in place of their files, and with files and folders beside the study as they are named from here.
        Only the order of `LISTED` counts."""
        given = {key: value for key, value in config.items() if not key.endswith("_root")}
        given |= {"schedules": self.study.schedules}
        if self.study.rules:
            given |= {"rules": self.study.rules}
        if own := {id_: method.named for id_, method in self.study.methods.items() if method.named}:
            given |= {"methods": {id_: entry | own.get(id_, {}) for id_, entry in given["methods"].items()}}
        text = json.loads(json.dumps(given, sort_keys=True))
        return json.dumps(
            text | {part: {name: text[part][name] for name in given[part]} for part in LISTED & given.keys()}
        )


def inputs(jobs: Iterable[Run | Artefact]) -> dict[str, list[str]]:
    """By name, the files that jobs read."""
    read: dict[str, dict[str, None]] = {}
    for job in jobs:
        for name, path in job.inputs.items():
            read.setdefault(name, {})[RESULTS + path + READ_OF_A_RUN.get(name, "")] = None
        if "saved" in job.spec:
            read.setdefault("note", {})[_note_of(job)] = None
    return {name: list(paths) for name, paths in read.items()}


def tried(entries: Sequence[Artefact]) -> list[str]:
    """What a choice among trials is made from."""
    (entry,) = entries
    runs = (run for trial in entry.spec["trials"] for run in trial["runs"])
    return [RESULTS + run + name for run in dict.fromkeys(runs) for name in ("/metrics.parquet", "/run.json")]


def run_options(runs: Iterable[Run], root: str = RESULTS) -> str:
    """For each run its specification, its inputs, with - for those that only others read, and its folder; a `UserError`
    if the system takes no call so long."""
    runs = list(runs)
    names = dict.fromkeys(name for run in runs for name in run.inputs)
    words = " ".join(_run_words(run, names, root, run.path) for run in runs)
    require(
        len(words) < LONGEST, f"one_job_per: the call of a job has {len(words)} characters; put fewer runs into one"
    )
    return words


def program_options(runs: Sequence[Run], root: str = RESULTS) -> str:
    """What a foreign program is called with: its run's specification, its inputs, and the folder for metrics.csv."""
    (run,) = runs
    return _run_words(run, run.inputs, root, dirname(program_of(run)))


def accept_options(runs: Sequence[Run], root: str = RESULTS) -> str:
    """The run that is made of what a foreign program has written."""
    (run,) = runs
    return _run_words(run, [name for name in run.inputs if name != "initial"], root, run.path)


def program_of(run: Run) -> str:
    """What a foreign program writes, below results/."""
    return PROGRAM.format_map({**vars(run), "study": run.path.partition("/")[0], "method": run.variant})


def data_options(entries: Sequence[Artefact]) -> str:
    """Which data set, where it comes from, and how many of its images."""
    (entry,) = entries
    spec = entry.spec
    given = {"source": spec["source"]}
    if root := DATA_ROOTS.get(spec["source"]):
        given["path"] = f'"{join(root, spec["folder"])}"'
    if spec["max_samples"]:
        given["max-samples"] = spec["max_samples"]
    if "classes" in spec:
        given["classes"] = spec["classes"]
    return f"{spec['dataset']} {_options(given)}"


def partition_options(entries: Sequence[Artefact]) -> str:
    """Whether validation images are set aside, and the saved partition that is taken over."""
    (entry,) = entries
    saved = f'--saved "{join("$APFL_DATA_ROOT", entry.spec["saved"])}"' if "saved" in entry.spec else ""
    return " ".join(filter(None, ("--validation" if "validation" in entry.spec else "", saved)))


def source_note(entries: Sequence[Artefact]) -> list[str]:
    """The note on what the files of a data set hold, so that it is made again when that has changed."""
    return [_note_of(entry) for entry in entries if entry.spec["source"] in UNDER_ROOT]


def semantics_options(entries: Sequence[Artefact], root: str = RESULTS) -> str:
    """What an embedding is made from, and how."""
    (entry,) = entries
    spec = entry.spec
    words = {name: root + path for name, path in entry.inputs.items()}
    words |= {name: str(spec[name]) for name in ("source", "model", "dimension") if name in spec}
    given = {name: shlex.quote(word) for name, word in words.items()}
    if "path" in spec:
        given["path"] = f'"{join("$APFL_SEMANTICS_ROOT", spec["path"])}"'
    return " ".join([_options(given), *(f"--template {shlex.quote(text)}" for text in spec.get("template", ()))])


def specification(entries: Sequence[Artefact]) -> str:
    """How a file is made, as JSON."""
    (entry,) = entries
    return canonical_json(entry.spec)


def run_code(runs: Iterable[Run]) -> str:
    """What stands for the code of runs: a line for each method among them."""
    return "\n".join(code_of(modules) for modules in dict.fromkeys(run.modules for run in runs))


def code_of(modules: Iterable[str], files: Iterable[str] = (), titles: Iterable[str] = ()) -> str:
    """What stands for the code of a job and for the folders that it reads, as Snakemake does not see that an imported
    module has changed, or a template; with the ``titles`` of methods, which head columns and decide no run."""
    code = code_digest(*modules) + "".join(f" {files_digest(folder)}" for folder in files)
    return "\n".join([code, *titles])


def shell_prefix(study: Study, code: str, programs: str) -> str:
    """What a job's shell sets first: where the code is, before the user's own, where data and embeddings are, what of
    finished runs is kept, and where, and, unless it is empty, the folder in which programs are looked for before
    others. None of it is a parameter of a job, so that moving the data computes nothing again."""
    given = {"APFL_DATA_ROOT": study.data_root, "APFL_SEMANTICS_ROOT": study.semantics_root}
    given |= {"APFL_STORE_ROOT": study.store_root, "APFL_LAST_STATE": str(int(study.keep_last_state))}
    sets = [f"export PYTHONPATH={shlex.quote(code)}${{PYTHONPATH:+:$PYTHONPATH}}; "]
    sets += [f"export {name}={shlex.quote(value)}; " for name, value in given.items()]
    return "".join(sets) + (f"export PATH={shlex.quote(programs)}:$PATH; " if programs else "")


def in_container(study: Study, environ: Mapping[str, str]) -> str:
    """What apptainer is called with, so that jobs in a container see the code, the data and the store, which is made if
    need be, as apptainer wants folders that are there; a `UserError` without an image."""
    if not environ.get("APFL_CONTAINER"):
        raise UserError("--sdm apptainer: no image is named; set APFL_CONTAINER to one, docs/environments.md says how")
    if study.store_root:
        try:
            os.makedirs(study.store_root, exist_ok=True)
        except OSError as error:
            raise UserError(f"store_root: {first_line(error)}; name a folder that can be written") from None
    folders = [str(ROOT), study.data_root, study.semantics_root, study.store_root]
    return "".join(f" --bind {shlex.quote(os.path.abspath(folder))}" for folder in dict.fromkeys(folders) if folder)


def external_python(code: str | os.PathLike[str], name: str) -> str:
    """The interpreter of a foreign method: its conda environment's, or that of .venv-{name} beside the code."""
    own = os.path.join(code, f".venv-{name}", "bin", "python")
    return own if os.path.exists(own) else "python"


def any_of(values: Iterable[str]) -> str:
    """A regular expression for a wildcard that takes these values and no other.

    >>> any_of(["table2", "table1"]), any_of([])
    ('table1|table2', 'none')
    """
    return "|".join(re.escape(value) for value in sorted(set(values))) or "none"


def _run_words(run: Run, names: Iterable[str], root: str, out: str) -> str:
    """A run's specification, its inputs of these names, with - for one that it does not read, and a folder."""
    read = {name: root + run.inputs[name] if name in run.inputs else "-" for name in names}
    given = {"spec": canonical_json(run.spec), **read, "out": root + out}
    return _options({name: shlex.quote(word) for name, word in given.items()})


def _note_of(job: Run | Artefact) -> str:
    return RESULTS + job.path.removesuffix(".npz") + NOTE


def _options(values: Mapping[str, object]) -> str:
    return " ".join(f"--{name} {value}" for name, value in values.items())
