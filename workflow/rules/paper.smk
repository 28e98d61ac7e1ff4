# The paper's outputs from finished runs.

# Named here, because with a storage provider Snakemake expands no output of another rule.
TABLE = [f"results/{path}" for path in KINDS["table"].files.values()]
*FIGURE, FIGURE_POINTS = (f"results/{path}" for path in KINDS["figure"].files.values())
*COURSE, COURSE_POINTS = (f"results/{path}" for path in paths.COURSE.values())

PAPER_FILES = ("apfl/paper/published", "apfl/paper/templates")


rule study:
    output:
        "results/{study}/study.json",
    log:
        "results/{study}/logs/study.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        # A function, as Snakemake fills in what stands in braces, such as {dataset} in a path.
        text=lambda wildcards: STUDY_TEXT,
    shell:
        "printf '%s\\n' {params.text:q} > {output:q} 2> {log:q}"


rule table:
    input:
        lambda wildcards: PLAN.shown([wildcards.table]),
        study="results/{study}/study.json",
    output:
        report(
            TABLE,
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "{table}"},
        ),
    log:
        log_of("table"),
    conda:
        "../../environment.yml"
    threads: 1
    params:
        code=shown_code("apfl.paper.tables.build", "apfl.paper.tables.formats", files=PAPER_FILES),
    shell:
        "python -m apfl tables {input.study:q} --only {wildcards.table} > {log:q} 2>&1"


rule figure:
    input:
        lambda wildcards: PLAN.shown([wildcards.figure]),
        study="results/{study}/study.json",
    output:
        report(
            FIGURE,
            caption="../report/figure.rst",
            category="Figures",
            labels={"figure": "{figure}"},
        ),
        FIGURE_POINTS,
    log:
        log_of("figure"),
    conda:
        "../../environment.yml"
    threads: 1
    params:
        code=shown_code("apfl.paper.figures.files"),
    shell:
        "python -m apfl figures {input.study:q} --only {wildcards.figure} > {log:q} 2>&1"


# Figures of the course of events, which are the same for all tests.
rule course:
    input:
        lambda wildcards: PLAN.shown([wildcards.course]),
        study="results/{study}/study.json",
    output:
        report(
            COURSE,
            caption="../report/course.rst",
            category="Figures",
            labels={"figure": "{course}"},
        ),
        COURSE_POINTS,
    log:
        "results/{study}/logs/figures/{course}.log",
    conda:
        "../../environment.yml"
    threads: 1
    params:
        code=shown_code("apfl.paper.figures.files"),
    shell:
        "python -m apfl figures {input.study:q} --only {wildcards.course} > {log:q} 2>&1"


rule page:
    input:
        PLAN.page_inputs(),
        study="results/{study}/study.json",
    output:
        # No part of Snakemake's report: inlined there it is longer than browsers let such an address be.
        made("report"),
    log:
        log_of("report"),
    conda:
        "../../environment.yml"
    threads: 1
    params:
        code=shown_code("apfl.paper.report.report", files=(*PAPER_FILES, "apfl/paper/verdict/claims.yaml")),
    shell:
        "python -m apfl report {input.study:q} > {log:q} 2>&1"


# Each of these targets names the runs too; rule all says why.
rule tables:
    input:
        PLAN.shown(STUDY.tables),
        expand(TABLE, study=STUDY.name, table=STUDY.tables),


rule figures:
    input:
        PLAN.shown(STUDY.figures),
        expand([*FIGURE, FIGURE_POINTS], study=STUDY.name, figure=set(STUDY.figures) - set(COURSES)),
        expand([*COURSE, COURSE_POINTS], study=STUDY.name, course=set(STUDY.figures) & set(COURSES)),


rule report:
    input:
        PLAN.page_inputs(),
        expand(made("report"), study=STUDY.name),


# What is there already, at any time; what is missing is marked as not run. Nothing waits for a run.
rule partial:
    input:
        expand("results/{study}/study.json", study=STUDY.name),
    log:
        expand("results/{study}/logs/partial.log", study=STUDY.name),
    localrule: True
    conda:
        "../../environment.yml"
    threads: 1
    shell:
        "out=$(dirname {input:q})/partial; exec > {log:q} 2>&1;"
        " python -m apfl tables {input:q} --partial --out $out/tables;"
        " python -m apfl figures {input:q} --partial --out $out/figures;"
        " python -m apfl claims {input:q} --partial --out $out/verdict;"
        " python -m apfl report {input:q} --out $out/report.html"
