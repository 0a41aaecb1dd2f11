"""What would keep the public site from its visitors is refused, with what to write instead."""

import importlib.util
from pathlib import Path

import pytest

PLUGIN = Path(__file__).parents[2] / "plugins/filter/public.py"


def load_plugin():
    spec = importlib.util.spec_from_file_location("public_filter", PLUGIN)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


filters = load_plugin().FilterModule().filters()
staff_network_problems, acme_problems = filters["staff_network_problems"], filters["acme_problems"]


@pytest.mark.parametrize(
    "networks", [["all"], ["192.0.2.1"], ["192.0.2.0/24", "2001:db8::/32", "::1"]]
)
def test_networks_that_nginx_reads(networks):
    assert staff_network_problems(networks) == []


@pytest.mark.parametrize(
    ("networks", "words"),
    [
        ([], "nginx_staff_networks is empty"),
        (["office"], "nginx_staff_networks has 'office'"),
        (["192.0.2.1/24"], "has host bits set"),
        (["all", "300.0.0.0/8"], "write an address, a network such as 192.0.2.0/24, or all"),
    ],
)
def test_networks_that_it_does_not_read(networks, words):
    (problem,) = staff_network_problems(networks)
    assert words in problem


GOOD = {"names": ["shop.example.org"], "email": "ada@example.org", "server": ""}


@pytest.mark.parametrize("server", ["", "https://localhost:14000/dir"])
def test_what_a_ca_signs(server):
    assert acme_problems(**{**GOOD, "server": server}) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"names": ["192.0.2.1"]}, "certificates_names has 192.0.2.1, which a public CA"),
        ({"names": ["localhost"]}, "certificates_names has localhost, which a public CA"),
        ({"names": ["*.example.org"]}, "a webroot proves no wildcard"),
        ({"email": ""}, "certificates_acme_email is ''"),
        ({"server": "http://ca.example"}, "certificates_acme_server is 'http://ca.example'"),
        ({"proxies": 2}, "the group proxy has 2 hosts"),
    ],
)
def test_what_it_does_not(change, words):
    (problem,) = acme_problems(**{**GOOD, **change})
    assert words in problem
