# Helpers for all rules: the study, its jobs by path, and what a job is called with. Paths of the study are relative to results/.

import json
import os
import re
import shlex
import shutil
import sys
from pathlib import Path

from snakemake.settings.types import DeploymentMethod

sys.path.insert(0, str(workflow.basedir))
from apfl.data.catalogue import UNDER_ROOT
from apfl.errors import UserError
from apfl.jobs.before import NOTE, clear_stale_locks, date_back, note_sources, try_once
from apfl.registry.code import code_digest, files_digest
from apfl.storage.files import canonical_json
from apfl.study.cells import artefacts, cells, runs
from apfl.study.load import load_study, typed
from apfl.study.outputs import COURSES, OUTPUTS
from apfl.study.parse import read
from apfl.study.runs import job_unit


def load():
    """The study; by path its runs and what they read; by output its cells. A mistake ends in one line, before any job."""
    try:
        for path in workflow.configfiles:
            read(path)  # Snakemake takes the last of two equal keys, and says nothing
        config.update(typed(config, workflow.config_settings.config or {}))
        study = load_study(config, [os.path.dirname(path) for path in workflow.configfiles])
        planned = {run.path: run for run in runs(study)}
        files = {entry.path: entry for entry in artefacts(study)}
        return study, planned, files, {output: cells(study, output) for output in OUTPUTS}
    except UserError as error:
        refuse(error)


def code(*modules, files=()):
    """The digest of the code that a job runs, and of the folders with files that it reads: Snakemake does not see that an
    imported module has changed, or a template."""
    try:
        return code_digest(*modules) + "".join(f" {files_digest(folder)}" for folder in files)
    except UserError as error:
        refuse(error)


def shown_code(*modules, files=()):
    """The code of what shows results, and the titles of methods, which head columns and decide no run."""
    return "\n".join([code(*modules, files=files), *(method.title for method in STUDY.methods.values())])


def refuse(error):
    """End with one line and status 2, as the command line does."""
    print(f"apfl: error: {error}", file=sys.stderr)
    raise SystemExit(2)


STUDY, RUNS, ARTEFACTS, CELLS = load()

# After a kill, and after the clock was set back, the same command goes on.
if workflow.is_main_process:
    clear_stale_locks()
    date_back()
    try:
        note_sources(STUDY, (entry for entry in ARTEFACTS.values() if entry.kind == "data"))
    except (UserError, OSError) as error:
        refuse(error)

RUN_OUTPUTS = {
    "federate": ("metrics.parquet", "state.safetensors", "run.json"),
    "external": ("metrics.parquet", "state.safetensors", "run.json"),
    "memorize": ("generator.safetensors", "run.json", "samples.png"),
    "personalize": ("metrics.parquet", "run.json"),
}
READ_FROM_A_RUN = {"run": "state.safetensors", "generator": "generator.safetensors"}


def prefix():
    """What every job's shell sets first.

    Jobs run with the interpreter of this Snakemake, or with that of the rule's conda environment where one is asked for. The
    roots are no parameters of a job, so that moving the data elsewhere computes nothing again.
    """
    exports = {
        "PYTHONPATH": str(workflow.basedir),
        "APFL_DATA_ROOT": STUDY.data_root,
        "APFL_SEMANTICS_ROOT": STUDY.semantics_root,
    }
    commands = [f"export {name}={shlex.quote(value)}; " for name, value in exports.items()]
    if DeploymentMethod.CONDA not in workflow.deployment_settings.deployment_method:
        commands.append(f"export PATH={shlex.quote(os.path.dirname(sys.executable))}:$PATH; ")
    return "".join(commands)


shell.prefix(prefix().replace("{", "{{").replace("}", "}}"))


def gpus():
    """How many GPUs a training job occupies: 1 where there is one, so that `--resources gpu=N` limits the jobs.

    A job on a node of a cluster takes what it was given: the node may have GPUs that the job has not been granted.
    """
    return int(not workflow.remote_exec and shutil.which("nvidia-smi") is not None)


def one_job_per():
    """Whether a training job makes the run of one "seed" or those of a "cell".

    Jobs on other machines read this file too, and are told in the environment what was decided where they were planned.
    """
    if workflow.is_main_process:
        os.environ["APFL_ONE_JOB_PER"] = job_unit(STUDY.one_job_per)
    return os.environ.get("APFL_ONE_JOB_PER", "seed")


