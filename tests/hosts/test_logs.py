"""Logs: JSON in the journal, requests followed into their tasks, and journals in one place."""

import json
import re
import time
import uuid

import pytest

from support.hosts import until
from support.playbooks import playbook

testinfra_hosts = ["ansible://all"]
JOURNAL = ("systemd-journal-upload", "systemd-journal-remote", "nginx")


@pytest.fixture
def central(host, variables):
    """The host that keeps the journals of the others."""
    if not variables["celeriac_many_hosts"] or not variables["groups"].get("logs"):
        pytest.skip("nothing collects the journals")
    if host.backend.host not in variables["celeriac_hosts"]:
        pytest.skip("no part of the deployment")
    return variables["groups"]["logs"][0]


def said(host, *matches: str) -> list[dict]:
    """Return the JSON objects among the last lines of some units."""
    wanted = " ".join(matches)
    text = host.check_output(f"journalctl --no-pager -o cat -n 400 {wanted}")
    lines = (line for line in text.splitlines() if line.startswith("{"))
    return [json.loads(line) for line in lines]


@pytest.mark.spec("D5.3.1", "D7.2.4")
@pytest.mark.usefixtures("reference_project")
def test_what_runs_the_app_writes_json(host, variables, app_name):
    kinds = [kind for kind in ("web", "worker", "beat") if kind in variables["release_roles"]]
    if not kinds:
        pytest.skip("no part of the app runs here")
    for kind in kinds:
        lines = said(host, f"-u '{app_name}-{kind}*'")
        assert lines, f"{kind} wrote no JSON"
        assert all({"time", "level", "logger", "message"} <= set(line) for line in lines)


@pytest.mark.spec("D5.3.2")
@pytest.mark.usefixtures("reference_project")
def test_nothing_for_developers_alone_is_in_the_journal(host, variables, app_name):
    if variables["release_roles"] == ["manage"]:
        pytest.skip("no part of the app runs here")
    levels = {line["level"] for line in said(host, f"-u '{app_name}-*'")}
    assert levels <= {"INFO", "WARNING", "ERROR", "CRITICAL"}


def test_nginx_writes_json_without_queries_and_no_file(host, variables, site, inventory):
    if "proxy" not in variables["group_names"]:
        pytest.skip("no proxy")
    secret = uuid.uuid4().hex
    answer = site.request(f"/?token={secret}")
    ident = answer.header("X-Request-ID")
    assert re.fullmatch(r"[0-9a-f]{32}", ident)

    def found():
        return [line for line in said(host, "-t nginx") if line.get("request") == ident]

    # Of several hosts each has an nginx, and two of them may be on this one.
    lines = until(10, found, "nginx wrote nothing about the request")
    assert {(line["method"], line["path"], line["status"]) for line in lines} == {("GET", "/", 200)}
    assert secret not in json.dumps(lines)
    assert host.check_output(f"grep -l {secret} -r /var/log/nginx || :") == ""


@pytest.mark.leaves_traces
@pytest.mark.spec("D5.3.3", "G11.4")
@pytest.mark.usefixtures("reference_project")
def test_one_command_follows_an_order_through_all_hosts(host, variables, site, inventory):
    if "proxy" not in variables["group_names"]:
        pytest.skip("asked once, for the proxy")
    order = site.place_order(card="flaky")
    assert site.finish(order, 60)["step"] == "done"
    ident = site.ordered_by
    done = playbook(inventory, "trace", id=ident, since="-5min")
    assert done.returncode == 0, done.stdout[-2000:]
    for part in ("POST", "payments.charge", "attempt=2", "orders.pack", "emails."):
        assert part in done.stdout, f"{part} is not in:\n{done.stdout[-4000:]}"


@pytest.mark.spec("D5.3.3", "G11.4")
def test_a_line_reaches_the_host_that_keeps_them_all(host, central, reach, inventory):
    name = host.backend.host
    word = f"celeriac-{uuid.uuid4().hex}"
    host.check_output(f"logger -t celeriac-test {word}")
    there = reach(central)
    began = time.monotonic()
    place = "" if name == central else "-D /var/log/journal/remote"
    found = f"journalctl {place} --no-pager -q -o json -t celeriac-test --since -5min"

    def arrived():
        lines = map(json.loads, there.check_output(found).splitlines())
        return [line for line in lines if line["MESSAGE"] == word and line["_HOSTNAME"] == name]

    until(30, arrived, f"the line of {name} did not arrive")
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(("shown", "status"), [("-cert {crt} -key {key}", "HTTP/1.1 4"), ("", "")])
def test_nobody_sends_without_a_certificate(host, central, variables, shown, status):
    """With one it is the receiver that answers, that it can do nothing with this."""
    if host.backend.host == central:
        pytest.skip("that is the receiver")
    files = {"crt": "/etc/ssl/celeriac/host.crt", "key": "/etc/ssl/celeriac/host.key"}
    command = (
        "(printf 'GET /upload HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n'; sleep 2) |"
        " openssl s_client -quiet"
        f" -verify_return_error -CAfile {variables['celeriac_ca_on_hosts']} {shown.format(**files)}"
        f" -connect {central}:{variables['logs_port']} 2>/dev/null | head -c 12"
    )
    answer = host.run(command).stdout
    assert answer.startswith(status), answer
    assert bool(answer) == bool(shown)


def test_what_sends_and_receives_is_confined(host, central, variables):
    units = ["systemd-journal-upload.service"]
    if host.backend.host == central:
        units = ["systemd-journal-remote.service", "celeriac-logs-tidy.service"]
        units += ["stunnel@journals.service"]
    for unit in units:
        text = host.check_output(f"systemd-analyze security --no-pager {unit}")
        found = re.search(r"Overall exposure level .*: ([0-9.]+) ", text.splitlines()[-1])
        assert float(found[1]) <= 2.0, f"{unit}: {found[1]}"
