"""Find out before a deployment what would keep the public site from its visitors."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from urllib.parse import urlsplit


def staff_network_problems(networks: list[str]) -> list[str]:
    """Return a sentence for each item of nginx_staff_networks that nginx would not read."""
    problems = []
    if not networks:
        problems.append(
            "nginx_staff_networks is empty, so nobody would reach the admin; write networks, such "
            "as [192.0.2.0/24], or [all]."
        )
    for network in networks:
        if network == "all":
            continue
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            problems.append(
                f"nginx_staff_networks has {network!r} ({error}); write an address, a network such "
                "as 192.0.2.0/24, or all."
            )
    return problems


def acme_problems(names: list[str], email: str, server: str, proxies: int = 1) -> list[str]:
    """Return a sentence for each reason why no ACME server would sign, or nobody would be told."""
    problems = []
    if proxies > 1:
        problems.append(
            f"certificates_source is acme, but the group proxy has {proxies} hosts, and the CA "
            "would ask any of them; write one, or bring the certificate, with certificates_source: "
            "files."
        )
    for name in names:
        if _is_address(name) or "." not in name or name.endswith(".localhost"):
            problems.append(
                f"certificates_names has {name}, which a public CA does not sign; write a host "
                "name that the Internet knows, or certificates_source: own_ca."
            )
        elif name.startswith("*"):
            problems.append(
                f"certificates_names has {name}, but a webroot proves no wildcard; write each "
                "name, or bring the certificate with certificates_source: files."
            )
    if "@" not in email:
        problems.append(
            f"certificates_acme_email is {email!r}; write the address that the CA may warn, such "
            "as hostmaster@example.org."
        )
    if server and (urlsplit(server).scheme != "https" or not urlsplit(server).hostname):
        problems.append(
            f"certificates_acme_server is {server!r}; write the https:// address of its directory, "
            "or an empty text for Let's Encrypt."
        )
    return problems


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., list[str]]]:
        return {"staff_network_problems": staff_network_problems, "acme_problems": acme_problems}
