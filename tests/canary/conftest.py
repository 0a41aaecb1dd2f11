"""Tests that deploy canaries: for the fresh host of molecule/canary alone."""

from pathlib import Path

import pytest

from support import inventory as inventories
from support.inventory import ROOT


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Stay away from hosts that nobody has named."""
    path = config.getoption("ansible_inventory")
    if path is None:
        return True
    if inventories.load(path).path != str(ROOT / "molecule/canary/inventory"):
        raise pytest.UsageError("tests/canary write secrets: for the host of molecule/canary alone")
    return None
