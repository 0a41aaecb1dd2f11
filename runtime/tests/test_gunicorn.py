"""gunicorn as the web unit runs it, on a socket that it inherits."""

import http.client
import os
import socket
import sys
import time

import psycopg
import pytest
from conftest import wait_for

INHERIT = (
    "import os, sys; os.environ['LISTEN_PID'] = str(os.getpid());"
    "os.execvp(sys.argv[1], sys.argv[1:])"
)


@pytest.fixture
def web(start, tmp_path, monkeypatch):
    """Start gunicorn with a listening unix socket as file descriptor 3, as systemd does."""
    path = tmp_path / "web.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(64)

    def run(*options, app="config.wsgi:application", **env):
        import subprocess

        popen = subprocess.Popen

        def with_socket(command, **kwargs):
            def inherit():
                os.dup2(listener.fileno(), 3, inheritable=True)

            command = [sys.executable, "-c", INHERIT, *command]
            return popen(command, close_fds=False, preexec_fn=inherit, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(subprocess, "Popen", with_socket)
            return start(
                *["gunicorn", "--config", "python:celeriac.gunicorn", *options, app],
                LISTEN_FDS="1",
                **env,
            )

    run.path = str(path)
    yield run
    listener.close()


def get(path, target="/health/"):
    connection = http.client.HTTPConnection("example.org", timeout=5)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(10)
    connection.sock.connect(path)
    connection.request("GET", target, headers={"X-Forwarded-Proto": "https"})
    response = connection.getresponse()
    return response.status, response.read().decode()


@pytest.mark.parametrize(
    "options",
    [
        ["--worker-class", "gthread", "--workers", "2", "--threads", "4"],
        ["--worker-class", "gevent", "--workers", "1"],
        ["--worker-class", "uvicorn_worker.UvicornWorker", "--workers", "1"],
    ],
    ids=["gthread", "gevent", "uvicorn"],
)
def test_is_ready_when_a_worker_has_loaded_the_app(web, options):
    app = "config.asgi:application" if "uvicorn" in options[1] else "config.wsgi:application"
    seconds = "3" if "gthread" in options else "0"
    service = web(*options, app=app, WATCHDOG_USEC="2000000", PROJECT_IMPORT_SECONDS=seconds)
    wait_for(lambda: "STATUS=loading the application" in service.manager.all(), 10)
    if "gthread" in options:
        time.sleep(2)
        assert service.manager.all("READY") == [], "no worker can have loaded the app yet"
    service.ready()
    # The forwarded scheme counts, because only the proxy can open the socket.
    assert get(web.path) == (200, "https example.org")
    wait_for(lambda: service.manager.all("WATCHDOG"), 4)
    assert service.manager.pids() == {service.pid}
    service.term()
    assert service.wait(10) == 0
    assert service.manager.all("STOPPING")
    assert "GET /health/" not in service.log()


@pytest.mark.parametrize("app", ["config.wsgi:application", "config.wsgi:nothing"])
def test_a_broken_app_is_never_ready_and_exits_non_zero(web, app):
    broken = {"PROJECT_BROKEN": "1"} if app == "config.wsgi:application" else {}
    service = web("--workers", "2", app=app, **broken)
    assert service.wait(15) != 0
    assert service.manager.all("READY") == []
    assert ("broken on purpose" if broken else "nothing") in service.log()


@pytest.mark.parametrize(
    ("worker_class", "preload", "times"),
    [("gthread", "1", 1), ("gthread", "0", 3), ("gevent", "1", 3)],
)
def test_the_app_is_loaded_once_unless_it_must_not_be(web, worker_class, preload, times):
    options = ["--workers", "3", "--worker-class", worker_class]
    service = web(*options, CELERIAC_PRELOAD=preload).ready()
    wait_for(lambda: service.log().count("loaded by") == times, 20)
    assert (f"loaded by {service.pid}\n" in service.log()) is (times == 1)


def test_no_connection_that_an_import_has_opened_is_there_to_be_shared(web, database):
    service = web(DATABASE_URL=database, PROJECT_ASKS_AT_IMPORT="1").ready()
    assert f"loaded by {service.pid}\n" in service.log()
    with psycopg.connect(database) as server:
        sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        (found,) = server.execute(f"{sessions} AND pid <> pg_backend_pid()").fetchone()
    assert found == 0


@pytest.mark.parametrize("preload", ["1", "0"])
@pytest.mark.parametrize("worker_class", ["gthread", "gevent", "uvicorn_worker.UvicornWorker"])
def test_a_page_that_answers_lets_it_serve(web, worker_class, preload):
    app = "config.asgi:application" if "uvicorn" in worker_class else "config.wsgi:application"
    url = "https://example.org/health/"
    options = {"CELERIAC_PRELOAD": preload, "CELERIAC_PROBE_URL": url}
    web("--worker-class", worker_class, app=app, **options).ready()
    assert get(web.path) == (200, "https example.org")


@pytest.mark.parametrize("preload", ["1", "0"])
@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/broken/", "answered 500: the traceback above"),
        ("/nowhere/", "answered 404: no URL pattern answers '/nowhere/'"),
        ("/slow/", "GET https://example.org/slow/ was not answered, or took too long"),
    ],
)
def test_a_page_that_does_not_answer_ends_it_before_it_accepts(web, path, said, preload):
    options = {"CELERIAC_PRELOAD": preload, "CELERIAC_PROBE_URL": f"https://example.org{path}"}
    service = web("--workers", "2", "--timeout", "3", **options)
    with socket.socket(socket.AF_UNIX) as visitor:
        visitor.settimeout(0.5)
        visitor.connect(web.path)
        visitor.sendall(b"GET /health/ HTTP/1.0\r\nHost: example.org\r\n\r\n")
        assert service.wait(20) == 1
        with pytest.raises(TimeoutError):
            visitor.recv(1)
    assert service.manager.all("READY") == []
    assert said in service.log().splitlines()[-1]


def test_two_instances_share_the_socket_and_no_request_is_lost(web):
    old = web("--workers", "1").ready()
    new = web("--workers", "1").ready()
    old.term()
    end = time.monotonic() + 1.5
    answers = set()
    while time.monotonic() < end:
        answers.add(get(web.path)[0])
    assert answers == {200}
    assert old.wait(10) == 0
    assert new.process.poll() is None
