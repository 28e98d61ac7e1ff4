# Data sets, partitions and embeddings: what every run starts from.


rule data:
    input:
        of("data", calls.source_note),
    output:
        data=made("data", "data"),
        picture=made("data", "picture"),
    log:
        log_of("data"),
    benchmark:
        benchmark_of("data")
    wildcard_constraints:
        name="[a-z0-9_-]+",
    priority: KINDS["data"].priority
    conda:
        "../../environment.yml"
    threads: 1
    params:
        options=of("data", calls.data_options),
        code=code("apfl.data.decode", "apfl.data.sources", "apfl.data.dataset"),
    shell:
        "python -m apfl data {params.options} --out {output.data:q} > {log:q} 2>&1"


rule partition:
    input:
        unpack(of("partition", calls.inputs)),
    output:
        partition=made("partition", "partition"),
        picture=report(
            made("partition", "picture"),
            caption="../report/partition.rst",
            category="Partitions",
            subcategory="{dataset}",
            labels={"setting": "{setting}", "seed": "{seed}"},
        ),
    log:
        log_of("partition"),
    benchmark:
        benchmark_of("partition")
    priority: KINDS["partition"].priority
    conda:
        "../../environment.yml"
    threads: 1
    params:
        options=of("partition", calls.partition_options),
        code=code("apfl.data.partition"),
    shell:
        "python -m apfl partition --data {input.data:q} --setting {wildcards.setting:q} --seed {wildcards.seed}"
        " {params.options} --out {output.partition:q} > {log:q} 2>&1"


rule semantics:
    input:
        unpack(of("semantics", calls.inputs)),
    output:
        made("semantics"),
    log:
        log_of("semantics"),
    benchmark:
        benchmark_of("semantics")
    priority: KINDS["semantics"].priority
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        # All of word2vec's vectors are read.
        mem_mb=8000,
    params:
        options=options("semantics", calls.semantics_options),
        code=code("apfl.semantics.sources"),
    shell:
        "python -m apfl semantics {params.options} --out {output:q} > {log:q} 2>&1"
