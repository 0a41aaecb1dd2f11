"""What can be reached from outside: nginx and ssh, nothing else."""

import re
import socket

import pytest

testinfra_hosts = ["ansible://all"]

PUBLIC = {"nginx", "sshd"}
LOOPBACK = re.compile(r"^(127\.|\[::1\])")


@pytest.fixture(scope="module")
def listeners(host):
    """Address, port and program of every listening TCP socket."""
    rows = [line.split() for line in host.check_output("ss -H -l -n -t -p").splitlines()]
    return [
        (*row[3].rsplit(":", 1), re.findall(r'"([^"]+)"', row[5])[0] if len(row) > 5 else "?")
        for row in rows
    ]


def ports(variables, group_names):
    """The ports of the parts on a host that only loopback may reach."""
    found = {
        "postgresql": [variables["postgresql_port"]],
        "redis": [item["port"] for item in variables["redis_instances"]],
        "flower": [variables["flower_port"]],
        "mail_sink": [variables["mail_sink_port"]],
        "beat": [variables["metrics_port"]] if variables["metrics_enabled"] else [],
    }
    return [int(port) for group in group_names for port in found.get(group, [])]


@pytest.mark.spec("D7.3.1", "D7.3.2")
def test_only_nginx_and_ssh_listen_on_public_addresses(listeners):
    public = {row for row in listeners if not LOOPBACK.match(row[0])}
    assert {row for row in public if row[2] not in PUBLIC} == set()


def test_nginx_listens_on_the_two_ports_of_the_web_and_no_other(listeners, variables):
    found = {int(row[1]) for row in listeners if row[2] == "nginx"}
    assert found == ({80, 443} if "proxy" in variables["group_names"] else set())


def test_everything_else_listens_on_loopback(listeners, variables):
    inner = {int(row[1]) for row in listeners if LOOPBACK.match(row[0])}
    assert set(ports(variables, variables["group_names"])) <= inner


def test_from_outside_only_the_web_answers(variables, site):
    closed = ports(variables, variables["group_names"])
    assert reachable(site.address, [80, 443, *closed]) == [80, 443]


def reachable(address: str, wanted: list[int]) -> list[int]:
    """Return which of the ports accept a connection."""
    found = []
    for port in wanted:
        with socket.socket() as client:
            client.settimeout(2)
            if client.connect_ex((address, port)) == 0:
                found.append(port)
    return found
