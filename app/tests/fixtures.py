"""Real PostgreSQL, Redis, SMTP and workers; run by `bin/with-services pytest`."""

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import redis
from aiosmtpd.controller import Controller
from django.apps import apps
from django.conf import settings as django_settings
from django.db import connection

from celeriac import broker as celeriac_broker
from celeriac.models import Dead, Outbox
from config import celery_app
from orders import services
from orders.models import Order, Product

APP = Path(__file__).resolve().parent.parent
# For the processes that tests start; pytest itself finds the package by pyproject.toml.
os.environ["PYTHONPATH"] = str(APP.parent / "runtime/src")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests with real processes last: what is simple fails first."""
    for item in items:
        if "fleet" in getattr(item, "fixturenames", ()):
            item.add_marker("fleet")
    items.sort(key=lambda item: item.get_closest_marker("fleet") is not None)


@pytest.fixture(autouse=True)
def _quick_and_apart(settings, tmp_path):
    settings.MEDIA_ROOT = tmp_path / "media"
    settings.SHOP_BANK_SECONDS = 0
    settings.SHOP_PACKING_EFFORT = 0
    settings.STORAGES = {
        **settings.STORAGES,
        "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
    }


@pytest.fixture
def broker() -> Iterator[redis.Redis]:
    """The real broker, with none of our messages in it."""
    client = redis.Redis.from_url(django_settings.CELERY_BROKER_URL)
    queues = [queue for pool in QUEUES.values() for queue in pool]
    # A queue is one list, and one more for each lower priority.
    lists = [queue + lower for queue in queues for lower in ("", *LOWER_PRIORITIES)]
    keys = [*lists, "unacked", "unacked_index", "unacked_mutex"]
    client.delete(*keys)
    yield client
    client.delete(*keys)
    client.close()


@pytest.fixture
def quantities(db) -> dict[int, int]:
    # Tests with real transactions empty the tables, so the migration's rows are made again.
    importlib.import_module("orders.migrations.0002_products").create(apps, None)
    products = {product.slug: product.pk for product in Product.objects.all()}
    return {products["celeriac"]: 1, products["carrot"]: 3}


@pytest.fixture
def place(quantities) -> Callable[..., Order]:
    """Place an order; what it publishes goes out if the test's transactions are real."""

    def place(**changes: object) -> Order:
        fields = {
            "name": "Ada Root",
            "email": "ada@example.org",
            "card": "good",
            "quantities": quantities,
            "form_key": uuid.uuid4(),
        }
        return services.place_order(**{**fields, **changes})

    return place


def move_to(order: Order, step: str) -> Order:
    """Put an order before a step, as if the earlier ones were done."""
    Order.objects.filter(pk=order.pk).update(step=step)
    order.refresh_from_db()
    return order


def owed(order: Order) -> list[str]:
    """The tasks that are owed for an order, oldest first."""
    rows = Outbox.objects.order_by("seq")
    return [row.task for row in rows if row.arguments() == f"({order.pk},) {{}}"]


def bury(order: Order) -> Dead:
    """Make a dead letter of the order's task, as a worker does."""
    order.refresh_from_db()
    row = Outbox.objects.get(task_id=order.task_id)
    row.delete()
    fields = {name: getattr(row, name) for name in ("task_id", "task", "queue", "message")}
    return Dead.objects.create(**fields, durable=True, reason="max_sends", died_at=row.created_at)


class Redis:
    """A broker of a test's own, that may go away and come back, with nothing left in it."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""],
            stdout=subprocess.DEVNULL,
        )
        until(self.answers, 10, "Redis answers")

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url)

    def answers(self) -> bool:
        try:
            return self.client().ping()
        except redis.ConnectionError:
            return False

    def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None


@pytest.fixture
def own_broker(monkeypatch) -> Iterator[Redis]:
    """The broker of this process too, as if it were a web server's."""
    own = Redis()
    own.start()
    monkeypatch.setattr(celery_app.conf, "broker_url", own.url)
    monkeypatch.setattr(celeriac_broker, "_clients", {})
    monkeypatch.setattr(celeriac_broker, "_broken_until", 0.0)
    yield own
    own.stop()


class Sink:
    """A mail server on a free port. `answers` are given, one a mail, before it accepts."""

    def __init__(self) -> None:
        self.mails: list = []
        self.answers: list[str] = []
        self.recipient_answers: list[str] = []
        self.controller = Controller(self, hostname="127.0.0.1", port=free_port())

    @property
    def port(self) -> int:
        return self.controller.port

    async def handle_RCPT(self, server, session, envelope, address, options) -> str:  # noqa: N802
        if self.recipient_answers:
            return self.recipient_answers.pop(0)
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope) -> str:  # noqa: N802
        if self.answers:
            return self.answers.pop(0)
        self.mails.append(envelope)
        return "250 OK"


