"""Tests that break things and wait for who is told: for the hosts of molecule/monitoring alone."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email import message_from_string
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from support import inventory as inventories
from support.hosts import until
from support.inventory import Inventory, Variables
from support.prometheus import Prometheus

FILES = Path(__file__).parents[1] / "support/files"
KEPT = "/run/webhook-sink.jsonl"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Stay away from hosts that nobody has named."""
    path = config.getoption("ansible_inventory")
    if path is None:
        return True
    found = inventories.load(path)
    if found.of(found.first("web"))["celeriac_environment"] != "watched":
        raise pytest.UsageError("tests/monitoring are about the hosts of molecule/monitoring alone")
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Look first, disturb afterwards."""
    items.sort(key=lambda item: item.path.parent.name == "monitoring")


class Told:
    """Who is told what on the monitoring host: a webhook that keeps all, and mail."""

    def __init__(self, host: Any, prometheus: Prometheus) -> None:
        self.host, self.prometheus = host, prometheus

    def messages(self, path: str = "/") -> list[dict[str, Any]]:
        """Return all that a webhook got, with the time when."""
        lines = self.host.check_output(f"cat {KEPT}").splitlines()
        return [found for found in map(json.loads, lines) if found["path"] == path]

    def alerts(self, status: str = "firing", path: str = "/") -> list[dict[str, Any]]:
        """Return each alert of each message, with the time when it came."""
        return [
            {"at": message["at"], **alert}
            for message in self.messages(path)
            for alert in message["message"]["alerts"]
            if alert["status"] == status
        ]

    def tell(self, alerts: list[dict[str, str]]) -> None:
        """Give alerts to Alertmanager, as Prometheus would; they end after two minutes."""
        ends = datetime.now(UTC) + timedelta(minutes=2)
        given = [
            {"labels": {**labels, "test": "yes"}, "endsAt": ends.isoformat()} for labels in alerts
        ]
        self.host.check_output(
            "python3 -c %s %s %s",
            "import sys, urllib.request as r;"
            "r.urlopen(r.Request(sys.argv[1], sys.argv[2].encode(),"
            " {'Content-Type': 'application/json'}), timeout=20)",
            f"{self.prometheus.alertmanager}/api/v2/alerts",
            json.dumps(given),
        )

    def of(
        self, name: str, after: float, /, status: str = "firing", path: str = "/", **labels: str
    ) -> dict[str, Any] | None:
        """Return the first such alert that came after this time."""
        wanted = {"alertname": name, **labels}.items()
        found = (
            alert
            for alert in self.alerts(status, path)
            if wanted <= alert["labels"].items() and alert["at"] > after
        )
        return next(found, None)

    def mail(self, name: str, after: float, /, **labels: str) -> tuple[float, str] | None:
        """Return when mail about the alert came, and its text."""
        folder = "/var/lib/mail-sink/new"
        listed = self.host.run(
            f"grep -lE '^Subject: .(page|ticket). {name}:' -r {folder} | xargs -r stat -c '%.Y %n'"
        ).stdout
        for line in sorted(listed.splitlines()):
            at, path = line.split()
            if float(at) < after:
                continue
            (part,) = message_from_string(self.host.file(path).content_string).get_payload()
            text = part.get_payload(decode=True).decode()
            if all(f"{label}={value}" in text for label, value in labels.items()):
                return float(at), text
        return None


@pytest.fixture(scope="session")
def watcher(pytestconfig: pytest.Config, inventory: Inventory) -> tuple[Any, Variables]:
    """The monitoring host, and its variables."""
    import testinfra

    name = inventory.first("monitoring")
    path = pytestconfig.getoption("ansible_inventory")
    return testinfra.get_host(f"ansible://{name}", ansible_inventory=path), inventory.of(name)


@pytest.fixture(scope="session")
def prometheus(watcher: tuple[Any, Variables]) -> Prometheus:
    """Prometheus on the monitoring host."""
    return Prometheus(*watcher)


@pytest.fixture(scope="session")
def told(watcher: tuple[Any, Variables], prometheus: Prometheus) -> Iterator[Told]:
    """The receivers; the webhook of the inventory listens while the tests run."""
    host, variables = watcher
    url = next(one["webhook"] for one in variables["alertmanager_receivers"] if "webhook" in one)
    script = base64.b64encode((FILES / "webhook_sink.py").read_bytes()).decode()
    host.check_output(
        f"echo {script} | base64 -d >/run/webhook_sink.py && touch {KEPT} && "
        "systemd-run --quiet --collect --unit=webhook-sink "
        f"python3 /run/webhook_sink.py {urlsplit(url).port} {KEPT}"
    )
    yield Told(host, prometheus)
    host.check_output("systemctl stop webhook-sink")


@pytest.fixture
def reaches(told: Told, figure: Callable[[str], None]) -> Callable[..., dict[str, Any]]:
    """Return a function that waits until an alert has reached webhook and mail, and notes when."""

    def wait(name: str, since: float, /, within: float, **labels: str) -> dict[str, Any]:
        left = since + within - time.time()
        found = until(
            max(left, 1), lambda: told.of(name, since, **labels), f"{name} reached no webhook"
        )
        at, text = until(
            20,
            lambda: told.mail(name, since, alertname=name, **labels),
            f"{name} was not mailed",
        )
        took = found["at"] - since
        figure(f"{name}: webhook after {took:.0f} s, mail after {at - since:.0f} s")
        assert took < within
        assert found["annotations"]["runbook"] in text
        return found

    return wait