PER_CELL = one_job_per() == "cell"


envvars:
    "APFL_ONE_JOB_PER",


def each_seed(pattern):
    """A file of the one seed of a training job, or of all its seeds."""
    return [pattern.replace("{seed}", str(seed)) for seed in STUDY.seeds] if PER_CELL else [pattern]


def job_file(pattern):
    """A file of a training job, such as its log."""
    return pattern.replace("seed{seed}", "seeds") if PER_CELL else pattern


def pictures_of_samples(pattern):
    """What generators make, for the report."""
    common = {"caption": "../report/samples.rst", "category": "Synthetic images", "subcategory": "{dataset}"}
    seeds = map(str, STUDY.seeds) if PER_CELL else ["{seed}"]
    labels = [{"setting": "{setting}", "generator": "{method}", "seed": seed} for seed in seeds]
    return [report(path, labels=own, **common) for path, own in zip(each_seed(pattern), labels, strict=True)]


def any_of(values):
    """A regular expression for a wildcard that takes these values and no other."""
    return "|".join(re.escape(value) for value in sorted(set(values))) or "none"


def variants(stage):
    """The folders below a setting that a stage makes."""
    return any_of(run.variant for run in RUNS.values() if run.stage == stage)


def external_variants(module):
    """The folders below a setting that the rule of a foreign method makes."""
    return any_of(run.variant for run in RUNS.values() if run.spec.get("module") == module)


def external_python(name):
    """The interpreter of a foreign method: its conda environment's, or that of the folder .venv-{name}."""
    own = os.path.join(workflow.basedir, f".venv-{name}", "bin", "python")
    return own if os.path.exists(own) else "python"


def under_results(paths):
    return {name: os.path.join("results", path) for name, path in paths.items()}


def as_options(values):
    return " ".join(f"--{name} {value}" for name, value in values.items())


# Runs: their inputs, options, specification and code. A training job makes one run, or a cell's runs of all seeds.


def runs_of(wildcards, kind="runs"):
    """The runs whose folders the wildcards spell out."""
    place = f"{STUDY.name}/{kind}/{wildcards.dataset}/{wildcards.setting}/{wildcards.method}"
    seeds = [wildcards.seed] if "seed" in wildcards.keys() else STUDY.seeds
    return [RUNS[f"{place}/seed{seed}"] for seed in seeds]


def generators_of(wildcards):
    return runs_of(wildcards, "generators")


def files_of(runs):
    """By name, the files that runs read."""
    read = {}
    for run in runs:
        for name, path in under_results(run.inputs).items():
            read.setdefault(name, {})[os.path.join(path, READ_FROM_A_RUN.get(name, "")).rstrip(os.sep)] = None
    return {name: list(paths) for name, paths in read.items()}


def calls_of(runs):
    """What the command line takes for runs: specification, files and folder of each."""
    calls = []
    for run in runs:
        given = {
            "spec": canonical_json(run.spec),
            **under_results(run.inputs),
            "out": os.path.join("results", run.path),
        }
        calls.append(as_options({name: shlex.quote(value) for name, value in given.items()}))
    return " ".join(calls)


def run_inputs(wildcards):
    return files_of(runs_of(wildcards))


def run_calls(wildcards):
    return calls_of(runs_of(wildcards))


def run_code(wildcards):
    return code(*runs_of(wildcards)[0].modules)


def generator_inputs(wildcards):
    return files_of(generators_of(wildcards))


def generator_calls(wildcards):
    return calls_of(generators_of(wildcards))


def generator_code(wildcards):
    return code(*generators_of(wildcards)[0].modules)


def run_files():
    """Every file of every run of the study."""
    return [f"results/{run.path}/{name}" for run in RUNS.values() for name in RUN_OUTPUTS[run.stage]]


# Data sets, partitions and embeddings.


def data_files(wildcards):
    """The note on what the files of a data set hold, so that it is made again when that has changed."""
    source = ARTEFACTS[f"data/{wildcards.name}.npz"].spec["source"]
    return [f"results/data/{wildcards.name}{NOTE}"] if source in UNDER_ROOT else []


