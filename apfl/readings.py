"""What the paper's text leaves open about AP-FL, as named sets of options.

``generator`` options go to `apfl.memorization.GeneratorConfig`, ``friend`` options to the method's hyper-parameters.
The literal reading is the default of every option. One more reading, the generator trained along the rounds, changes
the federation itself and is a method: ``baselines/apfl_feedback.py``. docs/protocol.md gives the evidence for each.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

READINGS: Mapping[str, Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "literal": {},
        "soft-labels": {"friend": {"friend_labels": "soft"}},
        "uniform-labels": {"friend": {"friend_distribution": "uniform"}},
        "uniform-soft-labels": {"friend": {"friend_distribution": "uniform", "friend_labels": "soft"}},
        "global-prior": {"friend": {"friend_distribution": "global"}},
        "friend-from-local": {"friend": {"friend_start": "local"}},
        "friend-from-scratch": {"friend": {"friend_start": "scratch"}},
        "beta-weighs-friend": {"friend": {"beta_weighs": "friend"}},
        "global-teacher": {"generator": {"teacher": "global"}},
        "diversity-ratio": {"generator": {"diversity": "ratio"}},
        "diversity-exp": {"generator": {"diversity": "exp"}},
    }
)
