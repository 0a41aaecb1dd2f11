"""One session serves many tasks, and none of them notices."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg
import pytest
from celery.exceptions import ImproperlyConfigured
from conftest import wait_for

from celeriac.connections import max_age_from_env

LOOK, LEAVE, IDLE = (f"jobs.database.{name}" for name in ("look", "leave", "idle"))
CLEAN = {
    "autocommit": True,
    "statement_timeout": "0",
    "lock_timeout": "0",
    "timezone": "UTC",
    "role": "none",
    "locks": 0,
    "temporary": 0,
    "prepared": 0,
}
BAD_MANNERS = [
    "nothing",
    "a_transaction",
    "an_aborted_transaction",
    "an_atomic_block",
    "an_aborted_atomic_block",
    "a_transaction_of_the_driver",
    "settings",
    "locks",
    "objects",
    "traces_before_close_old_connections",
]


class Server:
    """A PostgreSQL of the test's own, so that it may be restarted."""

    def __init__(self, folder: str) -> None:
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
        self.programs = found[-1].parent
        self.data = f"{folder}/data"
        self.user = "postgres" if os.getuid() == 0 else None  # it refuses to run as root
        if self.user:
            shutil.chown(folder, self.user)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"postgres://postgres@127.0.0.1:{self.port}/postgres"
        self.process: subprocess.Popen[bytes] | None = None
        command = [self.programs / "initdb", "-D", self.data, "-U", "postgres", "-A", "trust"]
        self.run(*command, "--no-sync").wait(60)

    def run(self, *command: object) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command, cwd="/", user=self.user, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def start(self) -> None:
        options = ["-c", "fsync=off", "-c", "unix_socket_directories=", "-h", "127.0.0.1"]
        command = [self.programs / "postgres", "-D", self.data, "-p", str(self.port)]
        self.process = self.run(*command, *options)
        wait_for(self.answers, 15, "PostgreSQL")

    def answers(self) -> bool:
        try:
            psycopg.connect(self.url).close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self) -> None:
        """A fast shutdown, as `systemctl restart postgresql` asks for."""
        if self.process:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(15)


@pytest.fixture
def server():
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        server = Server(folder)
        try:
            server.start()
            yield server
        finally:
            server.stop()


@pytest.fixture
def scratch(database):
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE scratch (what text)")
        yield connection
        connection.execute("DROP TABLE scratch")


@pytest.fixture
def database_worker(worker):
    def run(pool="prefork", **options):
        settings = {"CELERY_INCLUDE": ["jobs.database"]} | options.pop("settings", {})
        return worker(pool, 1, settings=settings, **options).ready()

    return run


@pytest.fixture
def look(send, broker):
    """Send `look` tasks, and return what they saw, in order."""

    def run(*numbers):
        for number in numbers:
            send(LOOK, str(number))
        names = [str(number) for number in numbers]
        wait_for(lambda: all(broker.marks.hmget("seen", names)), 20, f"look {names}")
        return [json.loads(value) for value in broker.marks.hmget("seen", names)]

    return run


def backends(seen):
    return len({session["backend"] for session in seen})


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_one_session_serves_many_tasks(database_worker, look, scratch, pool):
    service = database_worker(pool)
    seen = look(*range(30))
    assert backends(seen) == 1
    assert scratch.execute("SELECT count(*) FROM scratch").fetchone() == (30,)
    assert "Traceback" not in service.log()


@pytest.mark.parametrize(
    ("pool", "env"), [("prefork", {"CELERIAC_CONN_MAX_AGE": "0"}), ("gevent", {})]
)
def test_switched_off_and_in_greenlets_celery_closes_after_every_task(
    database_worker, look, scratch, pool, env
):
    database_worker(pool, **env)
    seen = look(*range(10))
    assert backends(seen) == 10
    left = "SELECT count(*) FROM pg_stat_activity WHERE pid = ANY(%s)"
    pids = [session["backend"] for session in seen]
    wait_for(lambda: scratch.execute(left, [pids]).fetchone() == (0,), 3, "all are closed")


