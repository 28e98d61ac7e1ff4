"""What is computed on, with which precision, and how many models at once."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from apfl.engine.networks import Params
from apfl.errors import UserError

MOST_STACKED = 64
"""Models that a GPU trains at once, unless its memory is too small for them."""


@dataclass(frozen=True)
class Engine:
    """Where and how precisely to compute, and how many models at once (`apfl.engine.stack`)."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    bf16: bool = False
    stack: int = 1

    @classmethod
    def choose(cls, precision: str = "auto", device: str = "auto") -> Engine:
        """The engine for a precision (``auto``, ``fp32``, ``bf16``) and a device (``auto``, ``cpu``, ``cuda``)."""
        if precision not in ("auto", "fp32", "bf16"):
            raise UserError(f"training.precision {precision!r}: unknown; choose auto, fp32 or bf16")
        if device not in ("auto", "cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
            raise UserError(f"device {device!r}: not available here; choose auto or cpu, or cuda where there is a GPU")
        kind = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        has_bf16 = torch.cuda.is_bf16_supported() if kind == "cuda" else torch.cpu._is_avx512_bf16_supported()
        bf16 = precision == "bf16" or (precision == "auto" and has_bf16)
        return cls(torch.device(kind), bf16, MOST_STACKED if kind == "cuda" else 1)

    @property
    def precision(self) -> str:
        return "bf16" if self.bf16 else "fp32"

    def autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)


def channels_last(params: Mapping[str, Tensor]) -> Params:
    """Copies of the parameters in the memory layout in which convolutions are fastest."""
    form = {4: torch.channels_last}
    return {
        name: value.detach().clone(memory_format=form.get(value.ndim, torch.contiguous_format))
        for name, value in params.items()
    }