@pytest.fixture
def sink(settings) -> Iterator[Sink]:
    sink = Sink()
    sink.controller.start()
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", sink.port
    yield sink
    sink.controller.stop()


class Server:
    """Somebody else's HTTP server. `answers` (status, JSON) are given first, then `usual`."""

    def __init__(self) -> None:
        self.asked: list[dict] = []
        self.answers: list[tuple[int, dict]] = []
        self.usual: Callable[[dict], tuple[int, dict]] = lambda data: (200, {})
        self.silent = 0.0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:  # the name that http.server looks for
                data = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.asked.append({**data, "headers": dict(self.headers)})
                time.sleep(outer.silent)
                status, body = outer.answers.pop(0) if outer.answers else outer.usual(data)
                with suppress(OSError):  # the other side has gone
                    self.send_response(status)
                    self.end_headers()
                    self.wfile.write(json.dumps(body).encode())

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/"


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, args=[0.05])
    thread.start()
    yield server
    server.http.shutdown()
    thread.join()
    server.http.server_close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(true: Callable[[], object], seconds: float, what: str) -> object:
    """Wait until something is true; fails with `what`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if result := true():
            return result
        time.sleep(0.05)
    pytest.fail(f"not within {seconds} s: {what}")


class Fleet:
    """Real Celery processes on the test's database, broker and mail server."""

    def __init__(self, folder: Path, mail_port: int) -> None:
        database = connection.settings_dict
        self.folder = folder
        self.running: dict[str, subprocess.Popen] = {}
        # Modules of a test's own, for the workers.
        self.attached: list[str] = []
        self.env = {
            **os.environ,
            "DATABASE_URL": (
                f"postgres://{database['USER']}:{database['PASSWORD']}"
                f"@{database['HOST']}:{database['PORT']}/{database['NAME']}"
            ),
            "EMAIL_URL": f"smtp://127.0.0.1:{mail_port}",
            "APP_DATA_DIR": str(folder),
            "SHOP_BANK_SECONDS": "0.1",
            "SHOP_PACKING_EFFORT": "0.1",
            "POISON": str(folder / "cured"),
            "PYTHONUNBUFFERED": "1",
        }

    def start(self, *names: str, **env: str) -> None:
        """Start some of PROCESSES at once and wait until all are ready."""
        for name in names:
            with (self.folder / f"{name}.log").open("w") as out:
                self.running[name] = subprocess.Popen(
                    [
                        sys.executable,
                        "-m",
                        "celery",
                        "-A",
                        "config",
                        *PROCESSES[name],
                        *self.includes(name),
                    ],
                    cwd=APP,
                    env={**self.env, **env},
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        for name in names:
            ready = "beat: Starting" if name == "beat" else " ready."
            until(lambda name=name, ready=ready: ready in self.log(name), 30, f"{name} is ready")

    def includes(self, name: str) -> list[str]:
        modules = ["celeriac.worker", "tests.poison", *self.attached]
        return [] if name == "beat" else ["--include", ",".join(modules)]

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def kill(self, name: str) -> None:
        """As systemd does at the end of its patience: every process of the unit at once."""
        process = self.running.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def end(self) -> None:
        for name in list(self.running):
            self.kill(name)


# As in the topology of the deployment: prefork computes, gevent waits.
WAITING = {"payments", "emails", "notifications"}
QUEUES = {
    "cpu": sorted(set(django_settings.DOMAINS.values()) - WAITING),
    "io": sorted(set(django_settings.DOMAINS.values()) & WAITING),
}
LOWER_PRIORITIES = [f"\x06\x16{priority}" for priority in (3, 6, 9)]
QUICK = ["--without-mingle", "--without-gossip"]
CPU = ["worker", "-P", "prefork", "-c", "2", "-Q", ",".join(QUEUES["cpu"]), *QUICK]
IO = ["worker", "-P", "gevent", "-c", "20", "-Q", ",".join(QUEUES["io"]), *QUICK]
PROCESSES = {
    "cpu": [*CPU, "-n", "cpu@%h"],
    "cpu2": [*CPU, "-n", "cpu2@%h"],
    "io": [*IO, "-n", "io@%h"],
    "io2": [*IO, "-n", "io2@%h"],
    "beat": ["beat", "--scheduler", "celeriac.beat:LeaderScheduler"],
}


@pytest.fixture
def fleet(transactional_db, broker, sink, tmp_path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path, sink.port)
    yield fleet
    fleet.end()
