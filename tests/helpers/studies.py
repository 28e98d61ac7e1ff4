"""A study small enough to run in a test, as a dictionary to vary."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

TINY: dict[str, Any] = {
    "name": "tiny",
    "seeds": [0],
    "data": {"digits": {"source": "digits", "max_samples": 300}},
    "semantics": {"minilm": {"source": "packaged"}, "shuffled": {"source": "shuffled", "of": "minilm"}},
    "training": {"rounds": 1, "local_epochs": 1, "learning_rate": 0.001},
    "methods": {"local": {}, "fedavg": {}, "fedavg-ft": {}, "apfl": {}},
    "apfl": {
        "semantics": "minilm",
        "parameters": {"beta": 0.1, "samples_per_class": 10, "epochs": 1, "width": 8, "noise_dimension": 20},
    },
    "tables": {"table2": {"clients": [3], "alphas": ["0.1"]}},
}


def tiny(**changes: Any) -> dict[str, Any]:
    """The tiny study with changes; double underscores lead into sections: ``training__rounds=2``."""
    study = deepcopy(TINY)
    for path, value in changes.items():
        *sections, key = path.split("__")
        section = study
        for name in sections:
            section = section.setdefault(name, {})
        section[key] = value
    return study
