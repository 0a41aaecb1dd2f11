"""What the app may reach."""

import importlib.util

import pytest

from support.inventory import ROOT

spec = importlib.util.spec_from_file_location("outgoing", ROOT / "plugins/filter/outgoing.py")
outgoing = importlib.util.module_from_spec(spec)
spec.loader.exec_module(outgoing)

OWN = ["shop.example", "redis-1", "10.0.0.7"]


@pytest.mark.parametrize(
    "value",
    [
        "smtp://127.0.0.1:1025",
        "smtp://localhost",
        "http://[::1]:80/",
        "https://shop.example/path",
        "redis://redis-1:6379/0",
        "http://10.0.0.7/",
        "no address",
        "",
        5,
        "http://[broken/",
    ],
)
def test_what_is_near_or_no_address_needs_nothing(value):
    assert outgoing.outgoing_problems({"NAME": value}, [], OWN) == []


@pytest.mark.parametrize("value", ["https://api.example.com/v1", "smtps://user:pw@203.0.113.25"])
def test_what_is_far_needs_a_network(value):
    (problem,) = outgoing.outgoing_problems({"NAME": value}, [], OWN)
    assert problem.startswith("app_env: NAME names ")
    assert "pw" not in problem.split("which")[0].split(" names ")[1]
    assert outgoing.outgoing_problems({"NAME": value}, ["203.0.113.0/24"], OWN) == []
