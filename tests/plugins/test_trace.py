"""What is followed through the journals is found in them, and shown once, in order."""

import json

import pytest
from test_backup import load

from support.inventory import ROOT

trace = load(ROOT / "plugins/filter/trace.py")
module = load(ROOT / "plugins/modules/journal_lines.py")

REQUEST = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"
TASK = "1f2e3d4c-5b6a-4978-8695-a4b3c2d1e0f9"


def line(time: int, host: str = "web-1", unit: str = "shop-web@r.service", **said) -> dict:
    return {
        "time": time,
        "host": host,
        "unit": unit,
        "priority": 6,
        "message": json.dumps({"level": "INFO", "logger": "orders", **said}),
    }


@pytest.mark.parametrize(
    ("identity", "about"),
    [(REQUEST, ""), (TASK, ""), ("", "order=17"), ("", "customer=a@b.example")],
)
def test_what_can_be_followed_is(identity, about):
    assert trace.trace_problem(identity, about) == ""


@pytest.mark.parametrize(
    ("identity", "about", "words"),
    [
        ("", "", "Write either id="),
        (TASK, "order=17", "one of them"),
        ("17", "", "id is 17, which no request or task has"),
        ("$(reboot) and more", "", "which no request or task has"),
        ("", "17", "about is 17; write a field of the logs and its value, as in about=order=17"),
        ("", "order=1 7", "write a field of the logs"),
    ],
)
def test_what_cannot_be_followed_is_refused(identity, about, words):
    assert words in trace.trace_problem(identity, about)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"order": 17, "task": "x"}', True),
        ('{"task":"x","order":17}', True),
        ('{"order": "17"}', True),
        ('{"order": 170}', False),
        ('{"preorder": 17}', False),
    ],
)
def test_a_field_is_matched_as_a_whole(text, found):
    import re

    assert bool(re.search(trace.trace_pattern("", "order=17"), text)) == found


def test_requests_and_tasks_are_followed_each_once():
    lines = [
        line(1, request=REQUEST),
        line(2, request=REQUEST, task_id=TASK),
        line(3, request="no id!"),
        {"time": 4, "host": "a", "unit": "ssh", "priority": 6, "message": "plain"},
    ]
    assert trace.trace_ids(lines) == [REQUEST, TASK]


def test_lines_are_shown_in_order_and_each_once():
    nginx = {"method": "POST", "path": "/orders/", "status": 302, "seconds": 0.1}
    lines = [
        line(3_000_000, "work-1", "shop-worker-cpu@r.service", message="packed", order=17),
        line(2_000_000, unit="nginx.service", **nginx, request=REQUEST),
        line(3_000_000, "work-1", "shop-worker-cpu@r.service", message="packed", order=17),
    ]
    assert trace.trace_lines(lines) == [
        f"1970-01-01 00:00:02.000 web-1 nginx INFO POST /orders/ 302 in 0.1 s  [request={REQUEST}]",
        "1970-01-01 00:00:03.000 work-1 shop-worker-cpu@r INFO packed  [order=17]",
    ]


def test_a_traceback_follows_its_line_and_text_stays_text():
    failed = line(1, message="failed", error="Traceback\n  boom")
    assert trace.trace_lines([failed])[0].endswith("INFO failed\nTraceback\n  boom")
    plain = {"time": 1, "host": "a", "unit": "ssh.service", "priority": 3, "message": "no"}
    assert trace.trace_lines([plain]) == ["1970-01-01 00:00:00.000 a ssh ERROR no"]


def test_an_entry_of_the_journal_is_read():
    entry = {
        "__REALTIME_TIMESTAMP": "5",
        "_HOSTNAME": "web-1",
        "_SYSTEMD_UNIT": "shop-web@r.service",
        "PRIORITY": "3",
        "MESSAGE": [104, 105],
    }
    assert module.line(entry) == {
        "time": 5,
        "host": "web-1",
        "unit": "shop-web@r.service",
        "priority": 3,
        "message": "hi",
    }
