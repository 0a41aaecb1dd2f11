"""The probe that a release must pass before it serves."""

import subprocess
import sys

import pytest
from conftest import PROJECT, environment


def probe(database, path="/health/", host="example.org", app="config.wsgi:application", **env):
    return subprocess.run(
        [sys.executable, "-m", "celeriac.probe", "--app", app, "--path", path, "--host", host],
        cwd=PROJECT,
        env=environment(DATABASE_URL=database, **env),
        capture_output=True,
        text=True,
        timeout=30,
    )


@pytest.mark.parametrize(
    ("path", "app"),
    [
        ("/health/", "config.wsgi:application"),
        ("/health/", "config.asgi:application"),
        ("/moved/", "config.wsgi"),
    ],
)
def test_a_good_release_passes_without_a_broker(database, path, app):
    result = probe(database, path, app=app, CELERY_BROKER_URL="redis://127.0.0.1:1/0")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"ok: GET {path} answered in ")


@pytest.mark.parametrize(
    ("options", "message", "cause"),
    [
        ({"path": "/broken/"}, "answered 500: the traceback above", "the shelf is empty"),
        ({"path": "/nowhere/"}, "answered 404: no URL pattern answers '/nowhere/'", ""),
        ({"path": "/hidden/"}, "answered 403: '/hidden/' must be open to everybody", ""),
        ({"path": "/loop/"}, "redirects to itself: set SECURE_PROXY_SSL_HEADER", ""),
        ({"host": "example.net"}, "answered 400: look at ALLOWED_HOSTS", "'example.net'"),
        ({"PROJECT_BROKEN": "1"}, "cannot be imported: RuntimeError", "broken on purpose"),
        ({"app": "config.nowhere:application"}, "cannot be imported: ModuleNotFoundError", ""),
    ],
)
def test_a_bad_release_fails_with_one_clear_line(database, options, message, cause):
    result = probe(database, **options)
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last
    assert cause in result.stderr
