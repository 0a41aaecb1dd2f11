"""Asks Prometheus and Alertmanager, which listen on loopback of the monitoring host."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

from support.inventory import Variables

ASK = (
    "import sys, urllib.request as r;"
    "print(r.urlopen(r.Request(sys.argv[1], method=sys.argv[2]), timeout=20).read().decode())"
)


class Prometheus:
    """Prometheus on a host."""

    def __init__(self, host: Any, variables: Variables) -> None:
        self.host = host
        self.url = f"http://127.0.0.1:{variables['prometheus_port']}"
        self.alertmanager = f"http://127.0.0.1:{variables['alertmanager_port']}"

    def get(self, url: str, method: str = "GET") -> str:
        """Return what this address answers on the host."""
        return self.host.check_output("python3 -c %s %s %s", ASK, url, method)

    def api(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer of Prometheus."""
        query = f"?{urlencode(parameters)}" if parameters else ""
        answer = json.loads(self.get(f"{self.url}/api/v1/{path}{query}"))
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the samples of an instant query."""
        return self.api("query", query=expression)["result"]

    def value(self, expression: str) -> float | None:
        """Return the only value of a query, or None."""
        found = self.query(expression)
        assert len(found) < 2, found
        return float(found[0]["value"][1]) if found else None

    def firing(self) -> set[str]:
        """Return the names of the alerts that fire."""
        return {
            alert["labels"]["alertname"]
            for alert in self.api("alerts")["alerts"]
            if alert["state"] == "firing"
        }
