"""Dashboards of Grafana from short descriptions."""

import importlib.util
import json

import pytest
import yaml

from support.inventory import ROOT

SPEC = importlib.util.spec_from_file_location("dashboards", ROOT / "plugins/filter/dashboards.py")
filters = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(filters)

VARIABLES = yaml.safe_load((ROOT / "roles/dashboards/vars/main.yml").read_text())
DESCRIBED = VARIABLES["__dashboards_described"]
MADE = {path: json.loads(text) for path, text in filters.grafana_dashboards(DESCRIBED).items()}


def test_there_is_one_for_each_question():
    wanted = {"overview", "queues", "task", "workers", "beat", "hosts"}
    assert set(MADE) == {f"celeriac/{name}.json" for name in wanted}


@pytest.mark.parametrize("path", MADE)
def test_no_panel_covers_another(path):
    places = [tuple(panel["gridPos"].values()) for panel in MADE[path]["panels"]]
    assert len(set(places)) == len(places)
    assert all(x + width <= 24 for x, _, width, _ in places)


@pytest.mark.parametrize("path", MADE)
def test_each_query_asks_for_variables_that_there_are(path):
    chosen = {f"${each['name']}" for each in MADE[path]["templating"]["list"]}
    queries = [t["expr"] for panel in MADE[path]["panels"] for t in panel["targets"]]
    assert {word for text in queries for word in text.split('"') if word[:1] == "$"} == chosen


def test_labels_become_what_grafana_fills_in():
    (first, *_) = filters.panel(0, {"title": "T", "queries": {"<queue> of <host>": "up"}})[
        "targets"
    ]
    assert first["legendFormat"] == "{{queue}} of {{host}}"


GRAFANA = {
    "url": "https://apt.example.org",
    "suite": "stable",
    "components": ["main"],
    "key": "-----BEGIN PGP PUBLIC KEY BLOCK-----\n",
}


def test_a_repository_that_can_be_used_has_no_problem():
    assert filters.grafana_problems(GRAFANA, "secret") == []
    flat = {**GRAFANA, "suite": "./", "components": []}
    assert filters.grafana_problems(flat, "secret") == []


@pytest.mark.parametrize(
    ("changes", "password", "said"),
    [
        ({"key": "/etc/key.asc"}, "secret", "key begins with '/etc/key.asc'"),
        ({"url": "apt.example.org"}, "secret", "url is 'apt.example.org'"),
        ({"suite": ""}, "secret", "has no suite"),
        ({"components": []}, "secret", "components: [main]"),
        ({}, "", "dashboards_grafana_password is empty"),
    ],
)
def test_one_that_cannot_is_refused(changes, password, said):
    (problem,) = filters.grafana_problems({**GRAFANA, **changes}, password)
    assert said in problem
