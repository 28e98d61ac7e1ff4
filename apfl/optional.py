"""Packages that only some stages need: downloads of data sets, and embeddings from language models."""

from __future__ import annotations

import importlib
from types import ModuleType

from apfl.errors import UserError


def optional(module: str, use: str) -> ModuleType:
    """Import ``module``; where it is not installed, a `UserError` says how to install it and what it is for."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise UserError(
            f"{use}: needs the package {package} ({error}); install it with: pip install 'apfl-bench[full]'"
        ) from None
