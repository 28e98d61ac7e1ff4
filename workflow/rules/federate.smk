# Federated training: one rule for all methods, one job for a method in a setting, with a seed or with all.


for one in rules_of("federate"):

    rule:
        name:
            one.name
        input:
            unpack(of(one, calls.inputs)),
        output:
            metrics=made(one, "metrics"),
            state=made(one, "state"),
            record=made(one, "record"),
        log:
            log_of(one),
        benchmark:
            benchmark_of(one)
        wildcard_constraints:
            method=calls.any_of(PLAN.variants("federate")),
        priority: KINDS["federate"].priority
        conda:
            "../../environment.yml"
        threads: 1
        resources:
            gpu=gpu(),
            mem_mb=8000,
            runtime=1440,
        params:
            runs=options(one, calls.run_options),
            code=of(one, calls.run_code),
        shell:
            "python -m apfl federate {params.runs} > {log:q} 2>&1"
