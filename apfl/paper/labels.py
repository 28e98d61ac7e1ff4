"""How data sets, semantics, tests and partitions are called in tables and figures, and in which order they come."""

from __future__ import annotations

from collections.abc import Iterable

from apfl.data.catalogue import CATALOGUE
from apfl.data.setting import parse_setting

SEMANTICS_LABELS = {
    "w2v": "W2V",
    "bert": "BERT",
    "clip": "CLIP",
    "minilm": "MiniLM",
    "onehot": "one-hot (control)",
    "random": "random (control)",
    "shuffled": "shuffled (control)",
}
TEST_LABELS = {"pooled": "pooled test", "own": "own test", "monopoly": "monopoly classes"}
TEST_MEANINGS = {
    "pooled": "the test images of all clients together",
    "own": "each client's own test images, in its own class proportions",
    "monopoly": "a dropout client's own test images of classes that no other client holds",
}
ROLES = {"non_dropout": "non-dropout clients", "dropout": "dropout clients"}
ROLE_LABELS = {"non_dropout": "A_n, non-dropout clients", "dropout": "A_d, dropout clients"}


def dataset_label(name: str) -> str:
    return CATALOGUE[name].label if name in CATALOGUE else name.replace("_", " ")


def semantics_label(name: str) -> str:
    return SEMANTICS_LABELS.get(name, name)


def ordered(names: Iterable[str], first: Iterable[str]) -> list[str]:
    """Each name once: those of ``first`` in its order, then the others as they come.

    >>> ordered(["digits", "cifar100", "cifar10"], ["cifar10", "cifar100", "emnist"])
    ['cifar10', 'cifar100', 'digits']
    """
    seen = list(dict.fromkeys(names))
    head = [name for name in first if name in seen]
    return head + [name for name in seen if name not in head]


def partition_label(setting: str) -> str:
    """What a partition is called beside its number of clients.

    >>> partition_label("dirichlet-alpha0.1-clients5"), partition_label("pathological-classes5-clients10")
    ('α = 0.1', '5 classes each')
    """
    parsed = parse_setting(setting)
    return {
        "dirichlet": f"α = {parsed.alpha}",
        "pathological": f"{parsed.classes} classes each",
        "iid": "IID",
        "quantity": f"quantity skew {parsed.alpha}",
        "extended_dirichlet": f"{parsed.classes} classes, Dir({parsed.alpha})",
        "powerlaw": f"power law {parsed.alpha}",
        "natural": "natural",
    }[parsed.kind]


def setting_label(setting: str) -> str:
    """What a partition is called in full.

    >>> setting_label("pathological-classes2-clients10-missing20")
    '10 clients, 2 classes each, 20\\xa0% missing'
    """
    parsed = parse_setting(setting)
    missing = f", {parsed.missing}\N{NO-BREAK SPACE}% missing" if parsed.missing else ""
    return f"{parsed.clients} clients, {partition_label(setting)}{missing}"
