"""Ask a Django app for one page, in this process, before it may serve anybody.

    python -m celeriac.probe --app config.wsgi:application --path /health/ --host example.org

Imports the WSGI or ASGI application and requests the path over Django's whole request
stack, as nginx would pass it on: the real Host, X-Forwarded-Proto https. Exits 0 for a
2xx or 3xx answer; else 1, with one line on stderr that says what to look at and the
traceback if there was one. Opens no port and needs no broker of its own.
"""

import argparse
import signal
import sys
import time
import traceback
from importlib import import_module
from typing import Any


def load(name: str) -> Any:
    """Import "module:attribute"; raises what the import raises."""
    module, _, attribute = name.partition(":")
    found: Any = import_module(module)
    for part in (attribute or "application").split("."):
        found = getattr(found, part)
    return found


def advice(status: int, path: str, host: str) -> str:
    """What to look at when the answer was `status`."""
    if status == 400:
        return f"look at ALLOWED_HOSTS, does it contain {host.partition(':')[0]!r}?"
    if status == 404:
        return f"no URL pattern answers {path!r}: correct health_path or urls.py"
    if status in (401, 403):
        return f"{path!r} must be open to everybody: choose another health_path"
    if status >= 500:
        return "the traceback above says why, or else the view itself answered so"
    return "the path must answer 2xx or 3xx"


def probe(app: str, path: str, host: str, limit: int = 0) -> str | None:
    """Request `path`; returns None if it answered well, else what is wrong.

    The process dies of SIGALRM if the answer takes longer than `limit` seconds; 0 waits for ever.
    """
    try:
        load(app)
    except Exception as error:
        traceback.print_exc()
        return f"{app} cannot be imported: {type(error).__name__}: {error}"

    from django.test import Client

    signal.alarm(limit)
    client = Client(
        raise_request_exception=False, headers={"host": host, "x-forwarded-proto": "https"}
    )
    try:
        response = client.get(path, secure=True)
    except Exception as error:
        traceback.print_exc()
        return f"GET {path} raised {type(error).__name__}: {error}"
    if 300 <= response.status_code < 400:
        if response.headers.get("location") in (f"https://{host}{path}", path):
            return (
                f"GET {path} redirects to itself: set SECURE_PROXY_SSL_HEADER = "
                "('HTTP_X_FORWARDED_PROTO', 'https')"
            )
        return None
    if 200 <= response.status_code < 300:
        return None
    if exc_info := getattr(response, "exc_info", None):
        traceback.print_exception(*exc_info)
    return (
        f"GET {path} with Host {host} answered {response.status_code}: "
        f"{advice(response.status_code, path, host)}"
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m celeriac.probe", description=__doc__)
    parser.add_argument("--app", required=True, help="module:attribute of the application")
    parser.add_argument("--path", default="/", help="the path that must answer 2xx or 3xx")
    parser.add_argument("--host", default="localhost", help="the Host header")
    options = parser.parse_args(arguments)
    started = time.monotonic()
    problem = probe(options.app, options.path, options.host)
    if problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    print(f"ok: GET {options.path} answered in {(time.monotonic() - started) * 1000:.0f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
