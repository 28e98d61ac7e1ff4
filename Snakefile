# From raw images to the paper's tables and figures.
#
#   snakemake                                  the demo: every table and figure in miniature, nothing to download
#   snakemake --configfile config/cpu.yaml     real data found under data_root
#   snakemake tables | figures | report        parts of it; partial: tables and figures of what is there already
#
# Nothing here computes: every rule calls `python -m apfl`. What is run is decided by apfl/study/cells.py from the configuration.

import os

from snakemake.utils import min_version

min_version("9.14")

# Snakemake merges files given with --configfile into this one, so the demo is read only where no other study is named.
if "name" not in config:

    configfile: os.path.join(workflow.basedir, "config/demo.yaml")


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/federate.smk"
include: "workflow/rules/apfl.smk"
include: "workflow/rules/external/flower.smk"
include: "workflow/rules/tuning.smk"
include: "workflow/rules/paper.smk"
include: "workflow/rules/verdict.smk"


report: "workflow/report/workflow.rst"


# The runs stand here beside the tables made from them: where only tables are asked for, a table that is older than a
# failed run would pass for a finished one.
rule all:
    default_target: True
    input:
        PLAN.run_files(),
        PLAN.partitions(".png"),
        rules.tables.input,
        rules.figures.input,
        rules.report.input,
        rules.verdict.input,
