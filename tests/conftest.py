"""What all tests share: one thread each, and folders of real images and embeddings where there are any."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")


def _root(variable: str, what: str) -> Path:
    if not os.environ.get(variable):
        pytest.skip(f"needs {what}: set {variable}")
    return Path(os.environ[variable])


@pytest.fixture
def data_root() -> Path:
    """The folder with real images as Parquet files."""
    return _root("APFL_DATA_ROOT", "real images")


@pytest.fixture
def semantics_root() -> Path:
    """The folder with real embedding tables."""
    return _root("APFL_SEMANTICS_ROOT", "real embedding tables")
