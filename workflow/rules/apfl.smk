# AP-FL, on the states that a federated run kept: the server's generator, then personalization on the clients.
# Other methods that start from a finished run, such as fine-tuning, are personalizations without a generator.


rule memorize:
    input:
        unpack(generator_inputs),
    output:
        generator=each_seed("results/{study}/generators/{dataset}/{setting}/{method}/seed{seed}/generator.safetensors"),
        record=each_seed("results/{study}/generators/{dataset}/{setting}/{method}/seed{seed}/run.json"),
        samples=pictures_of_samples("results/{study}/generators/{dataset}/{setting}/{method}/seed{seed}/samples.png"),
    log:
        job_file("results/{study}/logs/generators/{dataset}/{setting}/{method}/seed{seed}.log"),
    benchmark:
        job_file("results/{study}/benchmarks/generators/{dataset}/{setting}/{method}/seed{seed}.tsv")
    priority: 20
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        gpu=gpus(),
        mem_mb=8000,
        runtime=1440,
    params:
        runs=generator_calls,
        code=generator_code,
    shell:
        "python -m apfl memorize {params.runs} > {log:q} 2>&1"


rule personalize:
    input:
        unpack(run_inputs),
    output:
        metrics=each_seed("results/{study}/runs/{dataset}/{setting}/{method}/seed{seed}/metrics.parquet"),
        record=each_seed("results/{study}/runs/{dataset}/{setting}/{method}/seed{seed}/run.json"),
    log:
        job_file("results/{study}/logs/runs/{dataset}/{setting}/{method}/seed{seed}.log"),
    benchmark:
        job_file("results/{study}/benchmarks/runs/{dataset}/{setting}/{method}/seed{seed}.tsv")
    wildcard_constraints:
        method=variants("personalize"),
    priority: 10
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        gpu=gpus(),
        mem_mb=8000,
        runtime=1440,
    params:
        runs=run_calls,
        code=run_code,
    shell:
        "python -m apfl personalize {params.runs} > {log:q} 2>&1"
