"""Real processes against real PostgreSQL and Redis, under a supervisor made of a socket.

Run with `bin/with-services pytest` or with DATABASE_URL and CELERY_BROKER_URL set.
"""

import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import psycopg
import pytest
import redis

HERE = Path(__file__).parent
PROJECT = HERE / "project"
SOURCE = HERE.parent / "src"


def wait_for(what: Callable[[], object], seconds: float, hint: str = "") -> object:
    """Return the first true value of `what()`, or fail after `seconds`."""
    end = time.monotonic() + seconds
    while not (value := what()):
        if time.monotonic() > end:
            pytest.fail(f"not within {seconds} s: {hint or what}", pytrace=True)
        time.sleep(0.05)
    return value


class Manager:
    """Stands in for systemd: a notification socket that records what came, when, from whom."""

    def __init__(self, path: Path) -> None:
        self.address = str(path)
        self.lines: list[tuple[float, int, str]] = []
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.socket.bind(self.address)
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self) -> None:
        while True:
            try:
                data, ancillary, _, _ = self.socket.recvmsg(4096, socket.CMSG_SPACE(12))
            except OSError:
                return
            pid = struct.unpack("3i", ancillary[0][2])[0]
            for line in data.decode().splitlines():
                self.lines.append((time.monotonic(), pid, line))

    def all(self, start: str = "") -> list[str]:
        return [line for _, _, line in self.lines if line.startswith(start)]

    def pids(self) -> set[int]:
        return {pid for _, pid, _ in self.lines}

    def since(self, moment: float, start: str) -> list[str]:
        return [line for at, _, line in self.lines if at >= moment and line.startswith(start)]


class Service:
    """A process with its own Manager and log file."""

    def __init__(self, folder: Path, command: list[str], env: dict[str, str]) -> None:
        folder.mkdir()
        self.manager = Manager(folder / "notify")
        self.log_path = folder / "log"
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=PROJECT,
                stdout=log,
                stderr=log,
                env={"NOTIFY_SOCKET": self.manager.address} | env,
                start_new_session=True,
            )
        self.pid = self.process.pid

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def ready(self, seconds: float = 60) -> "Service":
        def is_ready() -> bool:
            if self.process.poll() is not None:
                pytest.fail(f"exited with {self.process.returncode}:\n{self.log()[-3000:]}")
            return "READY=1" in self.manager.all()

        wait_for(is_ready, seconds, "READY=1")
        return self

    def term(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float = 20) -> int:
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"still running:\n{self.manager.all('STATUS')}\n{self.log()[-3000:]}")

    def kill(self) -> None:
        """End the process and whatever it forked; only this test's own session."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait(10)
        self.manager.socket.close()


def pytest_configure(config: pytest.Config) -> None:
    for name in ("DATABASE_URL", "CELERY_BROKER_URL"):
        if name not in os.environ:
            raise pytest.UsageError(f"{name} is not set: run `bin/with-services pytest`")


@pytest.fixture(scope="session")
def database() -> Iterator[str]:
    """The URL of a database of our own, migrated."""
    url = os.environ["DATABASE_URL"]
    name = f"celeriac_{os.getpid()}"
    with psycopg.connect(url, autocommit=True) as server:
        server.execute(f"CREATE DATABASE {name}")
        ours = urlparse(url)._replace(path=f"/{name}").geturl()
        subprocess.run(
            [sys.executable, "-m", "django", "migrate", "--verbosity=0"],
            cwd=PROJECT,
            env=environment(DATABASE_URL=ours),
            check=True,
        )
        yield ours
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")


def environment(**extra: str) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("NOTIFY_", "WATCHDOG_", "LISTEN_", "CELERIAC_", "CELERY_"))
    }
    return kept | {
        "PYTHONPATH": f"{SOURCE}{os.pathsep}{PROJECT}",
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "CELERY_BROKER_URL": os.environ["CELERY_BROKER_URL"],
        **extra,
    }


class Broker:
    """A Redis server of the test's own, so that it may be stopped."""

    def __init__(self, folder: Path, host: str = "127.0.0.1") -> None:
        with socket.socket() as probe:
            probe.bind((host, 0))
            self.port = probe.getsockname()[1]
        self.folder = folder
        self.host = host
        self.url = f"redis://{host}:{self.port}/0"
        self.marks_url = f"redis://{host}:{self.port}/1"
        self.client = redis.Redis.from_url(self.url)
        self.marks = redis.Redis.from_url(self.marks_url)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [shutil.which("redis-server") or "redis-server", "--port", str(self.port)]
        command += [
            "--bind",
            self.host,
            "--protected-mode",
            "no",
            "--dir",
            str(self.folder),
            "--save",
            "",
        ]
        command += ["--appendonly", "yes", "--loglevel", "warning"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)

        def answers() -> bool:
            try:
                return bool(self.client.ping())
            except redis.ConnectionError:
                return False

        wait_for(answers, 10, "redis-server")

    def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait(10)
            self.process = None


