"""The keeper behind PgBouncer: refused in transaction mode, at home in session mode."""

import json
import os
import shutil
import socket
import subprocess
import time
from contextlib import suppress
from urllib.parse import urlparse

import psycopg
import pytest
from conftest import wait_for
from owed import LATE

pytestmark = pytest.mark.faults

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@pytest.fixture
def pooler(tmp_path, database):
    """Start PgBouncer in a mode; gives the database's URL through it."""
    if PGBOUNCER is None:
        pytest.fail("pgbouncer is missing: bin/setup --test installs it")
    running = []

    def run(mode):
        url = urlparse(database)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        folder = tmp_path / mode
        folder.mkdir(mode=0o777)
        (folder / "users").write_text(f'"{url.username}" "{url.password}"\n')
        (folder / "ini").write_text(
            f"[databases]\n* = host={url.hostname} port={url.port}\n[pgbouncer]\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"auth_type = plain\nauth_file = {folder}/users\npool_mode = {mode}\n"
            "ignore_startup_parameters = extra_float_digits\n"
        )
        for path in (tmp_path, *tmp_path.parents):
            with suppress(PermissionError):
                if path.owner() == "root" and path != path.parent and "pytest" in path.name:
                    path.chmod(0o755)
        command = [PGBOUNCER, str(folder / "ini")]
        if os.geteuid() == 0:
            command[1:1] = ["-u", "nobody"]  # it refuses to be root
        running.append(subprocess.Popen(command, stderr=subprocess.DEVNULL))
        ours = url._replace(netloc=f"{url.username}:{url.password}@127.0.0.1:{port}").geturl()

        def answers():
            with suppress(psycopg.OperationalError), psycopg.connect(ours):
                return True

        wait_for(answers, 10, "pgbouncer")
        return ours

    yield run
    for process in running:
        process.terminate()
        process.wait(10)


def test_a_transaction_pooler_is_refused_and_the_tasks_stay_owed(worker, ledger, pooler):
    service = worker("prefork", 2, settings=LATE, DATABASE_URL=pooler("transaction")).ready()
    wait_for(lambda: "goes through a transaction pooler" in service.log(), 10)
    assert "Add DATABASES['celeriac']" in service.log()
    ledger.run("enqueue_many(d.work, [('a',)])")  # needs a keeper
    time.sleep(2)
    assert ledger.outbox() == 1
    assert service.process.poll() is None


def test_the_keeper_goes_round_a_transaction_pooler(worker, ledger, pooler, database):
    url = urlparse(database)
    direct = {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": url.hostname,
        "PORT": url.port,
        "USER": url.username,
        "PASSWORD": url.password,
        "NAME": url.path.lstrip("/"),
    }
    through = urlparse(pooler("transaction"))
    default = direct | {"HOST": "127.0.0.1", "PORT": through.port}
    settings = LATE | {"DATABASES": {"default": default, "celeriac": direct}}
    assert json.dumps(settings)
    service = worker("prefork", 2, settings=settings).ready()
    ledger.run(
        "enqueue_many(d.work, [(f'{n}',) for n in range(50)])\n"
        "for n in range(3): d.long.delay(f'long {n}', 5)"
    )
    ledger.settled()
    assert set(ledger.effects().values()) == {1}
    assert len(ledger.effects()) == 53, service.log()
    assert [ledger.starts(f"long {n}") for n in range(3)] == [1, 1, 1]


def test_a_session_pooler_will_do(worker, ledger, pooler):
    service = worker("prefork", 2, settings=LATE, DATABASE_URL=pooler("session")).ready()
    ledger.run("enqueue_many(d.work, [('a',)])")
    ledger.settled()
    assert "transaction pooler" not in service.log()
