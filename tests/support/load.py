"""Runs of the whole site, and visitors at the door meanwhile."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.deploys import Visitors
from support.inventory import ROOT, Inventory
from support.site import Site

VISITORS = 4


@dataclass
class Load:
    """What several visitors met while something happened."""

    served: int = 0
    refused: list[str] = field(default_factory=list)
    seconds: float = 0


@contextmanager
def visited(inventory: Inventory) -> Iterator[Load]:
    """Let visitors ask for pages as long as the block lasts, and count what they got."""
    site = Site.of(inventory.of(inventory.first("proxy")))
    load = Load()
    crowd = [Visitors(site) for _ in range(VISITORS)]
    started = time.monotonic()
    try:
        with ExitStack() as inside:
            for visitor in crowd:
                inside.enter_context(visitor)
            yield load
    finally:
        load.served = sum(visitor.served for visitor in crowd)
        load.refused = [line for visitor in crowd for line in visitor.refused]
        load.seconds = time.monotonic() - started


def run_site(path: str | Path, *more: str, **variables: Any) -> str:
    """Run site.yml for the inventory at this path; it must succeed; return what it said."""
    done = subprocess.run(
        [
            "ansible-playbook",
            "site.yml",
            f"--inventory={path}",
            f"--extra-vars={json.dumps(variables)}",
            *more,
        ],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_NOCOWS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    return done.stdout
