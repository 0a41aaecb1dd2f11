"""Runs of the whole site, and visitors at the door and customers meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.deploys import Visitors
from support.inventory import Inventory
from support.meanwhile import Meanwhile
from support.playbooks import playbook
from support.site import Site

VISITORS = 4


@dataclass
class Load:
    """What several visitors met while something happened."""

    served: int = 0
    refused: list[str] = field(default_factory=list)
    seconds: float = 0


@contextmanager
def visited(inventory: Inventory, site: Site | None = None) -> Iterator[Load]:
    """Let visitors ask for pages as long as the block lasts, and count what they got.

    They trust whom `site` trusts; without it, the CA of the inventory.
    """
    site = site or Site.of(inventory.of(inventory.first("proxy")))
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


class Orders(Meanwhile):
    """Place an order every few seconds as long as the block lasts; two cores keep up with that."""

    def __init__(self, site: Site, every: float = 5) -> None:
        super().__init__(self._place, every)
        self.site = site
        self.placed: list[str] = []

    def _place(self) -> None:
        self.placed.append(self.site.place_order())

    def lost(self, seconds: float = 300) -> list[str]:
        """Return the orders that are not done in the end, each waited for so long at most."""
        return [path for path in self.placed if self.site.finish(path, seconds)["step"] != "done"]


def run_site(inventory: Inventory | Path, *options: str, **variables: Any) -> None:
    """Run site.yml; it must succeed."""
    done = playbook(inventory, "site", *options, **variables)
    assert done.returncode == 0, done.stdout[-6000:]
