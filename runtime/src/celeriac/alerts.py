"""The alerts that fire now, as Alertmanager tells them, for the operations page.

`CELERIAC_ALERTS_URL` says where it is, such as http://127.0.0.1:9093; without it nothing is asked.
`CELERIAC_ALERTS_CA` is the CA that vouches for it, where it is asked over TLS.
"""

import json
import os
import ssl
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit
from urllib.request import urlopen

QUESTION = "/api/v2/alerts?active=true&silenced=false&inhibited=false"
TIMEOUT = 2.0
MOST_BYTES = 1_000_000
URGENCY = {"page": 0, "ticket": 1}
"""Other severities are for machines, such as the alert that always fires."""


@dataclass(frozen=True)
class Alert:
    """One alert; `since` is in seconds since the epoch."""

    name: str
    severity: str
    since: float
    summary: str
    runbook: str


def wanted() -> bool:
    return bool(os.environ.get("CELERIAC_ALERTS_URL"))


def firing() -> list[Alert]:
    """What fires, the most urgent and oldest first; OSError or ValueError when nobody tells."""
    url = os.environ["CELERIAC_ALERTS_URL"].rstrip("/") + QUESTION
    if urlsplit(url).scheme not in ("http", "https"):
        raise ValueError(f"CELERIAC_ALERTS_URL is no http:// or https:// address: {url}")
    ca = os.environ.get("CELERIAC_ALERTS_CA")
    context = ssl.create_default_context(cafile=ca) if ca else None
    with urlopen(url, timeout=TIMEOUT, context=context) as answer:  # noqa: S310 - looked at above
        found = json.loads(answer.read(MOST_BYTES))
    alerts = [read(given) for given in found]
    known = [alert for alert in alerts if alert.severity in URGENCY]
    return sorted(known, key=lambda alert: (URGENCY[alert.severity], alert.since, alert.name))


def read(given: dict) -> Alert:
    labels, notes = given["labels"], given.get("annotations", {})
    return Alert(
        name=labels["alertname"],
        severity=labels.get("severity", ""),
        since=datetime.fromisoformat(given["startsAt"].replace("Z", "+00:00")).timestamp(),
        summary=notes.get("summary", ""),
        runbook=notes.get("runbook", ""),
    )
