# Federated training: one rule for all methods, one job for a method in a setting with a seed.


rule federate:
    input:
        unpack(run_inputs),
    output:
        metrics="results/{study}/runs/{dataset}/{setting}/{method}/seed{seed}/metrics.parquet",
        state="results/{study}/runs/{dataset}/{setting}/{method}/seed{seed}/state.safetensors",
        record="results/{study}/runs/{dataset}/{setting}/{method}/seed{seed}/run.json",
    log:
        "results/{study}/logs/runs/{dataset}/{setting}/{method}/seed{seed}.log",
    benchmark:
        "results/{study}/benchmarks/runs/{dataset}/{setting}/{method}/seed{seed}.tsv"
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
        spec=run_spec,
        code=run_code,
        options=run_options,
        out=subpath(output.record, parent=True),
    shell:
        "python -m apfl federate --spec {params.spec:q} {params.options} --out {params.out:q} > {log:q} 2>&1"