@pytest.fixture(scope="session")
def _broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    broker = Broker(tmp_path_factory.mktemp("redis"))
    yield broker
    broker.stop()


@pytest.fixture
def broker(_broker: Broker) -> Broker:
    """An empty broker that may be stopped; it runs when the test begins."""
    if _broker.process is None:
        _broker.start()
    _broker.client.flushall()
    return _broker


@pytest.fixture
def start(tmp_path: Path, database: str, broker: Broker) -> Iterator[Callable[..., Service]]:
    """Start a service: start(command..., settings={...}, prefix=[...], ENV=value)."""
    running: list[Service] = []

    def run(
        *command: str, settings: dict | None = None, prefix: Sequence[str] = (), **env: str
    ) -> Service:
        service = Service(
            tmp_path / f"service{len(running)}",
            [*prefix, sys.executable, "-m", *command],
            environment(
                **{
                    "DATABASE_URL": database,
                    "CELERY_BROKER_URL": broker.url,
                    "MARKS_URL": broker.marks_url,
                    "PROJECT_SETTINGS": json.dumps(settings or {}),
                }
                | env
            ),
        )
        running.append(service)
        return service

    yield run
    for service in running:
        service.kill()
        print(f"--- {service.process.args}\n{service.manager.all()}\n{service.log()[-4000:]}")


@pytest.fixture
def worker(start: Callable[..., Service]) -> Callable[..., Service]:
    """Start a worker with the runtime attached, as its unit does."""

    def run(
        pool: str = "prefork",
        concurrency: int = 2,
        queue: str = "default",
        at_least: int | None = None,
        **kwargs,
    ):
        command = ["celery", "-A", "config", "worker", "--include", "celeriac.worker", "-P", pool]
        size = ["-c", str(concurrency)] if at_least is None else []
        size = size or ["--autoscale", f"{concurrency},{at_least}"]
        command += [*size, "-Q", queue, "-n", f"{pool}@%h", "-l", "info"]
        return start(*command, "--without-mingle", "--without-gossip", **kwargs)

    return run


@pytest.fixture
def send(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Publish tasks without the worker's process: send("jobs.tasks.work", args, ...)."""
    from celery import Celery

    monkeypatch.setenv("CELERY_BROKER_URL", broker.url)  # Celery lets it win over `broker=`
    app = Celery(broker=broker.url, set_as_current=False)
    app.conf.task_default_queue = "default"

    def publish(name: str, *args: object, **options: object) -> None:
        app.send_task(name, args=args, ignore_result=True, **options)

    return publish


@pytest.fixture
def ledger(database: str, broker: Broker) -> Iterator[Any]:
    """The outbox and the effects, both empty."""
    from owed import Ledger

    it = Ledger(database, broker)
    names = "outbox, celeriac_dead, celeriac_worker, celeriac_head, celeriac_chord, celeriac_part"
    it.server.execute(f"TRUNCATE jobs_effect, celeriac_{names}")
    yield it
    it.server.close()
