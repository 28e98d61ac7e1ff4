# What is judged from finished runs: a verdict on each of the paper's claims, and what stands beside it.

CLAIMS = [f"results/{path}" for path in KINDS["claims"].files.values()]
BESIDE = [f"results/{path}" for path in paths.BESIDE]
SEEN = [name for name in JUDGED if PLAN.cells.get(name)]


rule claims:
    input:
        PLAN.shown(SEEN),
        study="results/{study}/study.json",
    output:
        report(CLAIMS, caption="../report/claims.rst", category="Verdicts"),
        BESIDE,
    log:
        log_of("claims"),
    conda:
        "../../environment.yml"
    threads: 1
    params:
        code=shown_code(
            "apfl.paper.verdict.document",
            "apfl.paper.outputs",
            files=("apfl/paper/verdict/claims.yaml", "apfl/paper/published"),
        ),
    shell:
        "python -m apfl claims {input.study:q} > {log:q} 2>&1"


rule verdict:
    input:
        PLAN.shown(SEEN),
        expand(CLAIMS + BESIDE, study=STUDY.name),
