"""gunicorn under `Type=notify`: use as `--config python:celeriac.gunicorn`.

The master loads the app once and forks its workers from there, as a prefork pool of Celery
does; with CELERIAC_PRELOAD=0 each worker loads it for itself, and so do gevent ones, which
patch the standard library first. If CELERIAC_PROBE_URL names a page, a child of the master
asks the app for it before there is any worker (probe.py).

Guarantees: READY=1 comes from the master only when a worker has loaded the app (plain
gunicorn says it before the import); an app that cannot be loaded, or does not answer the
probe, never becomes ready and accepts nothing, and the master exits non-zero; WATCHDOG=1
comes from the master's own loop, STOPPING=1 when it stops. No database connection of the
master's is there when it forks. Each request's X-Request-ID is in its log lines and goes
along with its tasks (logs.py). Options on gunicorn's command line win over the ones here.

Limits: the hooks wrap two methods of gunicorn's master, `murder_workers` (once per pass
of its loop) and `stop`. Without a socket from systemd gunicorn binds its own address.
Threads that the app starts when it is imported are in the master alone.
"""

import mmap
import os
import signal
import socket
import sys
import traceback
from typing import Any, NoReturn
from urllib.parse import urlsplit

from gunicorn import glogging

from celeriac import logs, notify
from celeriac.probe import probe


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


def is_worker(worker_class: Any, *names: str) -> bool:
    """Whether it is one of these classes of gunicorn or uvicorn, or made from one."""
    return any(base.__name__ in names for base in worker_class.__mro__)


def shares(worker_class: Any) -> bool:
    """Whether workers of this class may find the app loaded."""
    wanted = os.environ.get("CELERIAC_PRELOAD", "1") != "0"
    return wanted and not is_worker(worker_class, "GeventWorker", "EventletWorker")


def load(server: Any) -> None:
    """Load the app into the master; its workers find it there."""
    uri = server.app.app_uri
    try:
        server.app.wsgi()
    except Exception as error:
        traceback.print_exc()
        give_up(f"{uri} cannot be imported: {type(error).__name__}: {error}")
    from django.db import connections

    for connection in connections.all(initialized_only=True):
        connection.close()
        if getattr(connection, "pool", None):
            connection.close_pool()


def ask(server: Any, url: str) -> None:
    """Ask the app for the page in a child, so that the connections that it opens end with it."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        for number in server.SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        parts = urlsplit(url)
        try:
            problem = probe(server.app.app_uri, parts.path or "/", parts.netloc, server.cfg.timeout)
            os.write(writer, (f"error: {problem}" if problem else "ok").encode())
        except BaseException:
            traceback.print_exc()  # the master says only that nothing came
        finally:
            sys.stderr.flush()
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        said = answer.read()
    if said != "ok":
        give_up(said.removeprefix("error: ") or f"GET {url} was not answered, or took too long")


def give_up(problem: str) -> NoReturn:
    """End the master before it has workers; systemd and the deploy see that it failed."""
    print(f"error: {problem}", file=sys.stderr, flush=True)
    sys.exit(1)


def when_ready(server: Any) -> None:
    """Load and ask, and follow the master's loop from before the first fork of a worker."""
    master = os.getpid()
    ready = False
    murder_workers, stop = server.murder_workers, server.stop
    _send("STATUS=loading the application")
    if shares(server.worker_class):
        load(server)
    if url := os.environ.get("CELERIAC_PROBE_URL"):
        ask(server, url)

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
    if not is_worker(type(worker), "UvicornWorker"):
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
