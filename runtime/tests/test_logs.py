"""Lines of logs say what they are about, and a request can be followed into its tasks."""

import http.client
import json
import logging
import socket

import pytest
from conftest import wait_for
from test_gunicorn import web  # noqa: F401 - a fixture

from celeriac import logs

ID = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"


def lines(service):
    """The JSON lines that a service has written."""
    found = []
    for line in service.log().splitlines():
        if line.startswith("{"):
            found.append(json.loads(line))
    return found


def ask(path, target, **headers):
    connection = http.client.HTTPConnection("example.org", timeout=10)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(10)
    connection.sock.connect(path)
    connection.request("GET", target, headers=headers)
    return connection.getresponse().status


SERVERS = {
    "gthread": (["--worker-class", "gthread", "--threads", "2"], "wsgi", {}),
    "gevent": (["--worker-class", "gevent"], "wsgi", {}),
    "uvicorn": (
        ["--worker-class", "uvicorn_worker.UvicornWorker"],
        "asgi",
        {"MIDDLEWARE": ["celeriac.logs.RequestIdMiddleware"]},
    ),
}


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("pool", ["prefork", "gevent"])
def test_a_request_is_followed_into_its_tasks_and_their_retries(
    web,  # noqa: F811 - as above
    worker,
    ledger,
    server,
    pool,
):
    options, kind, settings = SERVERS[server]
    asked = web(*options, app=f"config.{kind}:application", settings=settings, PROJECT_LOGS="INFO")
    asked.ready()
    did = worker(pool, PROJECT_LOGS="INFO").ready()
    assert ask(web.path, "/call/?name=followed", **{"X-Request-ID": ID}) == 200
    wait_for(lambda: ledger.effects()["followed"] == 1, 30, "the task is not done")

    assert [line["request"] for line in lines(asked) if line["message"] == "called"] == [ID]

    def seen():
        about = [line for line in lines(did) if line.get("request") == ID]
        return {(line["task"], line["attempt"]) for line in about if "attempt" in line}

    wanted = {("jobs.durable.flaky", 1), ("jobs.durable.flaky", 2), ("jobs.tasks.work", 1)}
    wait_for(lambda: seen() == wanted, 10, "the worker's lines")


def test_what_no_request_called_is_followed_from_its_first_task(worker, ledger):
    did = worker(PROJECT_LOGS="INFO").ready()
    task_id = ledger.run("print(d.flaky.delay('alone', 1).id)", PROJECT_LOGS="INFO")
    wait_for(lambda: ledger.effects()["alone"] == 1, 30, "the task is not done")

    def attempts():
        about = [line for line in lines(did) if line.get("request") == task_id]
        return {line["attempt"] for line in about if "attempt" in line}

    wait_for(lambda: attempts() == {1, 2}, 10, "the worker's lines")


@pytest.mark.parametrize("pool", ["prefork", "gevent"])
def test_neither_arguments_nor_results_are_in_the_log_at_any_level(worker, ledger, pool):
    did = worker(pool, PROJECT_LOGS="DEBUG").ready()
    ledger.run("d.work.delay('private-thing'); d.flaky.delay('private-thing', 1)")
    wait_for(lambda: ledger.effects()["private-thing"] == 2, 30, "the tasks are not done")
    succeeded = "Task jobs.durable.work["
    wait_for(lambda: succeeded in did.log() and "succeeded in" in did.log(), 10, "its line")
    assert "private-thing" not in did.log()


@pytest.mark.parametrize(
    ("given", "kept"), [(ID, True), ("a" * 8, True), ("short", False), ("x" * 65, False),
                        ("with blanks and\nlines", False), ("", False)]
)  # fmt: skip
def test_an_id_is_taken_if_it_is_one_and_made_otherwise(given, kept):
    found = logs.begin(given)
    assert (found == given) == kept
    assert logs.request_id() == found
    assert len(found) >= 8
    logs.end()
    assert logs.request_id() == ""


def test_a_call_within_a_request_carries_its_id():
    logs.begin(ID)
    headers = {"id": "t", "root_id": "t"}
    logs.stamp(headers)
    logs.end()
    assert headers[logs.HEADER] == ID


@pytest.fixture
def record():
    return logging.LogRecord("jobs", logging.ERROR, __file__, 1, "sold %s", ("out",), None)


def test_a_line_names_what_it_is_about(record):
    with logs.about(order=17), logs.about(customer="c"):
        said = json.loads(logs.Json().format(record))
    assert said | {"time": ""} == {
        "time": "",
        "level": "ERROR",
        "logger": "jobs",
        "message": "sold out",
        "order": 17,
        "customer": "c",
    }


def test_celerys_lines_about_a_task_name_it_without_its_arguments(record):
    record.data = {"id": "t-1", "name": "jobs.work", "args": "('private',)"}
    said = json.loads(logs.Json().format(record))
    assert (said["task"], said["task_id"]) == ("jobs.work", "t-1")
    assert "private" not in json.dumps(said)


def test_the_journal_learns_how_bad_it_is(record, monkeypatch):
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")
    assert logs.Json().format(record).startswith('<3>{"time"')


def test_a_level_or_style_that_is_none_is_refused():
    with pytest.raises(ValueError, match="'LOUD' is no level; write one of DEBUG"):
        logs.config("LOUD")
    with pytest.raises(ValueError, match="'xml' is no style; write json or plain"):
        logs.config(style="xml")
