# Federated training: one rule for all methods, one job for a method in a setting, with a seed or with all.


rule federate:
    input:
        unpack(of("federate", calls.inputs)),
    output:
        metrics=made("federate", "metrics"),
        state=made("federate", "state"),
        record=made("federate", "record"),
    log:
        log_of("federate"),
    benchmark:
        benchmark_of("federate")
    wildcard_constraints:
        method=calls.any_of(PLAN.variants("federate")),
    priority: KINDS["federate"].priority
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        gpu=gpus(),
        mem_mb=8000,
        runtime=1440,
    params:
        runs=options("federate", calls.run_options),
        code=of("federate", calls.run_code),
    shell:
        "python -m apfl federate {params.runs} > {log:q} 2>&1"
