# What is judged from finished runs: in a study of the paper a verdict on each of its claims, and what stands beside it;
# otherwise that alone for which the study has runs, such as the ranks of its methods.

CLAIMS = [f"results/{path}" for path in KINDS["claims"].files.values()]
COMPARED = beside(STUDY)
BESIDE = [f"results/{path}" for name in COMPARED for path in paths.BESIDE[name]]
SEEN = [name for name in JUDGED if PLAN.cells.get(name)]
JUDGING = shown_code(
    "apfl.paper.verdict.document",
    "apfl.paper.outputs",
    files=("apfl/paper/verdict/claims.yaml", "apfl/paper/published"),
)


if STUDY.paper:

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
            code=JUDGING,
        shell:
            "python -m apfl claims {input.study:q} > {log:q} 2>&1"

elif COMPARED:

    rule compare:
        input:
            PLAN.shown(SEEN),
            study="results/{study}/study.json",
        output:
            BESIDE,
        log:
            log_of("compare").replace("{compare}", COMPARED[0]),
        conda:
            "../../environment.yml"
        threads: 1
        params:
            code=JUDGING,
        shell:
            "python -m apfl claims {input.study:q} > {log:q} 2>&1"


rule verdict:
    input:
        PLAN.shown(SEEN) if BESIDE else [],
        expand((CLAIMS if STUDY.paper else []) + BESIDE, study=STUDY.name),