def test_a_session_grows_no_older_than_it_may(database_worker, look, scratch):
    database_worker(CELERIAC_CONN_MAX_AGE="0.5")
    first = look(0)
    time.sleep(0.6)
    assert backends(first + look(1)) == 2


@pytest.mark.spec("G9.1")
def test_nothing_that_a_task_leaves_behind_reaches_the_next(
    database_worker, look, send, broker, scratch
):
    service = database_worker()
    look("first")
    for what in BAD_MANNERS:
        send(LEAVE, what)
        send(LOOK, what)
    seen = dict(zip(BAD_MANNERS, look(*BAD_MANNERS), strict=True))
    child = {session.pop("child") for session in seen.values()}
    sessions = {what: session.pop("backend") for what, session in seen.items()}
    assert seen == dict.fromkeys(BAD_MANNERS, CLEAN)
    assert len(child) == 1
    kept = {what for what in BAD_MANNERS[6:] if sessions[what] == sessions[BAD_MANNERS[5]]}
    assert kept == set(BAD_MANNERS[6:]), "a reset is enough for what is not a transaction"
    rows = {row[0] for row in scratch.execute("SELECT what FROM scratch")}
    assert rows == {"first", *BAD_MANNERS}, "what was not committed is rolled back"
    assert "Traceback" not in service.log()


def test_a_lock_ends_with_its_task(database_worker, look, send, scratch):
    database_worker()
    look(0)
    send(LEAVE, "locks")
    send(IDLE)
    look(1)
    send(LEAVE, "locks")
    free = "SELECT count(*) = 0 FROM pg_locks WHERE objid = 4711"
    wait_for(lambda: scratch.execute(free).fetchone()[0], 5, "the worker is idle")


def test_what_the_project_sets_up_for_new_connections_stays(database_worker, look, scratch):
    database_worker(PROJECT_LOCK_TIMEOUT="3s")
    seen = look(*range(5))
    assert {session["lock_timeout"] for session in seen} == {"3s"}
    assert backends(seen) == 1


@pytest.mark.spec("G9.2")
def test_a_terminated_session_fails_no_task(database_worker, look, scratch):
    service = database_worker()
    before = look(0)
    scratch.execute("SELECT pg_terminate_backend(%s)", [before[0]["backend"]])
    gone = "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = %s"
    wait_for(lambda: scratch.execute(gone, [before[0]["backend"]]).fetchone()[0], 5)
    after = look(*range(1, 6))
    assert backends(before + after) == 2
    assert "Traceback" not in service.log()


@pytest.mark.spec("G9.2")
def test_a_restart_of_postgresql_between_tasks_fails_none(database_worker, look, server, send):
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("CREATE TABLE scratch (what text)")
    service = database_worker(DATABASE_URL=server.url)
    before = look(*range(3))
    server.stop()
    send(IDLE)
    wait_for(lambda: re.search(r"database\.idle\[\S+ succeeded", service.log()), 5, "the idle task")
    server.start()
    after = look(*range(3, 9))
    assert backends(before) == backends(after) == 1
    assert "Traceback" not in service.log()


def test_a_session_of_the_main_process_is_not_inherited(database_worker, look, scratch):
    """The parent queries before every fork; each child lives for two tasks."""
    service = database_worker(
        PROJECT_PARENT_QUERIES="1", settings={"CELERY_WORKER_MAX_TASKS_PER_CHILD": 2}
    )
    seen = look(*range(4))
    assert len({session["child"] for session in seen}) == backends(seen) == 2
    parents = re.findall(r"the main process is (\d+)", service.log())
    assert len(parents) >= 2
    assert set(parents) == {parents[0]}, "the parent's own session outlives its children"
    assert int(parents[0]) not in {session["backend"] for session in seen}


def test_a_bad_age_is_refused_by_name(monkeypatch):
    monkeypatch.setenv("CELERIAC_CONN_MAX_AGE", "1 minute")
    with pytest.raises(ImproperlyConfigured, match="CELERIAC_CONN_MAX_AGE='1 minute' is not"):
        max_age_from_env()
