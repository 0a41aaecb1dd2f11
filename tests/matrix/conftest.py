"""Tests that make every fault on three hosts of bench/project; only where an inventory is named."""

from pathlib import Path

import pytest


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Stay away from hosts that nobody has named."""
    return True if config.getoption("ansible_inventory") is None else None
