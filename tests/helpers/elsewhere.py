"""A device that is pretended, to see without a GPU that code keeps to one device.

Its tensors say that they are on ``meta``, have their numbers on the CPU, and are computed there. As on a GPU, an
operation that is given some of them and some of the CPU's is an error; only indices may come from the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from apfl.engine.device import Engine

ELSEWHERE = torch.device("meta")
COPIES = {"aten::_to_copy", "aten::copy_"}
BY_INDEX = {"aten::index", "aten::index_put_", "aten::_index_put_impl_"}


class Elsewhere(Tensor):
    """A tensor on the pretended device; ``here`` has its numbers."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> Elsewhere:
        layout = {"strides": here.stride(), "storage_offset": here.storage_offset(), "dtype": here.dtype}
        made = Tensor._make_wrapper_subclass(cls, here.size(), **layout, device=ELSEWHERE)
        made.here = here
        return made

    def __init__(self, here: Tensor) -> None:
        pass

    def tolist(self) -> list:
        return self.here.tolist()

    def __getitem__(self, key: Any) -> Tensor:
        return super().__getitem__(torch.tensor(key) if isinstance(key, list) else key)

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _carried_out(function, args, kwargs or {})


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _carried_out(function, args, kwargs or {})


def _carried_out(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name = function._schema.name
    given = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
    away = [one for one in given if isinstance(one, Elsewhere)]
    here = [one for one in given if not isinstance(one, Elsewhere) and one.ndim]
    if away and here and name not in COPIES and not (name in BY_INDEX and isinstance(args[0], Elsewhere)):
        raise RuntimeError(f"{name}: Expected all tensors to be on the same device")
    device = kwargs.pop("device", None)
    if device is not None and torch.device(device) != ELSEWHERE:
        kwargs["device"] = device
    made = function(*tree_map(_here, args), **tree_map(_here, kwargs))
    if name.endswith("_"):  # in place
        return args[0] if function._schema.returns else None
    is_away = bool(away) if device is None else torch.device(device) == ELSEWHERE
    return tree_map(lambda one: Elsewhere(one) if isinstance(one, Tensor) else one, made) if is_away else made


def _here(value: Any) -> Any:
    return value.here if isinstance(value, Elsewhere) else value


class _Generator(torch.Generator):
    """Where it is of the pretended device, it draws on the CPU."""

    device = ELSEWHERE

    def __new__(cls, device: Any = "cpu", real: Any = torch.Generator) -> Any:
        return super().__new__(cls) if torch.device(device) == ELSEWHERE else real(device)

    def __init__(self, device: Any = "cpu") -> None:
        pass


def _tensor(data: Any, device: Any = None, real: Any = torch.tensor, **more: Any) -> Tensor:
    made = real(data, **more)
    return made if device is None else made.to(device)


@contextmanager
def pretended() -> Iterator[torch.device]:
    """The pretended device, which is there in this thread until the end, in fp32."""
    replaced = {"Generator": _Generator, "tensor": _tensor, "inference_mode": torch.no_grad}
    with patch.multiple(torch, **replaced), patch.object(Engine, "autocast", lambda engine: nullcontext()), _Mode():
        yield ELSEWHERE
