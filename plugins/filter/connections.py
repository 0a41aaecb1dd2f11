"""Connections of Redis: which are older than a moment, and which units have them open."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

# Replicas and masters are no clients.
OTHERS = set("SM")


def connections_of(sockets: str, units: str) -> list[str]:
    """Return the local addresses of what services with these names have open.

    `sockets` is what ss says with --no-header --tcp --numeric --cgroup; `units` is a regular
    expression for names without .service.
    """
    unit = re.compile(rf"(.*/)?({units})\.service")
    found = []
    for line in sockets.splitlines():
        words = line.split()
        groups = [word.removeprefix("cgroup:") for word in words if word.startswith("cgroup:")]
        if any(unit.fullmatch(group) for group in groups):
            found.append(words[3])
    return found


def connections_before(clients: str, first: int | str, spared: Sequence[str]) -> list[str]:
    """Return the ids of clients that came before the id `first`, but not from a spared address.

    `clients` is what Redis says to CLIENT LIST.
    """
    found = []
    for line in clients.splitlines():
        client = dict(word.partition("=")[::2] for word in line.split(" "))
        if int(client["id"]) >= int(first) or OTHERS & set(client["flags"]):
            continue
        if client["addr"] not in spared:
            found.append(client["id"])
    return found


class FilterModule:
    """The filters, by the names that roles use."""

    def filters(self) -> dict[str, Any]:
        """Return the filters of this file."""
        return {"connections_before": connections_before, "connections_of": connections_of}