def data_options(wildcards):
    """Where a data set comes from; see `prefix` for why the root is an environment variable."""
    spec = ARTEFACTS[f"data/{wildcards.name}.npz"].spec
    roots = {name: "$APFL_DATA_ROOT" for name in UNDER_ROOT}
    roots |= {"torchvision": "${APFL_DATA_ROOT:-downloads}"}
    given = {"source": spec["source"]}
    if spec["source"] in roots:
        given["path"] = f'"{os.path.join(roots[spec["source"]], spec["folder"])}"'
    if spec["max_samples"]:
        given["max-samples"] = spec["max_samples"]
    if "classes" in spec:
        given["classes"] = spec["classes"]
    return f"{spec['dataset']} {as_options(given)}"


def partition_data(wildcards):
    entry = ARTEFACTS[f"{STUDY.name}/partitions/{wildcards.dataset}/{wildcards.setting}/seed{wildcards.seed}.npz"]
    return under_results(entry.inputs)


def initial_data(wildcards):
    entry = ARTEFACTS[f"{STUDY.name}/initial/{wildcards.dataset}/seed{wildcards.seed}.safetensors"]
    return under_results(entry.inputs)


def initial_spec(wildcards):
    return canonical_json(ARTEFACTS[f"{STUDY.name}/initial/{wildcards.dataset}/seed{wildcards.seed}.safetensors"].spec)


def semantics_inputs(wildcards):
    return under_results(ARTEFACTS[f"semantics/{wildcards.dataset}/{wildcards.semantics}.npz"].inputs)


def semantics_options(wildcards):
    entry = ARTEFACTS[f"semantics/{wildcards.dataset}/{wildcards.semantics}.npz"]
    given = {name: shlex.quote(path) for name, path in under_results(entry.inputs).items()}
    given |= {
        name: shlex.quote(str(entry.spec[name])) for name in ("source", "model", "dimension") if name in entry.spec
    }
    if "path" in entry.spec:
        given["path"] = f'"{os.path.join("$APFL_SEMANTICS_ROOT", entry.spec["path"])}"'
    prompts = (f" --template {shlex.quote(text)}" for text in entry.spec.get("template", ()))
    return as_options(given) + "".join(prompts)


def pictures():
    """The picture of every partition."""
    partitions = (path for path, entry in ARTEFACTS.items() if entry.kind == "partition")
    return [f"results/{path.removesuffix('.npz')}.png" for path in partitions]


# Tables and figures.


def study_text():
    """The configuration as it is run, with all that the command line changed but for where the data lie."""
    given = {key: value for key, value in config.items() if not key.endswith("_root")}
    # With the rows of traces in place of their files.
    return json.dumps(given | {"schedules": STUDY.schedules}, sort_keys=True)


# Jobs read the Snakefile too; what the whole workflow was tried out for needs no second trial.
if workflow.is_main_process:
    try:
        try_once(STUDY, study_text(), Path(".snakemake/tried"))
    except UserError as error:
        refuse(error)


def shown(*outputs):
    """What tables and figures are made from: Table 1's partition, otherwise metrics and records of runs."""
    paths = {}
    for output in outputs:
        names = [""] if output == "table1" else ["metrics.parquet", "run.json"]
        folders = (path for cell in CELLS[output] for path in (*cell.runs, *cell.origins))
        paths |= dict.fromkeys(os.path.join("results", path, name).rstrip(os.sep) for path in folders for name in names)
    return list(paths)


def table_inputs(wildcards):
    return shown(wildcards.table)


def figure_inputs(wildcards):
    return shown(wildcards.figure)


def course_inputs(wildcards):
    return shown(wildcards.course)


def page_inputs(wildcards):
    partitions = (path for path, entry in ARTEFACTS.items() if entry.kind == "partition")
    records = (f"{path}/run.json" for path in RUNS)
    return [*shown(*STUDY.tables, *STUDY.figures), *(os.path.join("results", path) for path in (*records, *partitions))]


wildcard_constraints:
    study=any_of([STUDY.name]),
    dataset="[a-z0-9_]+",
    semantics="[a-z0-9_]+",
    seed="[0-9]+",
    table=any_of(STUDY.tables),
    figure=any_of(set(STUDY.figures) - set(COURSES)),
    course=any_of(set(STUDY.figures) & set(COURSES)),
