# AP-FL, on the states that a federated run kept: the server's generator, then personalization on the clients.
# Other methods that start from a finished run, such as fine-tuning, are personalizations without a generator.


for one in rules_of("memorize"):

    rule:
        name:
            one.name
        input:
            unpack(of(one, calls.inputs)),
        output:
            generator=made(one, "generator"),
            record=made(one, "record"),
            samples=pictures_of_samples(one),
        log:
            log_of(one),
        benchmark:
            benchmark_of(one)
        priority: KINDS["memorize"].priority
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
            "python -m apfl memorize {params.runs} > {log:q} 2>&1"


for one in rules_of("personalize"):

    rule:
        name:
            one.name
        input:
            unpack(of(one, calls.inputs)),
        output:
            metrics=made(one, "metrics"),
            record=made(one, "record"),
        log:
            log_of(one),
        benchmark:
            benchmark_of(one)
        wildcard_constraints:
            method=calls.any_of(PLAN.variants("personalize")),
        priority: KINDS["personalize"].priority
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
            "python -m apfl personalize {params.runs} > {log:q} 2>&1"
