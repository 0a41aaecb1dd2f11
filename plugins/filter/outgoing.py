"""What the app may reach: networks, and servers that its environment names."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit


def outgoing_problems(
    environment: Mapping[str, Any], networks: Sequence[str], own: Sequence[str]
) -> list[str]:
    """Return why what `environment` names cannot be reached; `own` are names that always can."""
    problems = [
        f"app_outgoing has {network}, which is no network; write one such as 203.0.113.0/24 or "
        "203.0.113.25/32, or any."
        for network in networks
        if network != "any" and not _is_network(network)
    ]
    if networks:
        return problems
    for name, value in sorted(environment.items()):
        host = _host(value)
        if host and host not in own and not _is_loopback(host):
            problems.append(
                f"app_env: {name} names {host}, which the app is kept from reaching: app_outgoing "
                "is empty. Write the networks that it may reach, e.g. app_outgoing: "
                "[203.0.113.25/32], or app_outgoing: [any]."
            )
    return problems


def _host(value: Any) -> str:
    """Return the host of a URL, or an empty text."""
    text = str(value)
    try:
        return (urlsplit(text).hostname or "") if "://" in text else ""
    except ValueError:
        return ""


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class FilterModule:
    """The filters, by the names that playbooks use."""

    def filters(self) -> dict[str, Any]:
        """Return the filters of this file."""
        return {"outgoing_problems": outgoing_problems}
