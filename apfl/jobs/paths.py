"""Where the files of a job are."""

from __future__ import annotations

RUNS = ("federate", "external", "memorize", "personalize")


KINDS = ("data", "partition", "initial", "semantics", *RUNS, "table", "figure", "report", "claims")


PAGES = {"report": "report.html", "claims": "verdict/claims.json"}
"""What is made once from the whole study; the log is called after it."""


def log_of(kind: str, path: str) -> str:
    """Where the rule of a job writes its log.

    >>> log_of("federate", "demo/runs/digits/iid-clients5/fedavg/seed0")
    'demo/logs/runs/digits/iid-clients5/fedavg/seed0.log'
    >>> log_of("semantics", "semantics/digits/clip.npz"), log_of("table", "demo/tables/table2.csv")
    ('logs/semantics/digits/clip.log', 'demo/logs/tables/table2.log')
    """
    if kind in PAGES:
        return f"{path.partition('/')[0]}/logs/{kind}.log"
    stem = path if kind in RUNS else path.rpartition(".")[0]
    folder, _, rest = ("", "", stem) if kind in ("data", "semantics") else stem.partition("/")
    return "/".join(filter(None, (folder, "logs", f"{rest}.log")))
