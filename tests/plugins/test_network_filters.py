"""The filters of the network: who is where, what each host opens to whom, and what cannot work."""

import importlib.util

import pytest

from support.inventory import ROOT

GROUPS = {
    "postgresql": ["data"],
    "redis": ["data"],
    "web": ["web-1", "web-2"],
    "beat": ["work"],
    "cpu": ["work"],
    "flower": ["web-2"],
    "proxy": ["door"],
    "others": ["stranger"],
}
ADDRESSES = {
    "data": "10.0.0.1",
    "web-1": "10.0.0.2",
    "web-2": "10.0.0.3",
    "work": "10.0.0.4",
    "door": "10.0.0.5",
}


def load():
    """Return the filters by name."""
    path = ROOT / "plugins/filter/network.py"
    spec = importlib.util.spec_from_file_location("network_filters", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.FilterModule().filters()


FILTERS = load()


def test_a_host_of_many_groups_counts_once_and_a_group_that_is_not_there_for_nothing():
    assert FILTERS["hosts_in"](GROUPS, ["web", "cpu", "gone"]) == ["web-1", "web-2", "work"]


@pytest.mark.parametrize(
    ("text", "found"),
    [("10.0.0.7", "10.0.0.7"), ("fd00::7", "fd00::7"), ("web.example.org", ""), ("", "")],
)
def test_only_an_address_is_taken_for_one(text, found):
    assert FILTERS["only_address"](text) == found


@pytest.mark.parametrize(
    ("address", "network"), [("10.0.0.7", "10.0.0.7/32"), ("fd00::7", "fd00::7/128"), ("", "")]
)
def test_one_address_as_a_network(address, network):
    assert FILTERS["as_network"](address) == network


def opened(host, what, on, wanted, ports=(5432,)):
    """Return what this one need opens on the host."""
    need = {"what": what, "groups": on, "ports": list(ports), "from": wanted}
    return FILTERS["open_here"]([need], host, GROUPS, ADDRESSES)


def test_a_port_is_open_to_the_hosts_that_need_it_and_no_other():
    assert opened("data", "PostgreSQL", ["postgresql"], ["web", "beat", "cpu"]) == [
        {"what": "PostgreSQL", "ports": [5432], "from": ["10.0.0.2", "10.0.0.3", "10.0.0.4"]}
    ]


def test_a_host_without_the_part_opens_nothing():
    assert opened("web-1", "PostgreSQL", ["postgresql"], ["web"]) == []


def test_what_anybody_may_reach_names_no_address():
    assert opened("door", "HTTPS", ["proxy"], "anywhere", [80, 443]) == [
        {"what": "HTTPS", "ports": [80, 443], "from": []}
    ]


def test_what_nobody_else_needs_stays_closed():
    """An empty list of addresses would mean anybody."""
    assert opened("work", "metrics", ["beat"], ["monitoring"]) == []
    assert opened("work", "itself", ["beat"], ["cpu"]) == []
    assert opened("work", "of a host without address", ["beat"], ["others"]) == []


@pytest.mark.parametrize(
    ("addresses", "matches"),
    [
        ([], [""]),
        (["10.0.0.1", "10.0.0.2"], ["ip saddr { 10.0.0.1, 10.0.0.2 } "]),
        (["fd00::1", "10.0.0.0/8"], ["ip saddr { 10.0.0.0/8 } ", "ip6 saddr { fd00::1 } "]),
    ],
)
def test_addresses_as_nft_matches_them(addresses, matches):
    assert FILTERS["firewall_sources"](addresses) == matches


@pytest.mark.parametrize(
    ("networks", "client"),
    [
        ([], "192.0.2.7"),
        (["192.0.2.0/24"], "192.0.2.7"),
        (["fd00::/8", "192.0.2.7"], "192.0.2.7"),
        (["192.0.2.0/24"], ""),
        (["192.0.2.0/24"], "UNKNOWN"),
    ],
)
def test_networks_that_keep_ssh_open_are_let_through(networks, client):
    assert FILTERS["ssh_source_problem"](networks, client) == ""


@pytest.mark.parametrize(
    ("networks", "words"),
    [
        (["198.51.100.0/24"], "which would be locked out; add 192.0.2.7/32"),
        (["fd00::/8"], "you come from 192.0.2.7"),
        (["192.0.2.0/24", "office"], "firewall_ssh_from has 'office'; write an address"),
    ],
)
def test_networks_that_would_lock_ssh_out_are_refused(networks, words):
    assert words in FILTERS["ssh_source_problem"](networks, "192.0.2.7")


def test_names_and_addresses_that_work_are_let_through():
    assert FILTERS["network_problems"](ADDRESSES) == []


@pytest.mark.parametrize("name", ["Web-1", "web_1", "10.0.0.9", "-web", "web-", "web..1"])
def test_a_name_that_no_certificate_can_carry_is_refused(name):
    said = FILTERS["network_problems"]({name: "10.0.0.9"})
    assert len(said) == 1
    assert f"calls a host {name}, which no certificate can verify" in said[0]


@pytest.mark.parametrize("name", ["web-1", "web-1.example.org", "1"])
def test_a_host_name_is_let_through(name):
    assert FILTERS["network_problems"]({name: "10.0.0.9"}) == []


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("", "host_address of web-1 is not set"),
        ("web.example.org", "host_address of web-1 is web.example.org, but other hosts"),
        ("127.0.0.1", "host_address of web-1 is 127.0.0.1, where no other host reaches it"),
    ],
)
def test_an_address_that_others_cannot_reach_is_refused(address, words):
    assert [text for text in FILTERS["network_problems"]({"web-1": address}) if words in text]


def test_two_hosts_of_one_address_are_refused():
    said = FILTERS["network_problems"]({"a": "10.0.0.1", "b": "10.0.0.1"})
    assert said == [
        "host_address is 10.0.0.1 for a, b; write for each host the address that is its own."
    ]


UNITS = "/etc/systemd/system"
SITES = "/etc/nginx/sites-enabled"


@pytest.mark.parametrize(
    ("paths", "wanted", "left"),
    [
        ([f"{UNITS}/shop-web@.service", f"{UNITS}/shop-web.service"], ["web"], []),
        ([f"{UNITS}/shop-web@.service", f"{UNITS}/shop-web.service"], ["worker"], ["web"]),
        ([f"{UNITS}/shop-worker-cpu@.service"], [], ["worker"]),
        ([f"{UNITS}/shop-flower.service", f"{UNITS}/shop-beat@.service"], ["beat"], ["flower"]),
        ([f"{SITES}/shop.conf", f"{SITES}/shop-inner.conf"], ["inner"], ["proxy"]),
        ([f"{SITES}/shop.conf", f"{SITES}/shop-inner.conf"], ["proxy"], ["inner"]),
        ([f"{UNITS}/workshop-web@.service", f"{UNITS}/shop-webhook.service"], [], []),
    ],
)
def test_what_a_host_has_left_is_known_by_its_files(paths, wanted, left):
    assert FILTERS["parts_left"](paths, "shop", wanted) == left


def test_pools_that_a_host_no_longer_runs_are_known_by_their_units():
    units = [f"/etc/systemd/system/shop-{name}" for name in UNITS]
    assert FILTERS["pools_left"](units, "shop", ["cpu"]) == ["io", "io-slow"]
    assert FILTERS["pools_left"](units, "shop", ["cpu", "io", "io-slow"]) == []


UNITS = (
    *("worker-cpu@.service", "worker-io@.service", "worker-io-slow@.service"),
    *("web@.service", "beat@.service", "worker-cpu@.service.d"),
)
