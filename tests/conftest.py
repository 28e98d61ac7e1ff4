"""What all tests share: one thread each, and folders of real images and embeddings where there are any."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of the longest tests first, so that no process is left alone with one at the end."""
    items.sort(key=lambda item: "workflow" not in item.path.parts)


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
