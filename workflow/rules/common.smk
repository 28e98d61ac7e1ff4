# What all rules need: the study, and apfl/jobs (files and calls of the jobs) bound to Snakemake's wildcards.

import copy
import os
import sys
from functools import partial
from pathlib import Path

from snakemake.logging import logger
from snakemake.settings.enums import Quietness
from snakemake.settings.types import DeploymentMethod

# In a checkout its own modules count, also where another workflow imports this one; otherwise those that are installed.
CHECKOUT = os.path.abspath(workflow.current_basedir.join("../..").get_path_or_uri(secret_free=True))
if os.path.isdir(os.path.join(CHECKOUT, "apfl")):
    sys.path.insert(0, CHECKOUT)
from apfl.errors import UserError
from apfl.jobs import calls, paths
from apfl.jobs.before import clear_stale_locks, code_alone, date_back, note_sources, try_once
from apfl.jobs.paths import KINDS
from apfl.jobs.terminal import Terminal
from apfl.project import home
from apfl.study.cells import beside
from apfl.study.load import load_study, typed
from apfl.study.outputs import COURSES, JUDGED
from apfl.study.parse import read
from apfl.study.runs import gpus, job_unit


def in_one_line(work):
    """What a function answers. A mistake ends in one line and status 2, as on the command line, before any job."""
    try:
        return work()
    except UserError as error:
        print(f"apfl: error: {error}", file=sys.stderr)
        raise SystemExit(2)


def load():
    for path in workflow.configfiles:
        read(path)  # Snakemake takes the last of two equal keys, and says nothing
    # A whole study that is named on the command line takes the place of the Snakefile's; Snakemake would merge the two.
    if any("name" in read(path)[1] for path in workflow.overwrite_configfiles):
        config.clear()
        config.update(copy.deepcopy(workflow.config_settings.overwrite_config))
    config.update(typed(config, workflow.config_settings.config or {}))
    study = load_study(config, [os.path.dirname(path) for path in workflow.configfiles])
    return calls.Plan.of(study)


PLAN = in_one_line(load)
STUDY, STUDY_TEXT = PLAN.study, PLAN.text(config)
# Snakemake itself puts the prefix of a module before inputs and outputs, but not before what else a job is called with.
ROOT = workflow.modifier.path_modifier.replace_prefix(calls.RESULTS)

# Jobs read this file too, on other machines perhaps. They are told in the environment whether a training job makes the run
# of one "seed", those of a "cell" or those of several, and what the whole workflow was tried out for needs no second trial.
if workflow.is_main_process:
    os.environ["APFL_ONE_JOB_PER"] = job_unit(STUDY.one_job_per)
    # After a kill, and after the clock was set back, the same command goes on.
    clear_stale_locks()
    date_back(ROOT)
    in_one_line(lambda: note_sources(STUDY, PLAN.artefacts.values(), ROOT))
    in_one_line(lambda: try_once(STUDY, STUDY_TEXT, Path(".snakemake/tried")))

UNIT = os.environ.get("APFL_ONE_JOB_PER", "seed")


envvars:
    "APFL_ONE_JOB_PER",


# Jobs run with the interpreter of this Snakemake, or with that of the rule's conda environment or of its container where
# one is asked for. The packages come from there too, so that of this interpreter's folder only the suite is handed on.
HOME = str(home())
OWN = workflow.deployment_settings.deployment_method & {DeploymentMethod.CONDA, DeploymentMethod.APPTAINER}
if DeploymentMethod.APPTAINER in OWN:
    workflow.deployment_settings.apptainer_args += in_one_line(lambda: calls.in_container(STUDY, os.environ))
PREFIX = calls.shell_prefix(STUDY, code_alone(), "" if OWN else os.path.dirname(sys.executable))
shell.prefix(PREFIX.replace("{", "{{").replace("}", "}}"))


def gpu():
    """How many GPUs a training job occupies: 1 where one answers, so that `--resources gpu=N` limits the jobs.

    A job on a node of a cluster takes what it was given: the node may have GPUs that the job has not been granted.
    """
    return int(not workflow.remote_exec and gpus() > 0)


def rules_of(kind):
    """The rules that make the runs of a stage: one, or one for each batch (`one_job_per` in a study)."""
    return PLAN.rules(kind, UNIT)


# What --set-resources says of a stage holds for each of its batches.
GIVEN = workflow.resource_settings.overwrite_resources
for kind in GIVEN.keys() & KINDS.keys():
    GIVEN.update({one.name: GIVEN[kind] for one in rules_of(kind)})


def rule_of(kind):
    """The only rule of a kind, or one of several, which is given as it is."""
    return PLAN.rules(kind, UNIT)[0] if isinstance(kind, str) else kind


def made(kind, name=""):
    return rule_of(kind).made(name)


def pictures_of_samples(one):
    """What generators make, a picture a seed, for the report."""
    common = {"caption": "../report/samples.rst", "category": "Synthetic images"}
    shown = []
    for file, folder in zip(made(one, "samples"), one.places, strict=True):
        *_, dataset, setting, generator, seed = folder.split("/")
        labels = {"setting": setting, "generator": generator, "seed": seed.removeprefix("seed")}
        shown.append(report(file, subcategory=dataset, labels=labels, **common))
    return shown


def log_of(kind):
    return rule_of(kind).log


def benchmark_of(kind):
    return rule_of(kind).benchmark


def of(kind, said):
    """What a function of apfl/jobs/calls.py says of a job, whose wildcards tell it from others of its kind."""
    one = rule_of(kind)
    return lambda wildcards: in_one_line(lambda: said(one.runs or PLAN.jobs(one.kind, dict(wildcards.items()))))


def options(kind, said):
    """The same of options that name files below results/."""
    return of(kind, partial(said, root=ROOT))


def code(*modules):
    return in_one_line(lambda: calls.code_of(modules))


def shown_code(*modules, files=()):
    """The code of what shows results, and the titles of methods, which head columns and decide no run."""
    titles = [method.title for method in STUDY.methods.values()]
    return in_one_line(lambda: calls.code_of(modules, files, titles))


# The terminal says of each job what it is and how far the study is. (Only where this workflow is the main one.)
TERMINAL = Terminal(STUDY, Quietness.PROGRESS)


onstart:
    TERMINAL.begin(len(workflow.dag))
    logger.addFilter(TERMINAL)


onsuccess:
    print(*TERMINAL.last_words(), sep="\n", file=sys.stderr)


onerror:
    print(*TERMINAL.last_words(), sep="\n", file=sys.stderr)


# For foreign programs: the folder of a study's own rules, and the files of a program.
RULES = os.path.abspath(STUDY.rules) if STUDY.rules else ""
METRICS = f"results/{paths.PROGRAM}"
PROGRAM_LOG = f"results/{paths.program_log()}"


def made_by(rule):
    """The methods that a rule in the study's folder makes."""
    return calls.any_of(PLAN.programs("rule", rule))


wildcard_constraints:
    study=calls.any_of([STUDY.name]),
    dataset="[a-z0-9_]+",
    semantics="[a-z0-9_]+",
    seed="[0-9]+",
    table=calls.any_of(STUDY.tables),
    figure=calls.any_of(set(STUDY.figures) - set(COURSES)),
    course=calls.any_of(set(STUDY.figures) & set(COURSES)),
