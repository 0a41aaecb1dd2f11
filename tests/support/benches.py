"""What the benchmarks say of the hosts of a scenario."""

import json
import subprocess
import sys
from typing import Any

import pytest

from support import inventory as inventories
from support.inventory import ROOT


def figures_of(name: str, config: pytest.Config, *options: str) -> dict[str, Any]:
    """Run bench/<name> on the hosts that pytest was told, and return its figures."""
    path = inventories.load(config.getoption("ansible_inventory")).path
    done = subprocess.run(
        [sys.executable, ROOT / "bench" / name, f"--inventory={path}", "--json", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    print(done.stderr)
    assert done.stdout, done.stderr
    return json.loads(done.stdout)
