# FedAvg by Flower: a foreign method, in an environment of its own. It gets three files, and knows nothing of the suite.


rule initial:
    input:
        unpack(of("initial", calls.inputs)),
    output:
        made("initial"),
    log:
        log_of("initial"),
    conda:
        "../../../environment.yml"
    params:
        spec=of("initial", calls.specification),
        code=code("apfl.engine.networks"),
    shell:
        "python -m apfl initial --spec {params.spec:q} --data {input.data:q} --out {output:q} > {log:q} 2>&1"


rule flower:
    input:
        unpack(of("external", calls.inputs)),
        script=os.path.join(HOME, "workflow", "rules", "external", "flower.py"),
    output:
        metrics=made("external", "metrics"),
        state=made("external", "state"),
        record=made("external", "record"),
    log:
        log_of("external"),
    benchmark:
        benchmark_of("external")
    wildcard_constraints:
        method=calls.any_of(PLAN.variants("external", "external/flower")),
    priority: KINDS["external"].priority
    conda:
        "flower.yml"
    container:
        None
    threads: 1
    resources:
        mem_mb=8000,
        runtime=1440,
    params:
        run=options("external", calls.run_options),
        # Without conda, the environment that `make flower` makes.
        python=calls.external_python(HOME, "flower"),
    # The program gets these files and no more: not the suite's modules, not where other data lie, none of the user's keys.
    shell:
        'env -i PATH="$PATH" ${{HOME+HOME="$HOME"}} ${{TMPDIR+TMPDIR="$TMPDIR"}}'
        ' ${{OMP_NUM_THREADS+OMP_NUM_THREADS="$OMP_NUM_THREADS"}} ${{LD_LIBRARY_PATH+LD_LIBRARY_PATH="$LD_LIBRARY_PATH"}}'
        " {params.python:q} {input.script:q} {params.run} > {log:q} 2>&1"
