"""Dashboards of Grafana from a short description of each."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

SOURCE = {"type": "prometheus", "uid": "celeriac"}
COLUMNS, WIDTH, HEIGHT = 24, 8, 8


def grafana_dashboards(described: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return a file of JSON for each dashboard, by its path."""
    return {
        f"celeriac/{name}.json": json.dumps(dashboard(name, about), indent=1) + "\n"
        for name, about in described.items()
    }


def dashboard(name: str, about: Mapping[str, Any]) -> dict[str, Any]:
    """Return one dashboard as Grafana reads it."""
    return {
        "uid": f"celeriac-{name}",
        "title": about["title"],
        "tags": ["celeriac"],
        "schemaVersion": 38,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {
            "list": [choice(label, figure) for label, figure in about.get("variables", {}).items()]
        },
        "links": [
            {"type": "dashboards", "tags": ["celeriac"], "title": "Celeriac", "asDropdown": True}
        ],
        "panels": [panel(number, given) for number, given in enumerate(about["panels"])],
    }


def choice(label: str, figure: str) -> dict[str, Any]:
    """Return a variable that holds some or all values of a label."""
    return {
        "name": label,
        "type": "query",
        "datasource": SOURCE,
        "query": f"label_values({figure}, {label})",
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".+",
        "current": {"text": "All", "value": "$__all"},
    }


def panel(number: int, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the panel with this number; there are three in a row."""
    kind = given.get("kind", "timeseries")
    options = {"reduceOptions": {"calcs": ["lastNotNull"]}} if kind == "stat" else {}
    return {
        "id": number + 1,
        "type": kind,
        "title": given["title"],
        "datasource": SOURCE,
        "gridPos": {
            "x": number * WIDTH % COLUMNS,
            "y": number * WIDTH // COLUMNS * HEIGHT,
            "w": WIDTH,
            "h": HEIGHT,
        },
        "fieldConfig": {
            "defaults": {"unit": given.get("unit", "short"), "min": 0},
            "overrides": [],
        },
        "options": options,
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": SOURCE,
                "expr": expression,
                "legendFormat": re.sub(r"<(\w+)>", r"{{\1}}", legend),
                "instant": kind == "stat",
            }
            for index, (legend, expression) in enumerate(given["queries"].items())
        ],
    }


def grafana_problems(repository: Mapping[str, Any], password: str) -> list[str]:
    """Return why Grafana could not be installed from this repository, or be logged in to."""
    problems = []
    key = str(repository.get("key", ""))
    if "BEGIN PGP PUBLIC KEY BLOCK" not in key:
        problems.append(
            f"dashboards_grafana: key begins with {key[:20]!r}; write the public key that signs "
            "the repository, in ASCII armor (-----BEGIN PGP PUBLIC KEY BLOCK-----)."
        )
    if not re.match(r"(https?|file):/", str(repository.get("url", ""))):
        problems.append(
            f"dashboards_grafana: url is {repository.get('url')!r}; write where apt finds the "
            "repository, such as https://apt.example.org."
        )
    if not repository.get("suite"):
        problems.append("dashboards_grafana has no suite; write the one to take, e.g. stable.")
    elif not str(repository["suite"]).endswith("/") and not repository.get("components"):
        problems.append(
            "dashboards_grafana has no components; write those of its suite, e.g. "
            "components: [main]."
        )
    if not password:
        problems.append(
            "dashboards_grafana_password is empty; write the password of the first login, from the "
            "vault."
        )
    return problems


class FilterModule:
    """The filters, by the names that playbooks use."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters of this file."""
        return {
            "grafana_dashboards": grafana_dashboards,
            "grafana_problems": grafana_problems,
        }
