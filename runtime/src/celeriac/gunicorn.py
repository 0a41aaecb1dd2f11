"""gunicorn under `Type=notify`: use as `--config python:celeriac.gunicorn`.

Guarantees: READY=1 comes from the master only when a worker has loaded the app (plain
gunicorn says it before the import); a broken app never becomes ready and the master
exits non-zero; WATCHDOG=1 comes from the master's own loop, STOPPING=1 when it stops.
Each request's X-Request-ID is in its log lines and goes along with its tasks (logs.py).
Options on gunicorn's command line win over the ones here.

Limits: the hooks wrap two methods of gunicorn's master, `murder_workers` (once per pass
of its loop) and `stop`. Without a socket from systemd gunicorn binds its own address.
"""

import mmap
import os
import signal
import socket
from typing import Any

from gunicorn import glogging

from celeriac import logs, notify


class Logger(glogging.Logger):
    """Writes gunicorn's own lines as JSON."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        for handler in self.error_log.handlers:
            handler.setFormatter(logs.Json())


def on_unix_socket() -> bool:
    """Whether systemd handed over a unix socket, which only the proxy can open."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return False
    with socket.socket(fileno=os.dup(3)) as listener:
        return listener.family == socket.AF_UNIX


control_socket_disable = True
if "JOURNAL_STREAM" in os.environ:
    # Its own lines are as those of the app. nginx writes the one about each request.
    logger_class = "celeriac.gunicorn.Logger"
errorlog = "-"
graceful_timeout = int(os.environ.get("CELERIAC_GRACEFUL_TIMEOUT", "30"))
if on_unix_socket():
    forwarded_allow_ips = "*"

_watchdog = notify.watchdog_seconds()
_address = os.environ.pop("NOTIFY_SOCKET", None)  # or gunicorn itself says READY too early
_loaded = mmap.mmap(-1, 1)  # one byte, shared with the workers


def _send(*lines: str) -> None:
    if _address:
        notify.send(*lines, address=_address)


def when_ready(server: Any) -> None:
    """Follow the master's loop from before the first fork."""
    master = os.getpid()
    ready = False
    murder_workers, stop = server.murder_workers, server.stop
    _send("STATUS=loading the application")

    def on_pass() -> None:
        nonlocal ready
        if not ready and _loaded[0]:
            ready = True
            _send("READY=1", f"STATUS=serving with {server.num_workers} workers")
        if ready and _watchdog:
            _send("WATCHDOG=1")
        murder_workers()

    def on_stop(graceful: bool = True) -> None:
        if os.getpid() == master and ready:
            _send("STOPPING=1", "STATUS=finishing open requests")
        stop(graceful)

    server.murder_workers, server.stop = on_pass, on_stop


def pre_request(worker: Any, request: Any) -> None:
    """In the thread that answers: what is logged from now on is about this request."""
    logs.begin(next((value for name, value in request.headers if name == "X-REQUEST-ID"), ""))


def post_request(worker: Any, request: Any, environ: Any, response: Any) -> None:
    logs.end()


def post_worker_init(worker: Any) -> None:
    """A worker has loaded the app: note it, and wake the master's loop."""
    logs.connect()
    _loaded[0] = 1
    os.kill(worker.ppid, signal.SIGCHLD)


def post_fork(server: Any, worker: Any) -> None:
    """Make uvicorn patient: it closes accepted connections that it has not read yet."""
    if not any(base.__name__ == "UvicornWorker" for base in type(worker).__mro__):
        return
    import asyncio

    from uvicorn.server import Server

    shutdown = Server.shutdown

    async def patient_shutdown(self: Any, sockets: Any = None) -> None:
        for listener in self.servers:
            listener.close()
        await asyncio.sleep(0.5)
        await shutdown(self, sockets)

    Server.shutdown = patient_shutdown
