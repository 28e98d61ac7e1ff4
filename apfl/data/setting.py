"""The name of a partition, which spells out everything but the seed: ``dirichlet-alpha0.1-clients5``."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from apfl.errors import UserError

EXAMPLES = {
    "dirichlet": "dirichlet-alpha0.1-clients5",
    "pathological": "pathological-classes2-clients10-missing20",
    "iid": "iid-clients5",
    "quantity": "quantity-alpha0.5-clients5",
    "extended_dirichlet": "extended_dirichlet-alpha0.5-classes2-clients5",
    "powerlaw": "powerlaw-alpha1.5-clients5",
    "natural": "natural-clients50",
}
"""The kinds of partition, with an example of each."""
SIZES = ("min", "train")
OPTIONAL = {
    "dirichlet": ("balanced", *SIZES),
    "pathological": ("missing", "train"),
    "natural": ("train",),
    "iid": ("train",),
    **dict.fromkeys(("quantity", "extended_dirichlet", "powerlaw"), SIZES),
}
REQUIRED = {
    kind: tuple(name for name in re.findall(r"-([a-z]+)", example) if name not in OPTIONAL[kind])
    for kind, example in EXAMPLES.items()
}
"""What a name must spell out: all that the example has but what is optional."""
WHOLE = ("classes", "clients", "missing", "min", "train")
"""Whole numbers."""
FIELDS = {"min": "min_samples", "train": "train_samples"}
"""Fields that are called otherwise in a name."""
MIN_SAMPLES = 10


@dataclass(frozen=True)
class Setting:
    """How images are shared among clients; `str` gives the name back.

    kind: dirichlet (label skew per class), pathological (a few classes a client), extended_dirichlet (both), iid,
    quantity or powerlaw (sizes differ), natural (as the data set's own clients have them); clients: how many; alpha:
    concentration of the Dirichlet distribution, or exponent of the power law, as written (a decimal number above 0);
    classes: classes of each client; missing: percentage of classes that clients monopolise and drop out with;
    balanced: a client that has its fair share of images gets no more; min_samples: the least a client may hold;
    train_samples: how many images that are not for tests are kept, of all clients together (None: all of them).
    """

    kind: str
    clients: int
    alpha: str | None = None
    classes: int | None = None
    missing: int | None = None
    balanced: bool = False
    min_samples: int = MIN_SAMPLES
    train_samples: int | None = None

    def __post_init__(self) -> None:
        if self.clients < 1:
            raise UserError(f"setting {self}: clients is {self.clients}; there must be at least 1")
        if self.alpha is not None and not (
            re.fullmatch(r"[0-9]+(\.[0-9]+)?", self.alpha) and 0 < float(self.alpha) < float("inf")
        ):
            raise UserError(
                f"setting {self}: alpha is {self.alpha!r}; it must be a decimal number above 0, such as 0.1"
            )
        if self.classes is not None and self.classes < 1:
            raise UserError(f"setting {self}: classes is {self.classes}; a client holds at least 1 class")
        if self.missing is not None and not 0 < self.missing < 100:
            raise UserError(
                f"setting {self}: missing is {self.missing} % of the classes; it must be from 1 to 99:"
                " there cannot be more monopoly classes than classes, and the others need some"
            )
        if self.min_samples < 1:
            raise UserError(f"setting {self}: min is {self.min_samples}; a client holds at least 1 image")
        if self.train_samples is not None and self.train_samples < self.clients:
            raise UserError(
                f"setting {self}: train is {self.train_samples}; {self.clients} clients need at least as many training"
                " images"
            )

    @property
    def whole(self) -> Setting:
        """The same with all training images."""
        return replace(self, train_samples=None)

    def fields(self) -> dict[str, str | int | bool]:
        """The fields that this kind of partition reads, by name."""
        named = {FIELDS.get(name, name) for name in REQUIRED[self.kind] + OPTIONAL[self.kind]}
        return {name: value for name, value in vars(self).items() if name in named and value is not None}

    def __str__(self) -> str:
        said = {
            name: value
            for name in ("alpha", "classes", "clients", "missing")
            if (value := getattr(self, name)) is not None
        }
        if self.balanced:
            said["balanced"] = ""
        if self.min_samples != MIN_SAMPLES:
            said["min"] = self.min_samples
        if self.train_samples is not None:
            said["train"] = self.train_samples
        return "-".join([self.kind, *(f"{name}{value}" for name, value in said.items())])


def parse_setting(text: str) -> Setting:
    """The setting that a name spells out; a name that does not is a `UserError`.

    >>> parse_setting("pathological-classes2-clients10-missing20").missing
    20
    >>> str(parse_setting("dirichlet-alpha0.05-clients5-balanced"))
    'dirichlet-alpha0.05-clients5-balanced'
    """
    kind, *parts = re.split("-(?=[a-z])", text)  # a minus sign stays with its number, for the message
    if kind not in EXAMPLES:
        raise UserError(
            f"setting {text!r}: unknown kind {kind!r}; use one of {', '.join(EXAMPLES)}, as in {EXAMPLES['dirichlet']}"
        )
    fields: dict[str, str] = {}
    for part in parts:
        name = next((name for name in REQUIRED[kind] + OPTIONAL[kind] if part.startswith(name)), "")
        if name in fields or not name:
            problem = "appears twice" if name else "does not belong there"
            raise UserError(f"setting {text!r}: {part!r} {problem}; write it like {EXAMPLES[kind]}")
        fields[name] = part.removeprefix(name)
    if missing := [name for name in REQUIRED[kind] if name not in fields]:
        raise UserError(f"setting {text!r}: {missing[0]} is missing; write it like {EXAMPLES[kind]}")
    if fields.get("balanced"):
        raise UserError(f"setting {text!r}: balanced takes no value; write it like {EXAMPLES[kind]}-balanced")
    for name in WHOLE:
        if name in fields and not re.fullmatch(r"[0-9]{1,9}", fields[name]):
            raise UserError(
                f"setting {text!r}: {name} is {fields[name]!r}, not a whole number; write it like {EXAMPLES[kind]}"
            )
    whole = {FIELDS.get(name, name): int(fields[name]) for name in WHOLE if name in fields}
    return Setting(kind, alpha=fields.get("alpha"), balanced="balanced" in fields, **whole)
