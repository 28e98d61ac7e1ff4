# The workflow is workflow/Snakefile; this one lets `snakemake` find it, and profiles/, from the root of a checkout.
include: "workflow/Snakefile"


# Of an included file Snakemake takes over everything but which rule is the default.
workflow.default_target = "all"
