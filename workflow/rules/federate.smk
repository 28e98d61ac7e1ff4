# Federated training: one rule for all methods, one job for a method in a setting, with a seed or with all.


rule federate:
    input:
        unpack(run_inputs),
    output:
        metrics=each_seed("results/{study}/runs/{dataset}/{setting}/{method}/seed{seed}/metrics.parquet"),
        state=each_seed("results/{study}/runs/{dataset}/{setting}/{method}/seed{seed}/state.safetensors"),
        record=each_seed("results/{study}/runs/{dataset}/{setting}/{method}/seed{seed}/run.json"),
    log:
        job_file("results/{study}/logs/runs/{dataset}/{setting}/{method}/seed{seed}.log"),
    benchmark:
        job_file("results/{study}/benchmarks/runs/{dataset}/{setting}/{method}/seed{seed}.tsv")
    wildcard_constraints:
        method=variants("federate"),
    # Those that others wait for, and the longest, come first.
    priority: 30
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
        "python -m apfl federate {params.runs} > {log:q} 2>&1"
