# FedAvg by Flower: a foreign method, in an environment of its own. It gets three files, and knows nothing of the suite.


rule initial:
    input:
        unpack(initial_data),
    output:
        "results/{study}/initial/{dataset}/seed{seed}.safetensors",
    log:
        "results/{study}/logs/initial/{dataset}/seed{seed}.log",
    conda:
        "../../../environment.yml"
    params:
        spec=initial_spec,
        code=code("apfl.engine.networks"),
    shell:
        "python -m apfl initial --spec {params.spec:q} --data {input.data:q} --out {output:q} > {log:q} 2>&1"


rule flower:
    input:
        unpack(run_inputs),
        script=os.path.join(workflow.basedir, "workflow", "rules", "external", "flower.py"),
    output:
        metrics="results/{study}/runs/{dataset}/{setting}/{method}/seed{seed}/metrics.parquet",
        state="results/{study}/runs/{dataset}/{setting}/{method}/seed{seed}/state.safetensors",
        record="results/{study}/runs/{dataset}/{setting}/{method}/seed{seed}/run.json",
    log:
        "results/{study}/logs/runs/{dataset}/{setting}/{method}/seed{seed}.log",
    benchmark:
        "results/{study}/benchmarks/runs/{dataset}/{setting}/{method}/seed{seed}.tsv"
    wildcard_constraints:
        method=external_variants("external/flower"),
    priority: 30
    conda:
        "flower.yml"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=1440,
    params:
        run=run_calls,
        # Without conda, the environment that `make flower` makes.
        python=external_python("flower"),
    # The program gets these files and no more: not the suite's modules, not where other data lie, none of the user's keys.
    shell:
        'env -i PATH="$PATH" ${{HOME+HOME="$HOME"}} ${{TMPDIR+TMPDIR="$TMPDIR"}}'
        ' ${{OMP_NUM_THREADS+OMP_NUM_THREADS="$OMP_NUM_THREADS"}} ${{LD_LIBRARY_PATH+LD_LIBRARY_PATH="$LD_LIBRARY_PATH"}}'
        " {params.python:q} {input.script:q} {params.run} > {log:q} 2>&1"
