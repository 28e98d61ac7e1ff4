# AP-FL, on the states that a federated run kept: the server's generator, then personalization on the clients.
# Other methods that start from a finished run, such as fine-tuning, are personalizations without a generator.


rule memorize:
    input:
        unpack(generator_inputs),
    output:
        generator="results/{study}/generators/{dataset}/{setting}/{method}/seed{seed}/generator.safetensors",
        record="results/{study}/generators/{dataset}/{setting}/{method}/seed{seed}/run.json",
        samples=report(
            "results/{study}/generators/{dataset}/{setting}/{method}/seed{seed}/samples.png",
            caption="../report/samples.rst",
            category="Synthetic images",
            subcategory="{dataset}",
            labels={"setting": "{setting}", "generator": "{method}", "seed": "{seed}"},
        ),
    log:
        "results/{study}/logs/generators/{dataset}/{setting}/{method}/seed{seed}.log",
    benchmark:
        "results/{study}/benchmarks/generators/{dataset}/{setting}/{method}/seed{seed}.tsv"
    priority: 20
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        gpu=gpus(),
        mem_mb=8000,
        runtime=1440,
    params:
        spec=generator_spec,
        code=generator_code,
        options=generator_options,
        out=subpath(output.record, parent=True),
    shell:
        "python -m apfl memorize --spec {params.spec:q} {params.options} --out {params.out:q} > {log:q} 2>&1"


rule personalize:
    input:
        unpack(run_inputs),
    output:
        metrics="results/{study}/runs/{dataset}/{setting}/{method}/seed{seed}/metrics.parquet",
        record="results/{study}/runs/{dataset}/{setting}/{method}/seed{seed}/run.json",
    log:
        "results/{study}/logs/runs/{dataset}/{setting}/{method}/seed{seed}.log",
    benchmark:
        "results/{study}/benchmarks/runs/{dataset}/{setting}/{method}/seed{seed}.tsv"
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
        spec=run_spec,
        code=run_code,
        options=run_options,
        out=subpath(output.record, parent=True),
    shell:
        "python -m apfl personalize --spec {params.spec:q} {params.options} --out {params.out:q} > {log:q} 2>&1"
