"""One screen about a deployment, for people, from what its hosts have said."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

WORDS = {
    "deactivating": "drains",
    "activating": "starts",
    "inactive": "is down",
    "failed": "FAILED",
}


def blocks(text: str) -> Iterator[dict[str, str]]:
    """Yield the properties of each unit that `systemctl show` has printed."""
    for block in text.strip().split("\n\n"):
        found = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if found.get("Id"):
            yield found


def unit_lines(text: str, app: str) -> list[str]:
    """Return a line for each unit, without the placeholder behind the socket."""
    lines = []
    for unit in sorted(blocks(text), key=lambda found: found["Id"]):
        if unit["Id"] == f"{app}-web.service":
            continue
        state = WORDS.get(unit["ActiveState"], unit["ActiveState"])
        restarts = f", {unit['NRestarts']} restarts" if unit.get("NRestarts", "0") != "0" else ""
        said = f": {unit['StatusText']}" if unit.get("StatusText") else ""
        since = unit.get("StateChangeTimestamp", "")
        lines.append(f"  {unit['Id']} {state} since {since}{restarts}{said}")
    return lines


def certificate_lines(text: str, now: datetime | None = None) -> list[str]:
    """Return a line for each certificate: the file, until when, and how many days that is."""
    lines = []
    for line in text.strip().splitlines():
        path, _, end = line.partition(" notAfter=")
        try:
            until = datetime.strptime(end.strip(), "%b %d %H:%M:%S %Y GMT").replace(tzinfo=UTC)
        except ValueError:
            lines.append(f"  {line}")
            continue
        days = (until - (now or datetime.now(UTC))).days
        lines.append(f"  {path} until {until:%Y-%m-%d} ({days} days)")
    return lines


def host_lines(name: str, said: Mapping[str, Any]) -> list[str]:
    """Return what one host has said."""
    if "status_host" not in said or "steps" not in said["status_host"]:
        return [f"{name}: did not answer"]
    releases = said["status_releases"]
    units, certificates, out = (step["stdout"] for step in said["status_host"]["steps"])
    head = f"{name}:"
    if releases["current"]:
        before = ", ".join(one for one in releases["releases"] if one != releases["current"])
        head += f" release {releases['current']}; others to go back to: {before or 'none'}"
    lines = [head, *unit_lines(units, said["app_name"])]
    if out.split():
        lines.append(f"  out of service: {', '.join(out.split())} (playbooks/drain.yml -e do=back)")
    return lines + certificate_lines(certificates)


def status_screen(hostvars: Mapping[str, Any], hosts: Sequence[str], first: str) -> list[str]:
    """Return the lines of the screen; `first` is the host that asked the app."""
    lines = [line for host in sorted(hosts) for line in host_lines(host, hostvars[host])]
    app = hostvars[first].get("status_app", {})
    deploys = hostvars[first].get("status_deploys", {})
    if "steps" in app and not app.get("failed"):
        lines += app["steps"][0]["stdout"].splitlines()
    else:
        lines.append(f"the app did not answer: {app.get('msg', f'{first} is away')}")
    holder = deploys.get("holder")
    if holder:
        lines.append(
            f"a {holder['what']} runs: {holder['who']}@{holder['machine']}, "
            f"process {holder['process']}"
        )
    return [
        *lines,
        "deploys (the last five):",
        *(f"  {line}" for line in deploys.get("history", [])),
    ]


class FilterModule:
    """The filters, by the names that playbooks use."""

    def filters(self) -> dict[str, Any]:
        """Return the filters of this file."""
        return {"status_screen": status_screen}
