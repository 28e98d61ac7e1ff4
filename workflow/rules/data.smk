# Data sets, partitions and embeddings: what every run starts from.


rule data:
    input:
        data_files,
    output:
        data="results/data/{name}.npz",
        picture="results/data/{name}.png",
    log:
        "results/logs/data/{name}.log",
    benchmark:
        "results/benchmarks/data/{name}.tsv"
    wildcard_constraints:
        name="[a-z0-9_-]+",
    priority: 50
    conda:
        "../../environment.yml"
    threads: 1
    params:
        options=data_options,
        code=code("apfl.data.decode", "apfl.data.sources", "apfl.data.dataset"),
    shell:
        "python -m apfl data {params.options} --out {output.data:q} > {log:q} 2>&1"


rule partition:
    input:
        unpack(partition_data),
    output:
        partition="results/{study}/partitions/{dataset}/{setting}/seed{seed}.npz",
        picture=report(
            "results/{study}/partitions/{dataset}/{setting}/seed{seed}.png",
            caption="../report/partition.rst",
            category="Partitions",
            subcategory="{dataset}",
            labels={"setting": "{setting}", "seed": "{seed}"},
        ),
    log:
        "results/{study}/logs/partitions/{dataset}/{setting}/seed{seed}.log",
    benchmark:
        "results/{study}/benchmarks/partitions/{dataset}/{setting}/seed{seed}.tsv"
    priority: 40
    conda:
        "../../environment.yml"
    threads: 1
    params:
        options="--validation" if STUDY.validation else "",
        code=code("apfl.data.partition"),
    shell:
        "python -m apfl partition --data {input.data:q} --setting {wildcards.setting:q} --seed {wildcards.seed}"
        " {params.options} --out {output.partition:q} > {log:q} 2>&1"


rule semantics:
    input:
        unpack(semantics_inputs),
    output:
        "results/semantics/{dataset}/{semantics}.npz",
    log:
        "results/logs/semantics/{dataset}/{semantics}.log",
    benchmark:
        "results/benchmarks/semantics/{dataset}/{semantics}.tsv"
    priority: 40
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        # All of word2vec's vectors are read.
        mem_mb=8000,
    params:
        options=semantics_options,
        code=code("apfl.semantics.sources"),
    shell:
        "python -m apfl semantics {params.options} --out {output:q} > {log:q} 2>&1"
