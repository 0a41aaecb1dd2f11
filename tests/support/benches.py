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
        stdout=subprocess.PIPE,
        text=True,
    )
    assert done.stdout, f"bench/{name} has ended with status {done.returncode}, and no figures"
    return json.loads(done.stdout)
