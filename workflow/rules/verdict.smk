# What is judged from finished runs: a verdict on each of the paper's claims, and what stands beside it.

from apfl.paper.claims import claims as paper_claims

CLAIMS = expand("results/{{study}}/verdict/claims.{format}", format=["json", "csv", "md"])
# The verdicts as a picture, ranks of the methods, the choice of the reading, teachers of the friends: apfl.paper.beside.
BESIDE = expand(
    "results/{{study}}/verdict/{name}",
    name=[
        *("forest.csv", "forest.svg", "forest.pdf", "forest.png"),
        *("ranks.csv", "ranks_pairs.csv", "ranks.svg", "ranks.pdf", "ranks.png"),
        *("readings.csv", "readings.md", "teachers.csv", "teachers.md"),
        *("controls.csv", "controls.md"),
    ],
)
# The study's tables and figures that claims are about, those whose readings have teachers, and what readings are chosen by.
JUDGED = sorted({claim.output for claim in paper_claims()} & {*STUDY.tables, *STUDY.figures})
HAVE = {name for name, found in CELLS.items() if found}
SEEN = sorted({*JUDGED, *({"table2", "table3", "table4", "figure_multiverse", "selection"} & HAVE)})


rule claims:
    input:
        shown(*SEEN),
        study="results/{study}/study.json",
    output:
        report(CLAIMS, caption="../report/claims.rst", category="Verdicts"),
        BESIDE,
    log:
        "results/{study}/logs/claims.log",
    conda:
        "../../environment.yml"
    threads: 1
    params:
        code=shown_code(
            "apfl.paper.verdict_pages", "apfl.paper.beside", files=("apfl/paper/claims.yaml", "apfl/paper/published")
        ),
    shell:
        "python -m apfl claims {input.study:q} > {log:q} 2>&1"


rule verdict:
    input:
        shown(*SEEN),
        expand(CLAIMS + BESIDE, study=STUDY.name),
