# Foreign programs of a study: one that the study gives the command of, or one with a rule of its own in the study's folder
# `rules`. Either writes metrics.csv, which is checked and made a run of.


rule program:
    input:
        unpack(of("external", calls.inputs)),
        of("external", PLAN.program_files),
    output:
        METRICS,
    log:
        PROGRAM_LOG,
    wildcard_constraints:
        method=calls.any_of(PLAN.programs("command")),
    priority: KINDS["external"].priority
    conda:
        "../../../environment.yml"
    container:
        None
    threads: 1
    resources:
        mem_mb=8000,
        runtime=1440,
    params:
        command=of("external", PLAN.command),
        options=options("external", calls.program_options),
        path=of("external", PLAN.path),
    # The program gets these files and no more: not the suite's modules, not where other data lie, none of the user's keys.
    shell:
        'env -i PATH={params.path}"$PATH" ${{HOME+HOME="$HOME"}} ${{TMPDIR+TMPDIR="$TMPDIR"}}'
        ' ${{OMP_NUM_THREADS+OMP_NUM_THREADS="$OMP_NUM_THREADS"}} ${{LD_LIBRARY_PATH+LD_LIBRARY_PATH="$LD_LIBRARY_PATH"}}'
        " {params.command} {params.options} > {log:q} 2>&1"


rule accept:
    input:
        unpack(of("external", calls.inputs)),
        metrics=METRICS,
    output:
        metrics=made("external", "metrics"),
        state=made("external", "state"),
        record=made("external", "record"),
    log:
        log_of("external"),
    wildcard_constraints:
        method=calls.any_of(PLAN.programs("command") | PLAN.programs("rule")),
    priority: KINDS["external"].priority
    conda:
        "../../../environment.yml"
    threads: 1
    params:
        options=options("external", calls.accept_options),
        more=of("external", PLAN.accepted),
    shell:
        "python -m apfl accept {params.options} {params.more} --metrics {input.metrics:q} > {log:q} 2>&1"
