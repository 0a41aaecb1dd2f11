"""Who can reach what: each port is open to those who need it, and nothing else is open at all."""

import base64
import json
import re
import socket

import pytest

from support.site import address_of

testinfra_hosts = ["ansible://all"]

LOOPBACK = re.compile(r"^(127\.|\[::1\])")
# Which parts the hosts of a group may reach; what is not here is refused. People reach the proxy.
NEEDS = {
    "web": {"postgresql", "redis", "alerts"},
    "beat": {"postgresql", "redis"},
    "workers": {"postgresql", "redis"},
    "gevent": {"pgbouncer"},
    "flower": {"redis"},
    "proxy": {"web", "flower"},
    "monitoring": {"metrics", "exporters"},
}
PUBLIC = (80, 443)

# A port that does not answer within the second is as closed as one that refuses.
KNOCK = """
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor
def opens(door):
    try:
        socket.create_connection(door, timeout=1).close()
    except OSError:
        return False
    return True
doors = json.loads(sys.argv[1])
with ThreadPoolExecutor(32) as many:
    print(json.dumps([door for door, found in zip(doors, many.map(opens, doors)) if found]))
"""


@pytest.fixture(scope="module")
def listeners(host):
    """Address, port and program of every listening TCP socket."""
    return sockets(host, "--tcp")


def sockets(host, kind: str) -> list[tuple[str, str, str]]:
    """Address, port and program of every socket of a kind that waits for somebody."""
    said = host.check_output(f"ss --no-header --listening --numeric --processes {kind}")
    rows = [line.split() for line in said.splitlines()]
    return [
        (*row[3].rsplit(":", 1), re.findall(r'"([^"]+)"', row[5])[0] if len(row) > 5 else "?")
        for row in rows
    ]


def roles(variables):
    """What the host is, in the words of NEEDS; a group of workers of any name is one of workers."""
    names = set(variables["group_names"])
    workers = {"workers"} if names & set(variables["celery_worker_groups"]) else set()
    gevent = {"gevent"} if "gevent" in [p.get("pool") for p in variables["celery_pools"]] else set()
    return workers | gevent | (names & set(NEEDS)) | (names & {"postgresql", "redis"})


def inner(variables):
    """The ports of the parts on a host that people never reach, by part."""
    names = variables["group_names"]
    many = variables["celeriac_many_hosts"]
    found = {}
    if "postgresql" in names:
        found["postgresql"] = {int(variables["postgresql_port"])}
    if "postgresql" in names and variables["pgbouncer_wanted"]:
        found["pgbouncer"] = {int(variables["pgbouncer_port"])}
    if "redis" in names:
        found["redis"] = {int(item["port"]) for item in variables["redis_instances"]}
    if "web" in names and many:
        found["web"] = {int(variables["nginx_inner_app_port"])}
    if "flower" in names:
        found["flower"] = {int(variables["nginx_inner_flower_port" if many else "flower_port"])}
    if "beat" in names and variables["metrics_enabled"]:
        port = variables["nginx_inner_metrics_port" if many else "metrics_port"]
        found["metrics"] = {int(port)}
    if many and "exporters" in variables["monitoring_doors"]:
        found["exporters"] = {int(variables["monitoring_door"])}
    if many and "alertmanager" in variables["monitoring_doors"]:
        found["alerts"] = {int(variables["monitoring_alerts_door"])}
    if "logs" in names and many:
        found["logs"] = {int(variables["logs_port"])}
    return found


def ports(variables):
    """All these ports of one host."""
    return {port for numbers in inner(variables).values() for port in numbers}


@pytest.mark.spec("D7.3.1", "D7.3.2")
def test_only_what_others_need_listens_beyond_loopback(listeners, variables):
    """SSH and, on a proxy, HTTP and HTTPS at any address; of the rest what another host needs."""
    public = {(row[0], int(row[1]), row[2]) for row in listeners if not LOOPBACK.match(row[0])}
    others = {row for row in public if row[2] != "sshd"}
    if "proxy" in variables["group_names"]:
        others = {row for row in others if (row[1], row[2]) not in [(80, "nginx"), (443, "nginx")]}
    if variables["celeriac_many_hosts"]:
        shared = {(variables["host_address"], port) for port in ports(variables)}
        assert {row[:2] for row in others} == shared
    else:
        assert others == set()


# What gets a host its address, and keeps its clock, where the operator's own does.
CALLERS = {"dhclient", "dhcpcd", "systemd-network", "chronyd", "ntpd"}


# What finds names: of Docker, in containers that share a network, at any port of this address.
RESOLVER = "127.0.0.11"


