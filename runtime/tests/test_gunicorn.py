"""gunicorn as the web unit runs it, on a socket that it inherits."""

import http.client
import os
import socket
import sys
import time

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
