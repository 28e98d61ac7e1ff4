# AP-FL, on the states that a federated run kept: the server's generator, then personalization on the clients.
# Other methods that start from a finished run, such as fine-tuning, are personalizations without a generator.


rule memorize:
    input:
        unpack(of("memorize", calls.inputs)),
    output:
        generator=made("memorize", "generator"),
        record=made("memorize", "record"),
        samples=pictures_of_samples(),
    log:
        log_of("memorize"),
    benchmark:
        benchmark_of("memorize")
    priority: KINDS["memorize"].priority
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        gpu=gpus(),
        mem_mb=8000,
        runtime=1440,
    params:
        runs=options("memorize", calls.run_options),
        code=of("memorize", calls.run_code),
    shell:
        "python -m apfl memorize {params.runs} > {log:q} 2>&1"


rule personalize:
    input:
        unpack(of("personalize", calls.inputs)),
    output:
        metrics=made("personalize", "metrics"),
        record=made("personalize", "record"),
    log:
        log_of("personalize"),
    benchmark:
        benchmark_of("personalize")
    wildcard_constraints:
        method=calls.any_of(PLAN.variants("personalize")),
    priority: KINDS["personalize"].priority
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        gpu=gpus(),
        mem_mb=8000,
        runtime=1440,
    params:
        runs=options("personalize", calls.run_options),
        code=of("personalize", calls.run_code),
    shell:
        "python -m apfl personalize {params.runs} > {log:q} 2>&1"
