"""Which hosts there are, at which addresses, and which port each opens to whom."""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Groups = Mapping[str, Sequence[str]]

ANYWHERE = "anywhere"
# One or more labels of a host name (RFC 1123), in lower case as certificates are compared.
NAME = re.compile(
    r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*"
)


def hosts_in(groups: Groups, wanted: Iterable[str]) -> list[str]:
    """Return the hosts of the `wanted` groups, each once, in the order of the inventory."""
    return list(dict.fromkeys(host for name in wanted for host in groups.get(name, [])))


def only_address(text: Any) -> str:
    """Return `text` when it is an IP address, else an empty text."""
    return str(text) if _address(text) else ""


def as_network(address: Any) -> str:
    """Return the network of this one address, such as 10.0.0.7/32; an empty text for none."""
    found = _address(address)
    return f"{found}/{found.max_prefixlen}" if found else ""


def in_url(address: str) -> str:
    """Return the address as URLs and nginx write it: one of IPv6 in brackets."""
    return f"[{address}]" if ":" in address else address


def open_here(
    needs: Sequence[Mapping[str, Any]],
    host: str,
    groups: Groups,
    addresses: Mapping[str, str],
) -> list[dict[str, Any]]:
    """Return what `host` opens: ports, and the addresses that need them (none: anybody may).

    A need that no other host has stays closed: a host reaches itself over loopback.
    """
    found = []
    for need in needs:
        if host not in hosts_in(groups, need["groups"]):
            continue
        rule = {"what": need["what"], "ports": [int(port) for port in need["ports"]]}
        if need["from"] == ANYWHERE:
            found.append(rule | {"from": []})
            continue
        others = [name for name in hosts_in(groups, need["from"]) if name != host]
        known = [addresses[name] for name in others if addresses.get(name)]
        if known and rule["ports"]:
            found.append(rule | {"from": known})
    return found


def firewall_sources(addresses: Sequence[str]) -> list[str]:
    """Return how nft matches these addresses or networks: a match for each family of them.

    No address at all is one empty match, which anybody meets.
    """
    if not addresses:
        return [""]
    families = {4: "ip", 6: "ip6"}
    found: dict[int, list[str]] = {}
    for text in addresses:
        found.setdefault(ipaddress.ip_network(text, strict=False).version, []).append(str(text))
    return [
        f"{families[version]} saddr {{ {', '.join(members)} }} "
        for version, members in sorted(found.items())
    ]


def ssh_source_problem(networks: Sequence[str], client: str = "") -> str:
    """Return what is wrong with firewall_ssh_from for who comes from `client`, or an empty text.

    Without `client` only the networks are looked at.
    """
    read = []
    for text in networks:
        try:
            read.append(ipaddress.ip_network(text, strict=False))
        except ValueError:
            example = "an address or a network, such as 192.0.2.7 or 192.0.2.0/24"
            return f"firewall_ssh_from has {text!r}; write {example}."
    address = _address(client)
    if not read or not address or any(address in network for network in read):
        return ""
    return (
        f"firewall_ssh_from is {', '.join(networks)}, and you come from {address}, which would be "
        f"locked out; add {as_network(address)} or the network that it is in."
    )


def network_problems(addresses: Mapping[str, str]) -> list[str]:
    """Return why hosts with these names and addresses cannot find or verify each other."""
    problems = []
    for name, text in addresses.items():
        if _address(name) or not NAME.fullmatch(name):
            problems.append(
                f"The inventory calls a host {name}, which no certificate can verify as a name; "
                "write lower-case letters, digits and hyphens, e.g. web-1, and its address in "
                "ansible_host."
            )
        address = _address(text)
        if address is None:
            problems.append(
                f"host_address of {name} is {text or 'not set'}, but other hosts connect to it; "
                "write the IP address that it has on the network between the hosts, e.g. "
                "host_address: 10.0.0.7."
            )
        elif address.is_loopback or address.is_unspecified or address.is_multicast:
            problems.append(
                f"host_address of {name} is {text}, where no other host reaches it; write the "
                "address that it has on the network between the hosts."
            )
    for text, count in Counter(filter(None, addresses.values())).items():
        if count > 1:
            twice = ", ".join(name for name, other in addresses.items() if other == text)
            problems.append(
                f"host_address is {text} for {twice}; write for each host the address that is its "
                "own."
            )
    return problems


def parts_left(paths: Iterable[str], app: str, wanted: Sequence[str]) -> list[str]:
    """Return the parts of which a host has files, such as units, but that are not `wanted`.

    The parts are web, worker, beat, metrics, flower, inner (what it serves to other hosts) and
    proxy.
    """
    name = re.compile(
        rf"{re.escape(app)}(?:-(?P<part>web|worker|beat|metrics|flower|inner)\b.*)?\.(?:service|conf)"
    )
    matches = filter(None, (name.fullmatch(path.rsplit("/", 1)[-1]) for path in paths))
    found = {match["part"] or "proxy" for match in matches}
    return sorted(found - set(wanted))


def pools_left(paths: Iterable[str], app: str, wanted: Sequence[str]) -> list[str]:
    """Return the pools of which a host has units, but that are not `wanted` there."""
    name = re.compile(rf"{re.escape(app)}-worker-(?P<pool>.+)@\.service")
    matches = filter(None, (name.fullmatch(path.rsplit("/", 1)[-1]) for path in paths))
    return sorted({match["pool"] for match in matches} - set(wanted))


def _address(text: Any) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(str(text))
    except ValueError:
        return None


class FilterModule:
    """The filters, by the names that playbooks use."""

    def filters(self) -> dict[str, Any]:
        """Return the filters of this file."""
        return {
            "as_network": as_network,
            "firewall_sources": firewall_sources,
            "hosts_in": hosts_in,
            "in_url": in_url,
            "network_problems": network_problems,
            "only_address": only_address,
            "parts_left": parts_left,
            "pools_left": pools_left,
            "open_here": open_here,
            "ssh_source_problem": ssh_source_problem,
        }
