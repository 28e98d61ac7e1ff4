# What is judged from finished runs: a verdict on each of the paper's claims, and what stands beside it.

from apfl.study.outputs import JUDGED

CLAIMS = expand("results/{{study}}/verdict/claims.{format}", format=["json", "csv", "md"])
# The verdicts as a picture, ranks of the methods, the choice of the reading, teachers of the friends: apfl.paper.outputs.
BESIDE = expand(
    "results/{{study}}/verdict/{name}",
    name=[
        *("forest.csv", "forest.svg", "forest.pdf", "forest.png"),
        *("ranks.csv", "ranks_pairs.csv", "ranks.svg", "ranks.pdf", "ranks.png"),
        *("readings.csv", "readings.md", "teachers.csv", "teachers.md"),
        *("controls.csv", "controls.md"),
    ],
)
SEEN = [name for name in JUDGED if CELLS.get(name)]


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
            "apfl.paper.verdict.document",
            "apfl.paper.outputs",
            files=("apfl/paper/verdict/claims.yaml", "apfl/paper/published"),
        ),
    shell:
        "python -m apfl claims {input.study:q} > {log:q} 2>&1"


rule verdict:
    input:
        shown(*SEEN),
        expand(CLAIMS + BESIDE, study=STUDY.name),