def test_nothing_of_ours_waits_for_datagrams(host):
    """Not on loopback either, but for what finds names."""
    found = [row for row in sockets(host, "--udp") if row[2] not in CALLERS]
    names = [
        row for row in found if row[0] == RESOLVER or (LOOPBACK.match(row[0]) and row[1] == "53")
    ]
    assert [row for row in found if row not in names] == []


def test_everything_else_listens_on_loopback(listeners, variables):
    here = {int(row[1]) for row in listeners if LOOPBACK.match(row[0])}
    wanted = {
        int(variables[f"{part}_port"])
        for part in ("postgresql",)
        if part in variables["group_names"]
    }
    wanted |= inner(variables).get("pgbouncer", set())
    if "flower" in variables["group_names"]:
        wanted.add(int(variables["flower_port"]))
    if "mail_sink" in variables["group_names"]:
        wanted.add(int(variables["mail_sink_port"]))
    if "beat" in variables["group_names"] and variables["metrics_enabled"]:
        wanted.add(int(variables["metrics_port"]))
    assert wanted <= here


def test_what_no_rule_opens_is_dropped(host, variables):
    if not variables["firewall_enabled"]:
        pytest.skip("the operator has a filter of their own")
    rules = json.loads(host.check_output("nft --json list table inet celeriac"))["nftables"]
    chains = [item["chain"] for item in rules if "chain" in item]
    assert [(chain["hook"], chain["policy"]) for chain in chains] == [("input", "drop")]
    assert host.service("nftables").is_enabled


def ssh_ports(host, variables) -> set[int]:
    """The ports of sshd, where there is one that anybody may try."""
    wanted = variables["firewall_ssh_ports"] or [variables.get("ansible_port", 22)]
    here = {int(row[1]) for row in sockets(host, "--tcp") if row[2] == "sshd"}
    return {int(port) for port in wanted} & here if not variables["firewall_ssh_from"] else set()


def addresses(host, address: str) -> list[str]:
    """This address of a host, and those of IPv6 at which others may reach it."""
    said = host.check_output("ip -6 -oneline address show scope global").splitlines()
    return list(dict.fromkeys([address, *(line.split()[3].split("/")[0] for line in said)]))


def test_from_outside_only_ssh_and_the_web_answer(host, variables):
    open_here = ssh_ports(host, variables)
    tried = {*PUBLIC, *open_here, *ports(variables)}
    public = set(PUBLIC) if "proxy" in variables["group_names"] else set()
    for address in addresses(host, address_of(variables)):
        found = {port for port in tried if reachable(address, port)}
        assert (address, found) == (address, public | open_here)


def reachable(address: str, port: int) -> bool:
    """Tell whether the port accepts a connection from here."""
    try:
        socket.create_connection((address, port), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def knock(host):
    """Return a function that tells which of some doors, address and port, open to this host."""

    def ask(doors):
        script = base64.b64encode(KNOCK.encode()).decode()
        command = f"echo {script} | base64 -d | python3 - %s"
        return {tuple(door) for door in json.loads(host.check_output(command, json.dumps(doors)))}

    return ask


def test_this_host_reaches_what_it_needs_and_nothing_else(
    knock, variables, inventory, many_hosts, reach, figure
):
    me = variables["inventory_hostname"]
    mine = roles(variables)
    needed = {"logs"} if me in variables["celeriac_hosts"] else set()
    needed |= {part for role in mine for part in NEEDS.get(role, set())}
    doors, expected, names = [], set(), {}
    for name in inventory.groups["all"]:
        if name == me:
            continue
        other = inventory.of(name)
        address, ssh = other["host_address"], ssh_ports(reach(name), other)
        public = (set(PUBLIC) if "proxy" in other["group_names"] else set()) | ssh
        for each in addresses(reach(name), address):
            names[each] = name
            doors += [(each, port) for port in sorted({*PUBLIC, *ssh, *ports(other)})]
            expected |= {(each, port) for port in public}
        for part, numbers in inner(other).items():
            if part in needed:
                expected |= {(address, port) for port in numbers}
    found = knock(doors)
    reached = ", ".join(f"{names[address]}:{port}" for address, port in sorted(found))
    figure(f"ports: {me} ({', '.join(sorted(mine)) or 'no part'}) reaches {reached or 'nothing'}")
    assert found == expected


def test_it_could_knock(knock, variables, inventory, many_hosts):
    """The same way finds a door that is open to everybody: HTTPS of a proxy."""
    proxies = [inventory.of(name)["host_address"] for name in inventory.groups["proxy"]]
    others = [(address, 443) for address in proxies if address != variables["host_address"]]
    assert knock(others) == set(others)
