# Which trial of each method is chosen. Trials are runs like any other; tuned runs read the choice when they start.


rule tune:
    input:
        of("tune", calls.tried),
        # It is written anew whenever anything of the study changes; the trials are in the parameters.
        study=ancient("results/{study}/study.json"),
    output:
        made("tune"),
    log:
        log_of("tune"),
    wildcard_constraints:
        method=calls.any_of(PLAN.tuned()),
    priority: KINDS["tune"].priority
    localrule: True
    conda:
        "../../environment.yml"
    threads: 1
    params:
        trials=of("tune", calls.specification),
        code=code("apfl.paper.numbers.tuning"),
    shell:
        "python -m apfl tune {input.study:q} --dataset {wildcards.dataset} --method {wildcards.method} > {log:q} 2>&1"
