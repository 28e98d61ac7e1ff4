# What is judged from finished runs: a verdict on each of the paper's claims.

from apfl.paper.claims import claims as paper_claims

CLAIMS = expand("results/{{study}}/verdict/claims.{format}", format=["json", "csv", "md"])
# The study's tables and figures that claims are about.
JUDGED = sorted({claim.output for claim in paper_claims()} & {*STUDY.tables, *STUDY.figures})


rule claims:
    input:
        shown(*JUDGED),
        study="results/{study}/study.json",
    output:
        report(CLAIMS, caption="../report/claims.rst", category="Verdicts"),
    log:
        "results/{study}/logs/claims.log",
    conda:
        "../../environment.yml"
    threads: 1
    params:
        code=code("apfl.paper.verdict_pages", files=("apfl/paper/claims.yaml", "apfl/paper/published")),
    shell:
        "python -m apfl claims {input.study:q} > {log:q} 2>&1"


rule verdict:
    input:
        shown(*JUDGED),
        expand(CLAIMS, study=STUDY.name),
