"""What tests of durable tasks share: what the database says, and a PostgreSQL to crash."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from conftest import PROJECT, environment, wait_for

POOLS = pytest.mark.parametrize("pool", ["prefork", "gevent"])
LATE = {"CELERY_BROKER_TRANSPORT_OPTIONS": {"visibility_timeout": 3600, "max_connections": 100}}


class Ledger:
    """What the database says, and a Django shell that owes tasks."""

    def __init__(self, url, broker):
        self.url, self.broker = url, broker
        self.server = psycopg.connect(url, autocommit=True)

    def query(self, sql, *parameters):
        return self.server.execute(sql, parameters).fetchall()

    def effects(self):
        return Counter(name for (name,) in self.query("SELECT name FROM jobs_effect"))

    def outbox(self):
        return self.query("SELECT count(*) FROM celeriac_outbox")[0][0]

    def dead(self):
        return self.query("SELECT task, reason, error, durable, task_id FROM celeriac_dead")

    def run(self, code, *arguments, **env):
        """Run Python in the project, with `d` the durable tasks."""
        setup = (
            "import os, sys, time, django; django.setup()\n"
            "from config.celery import app; app.loader.import_default_modules()\n"
            "from jobs import durable as d; from jobs.tasks import marks\n"
            "from celery import chain, chord, group; from django.db import transaction\n"
            "from celeriac import enqueue_many\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", setup + code, *arguments],
            cwd=PROJECT,
            env=self.env() | env,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def manage(self, *arguments):
        command = [sys.executable, "-m", "django", "celeriac", *arguments]
        return subprocess.run(
            command, cwd=PROJECT, env=self.env(), capture_output=True, text=True, timeout=60
        )

    def env(self):
        return environment(
            DATABASE_URL=self.url,
            CELERY_BROKER_URL=self.broker.url,
            MARKS_URL=self.broker.marks_url,
        )

    def starts(self, name):
        return self.broker.marks.llen(f"starts:{name}")

    def settled(self, seconds=60):
        wait_for(lambda: self.outbox() == 0, seconds, "an empty outbox")


@contextmanager
def postgresql(host, client="127.0.0.1/32", *options):
    """Run a PostgreSQL for the clients of one address: (URL, crash and restart)."""
    initdb = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not initdb:
        pytest.fail("no PostgreSQL server programs: bin/setup --test installs them")
    binaries, user = initdb[-1].parent, "postgres" if os.geteuid() == 0 else None
    with socket.socket() as probe:
        probe.bind((host, 0))
        port = probe.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="celeriac-pg."))
    if user:
        shutil.chown(folder, user)

    def call(program, *arguments):
        command = [binaries / program, "-D", folder / "data", *arguments]
        subprocess.run(command, user=user, check=True, cwd=folder, stdout=subprocess.DEVNULL)

    call("initdb", "-U", "celeriac", "-A", "trust", "--no-sync")
    with (folder / "data" / "pg_hba.conf").open("a") as rules:
        rules.write(f"host all all {client} trust\nhost all all {host}/32 trust\n")
    line = [f"-p {port} -c listen_addresses={host} -c unix_socket_directories={folder}", *options]
    start = ["-w", "-o", " ".join(line), "-l", folder / "log"]
    call("pg_ctl", "start", *start)
    yield (
        f"postgres://celeriac:x@{host}:{port}/postgres",
        lambda: (call("pg_ctl", "stop", "-m", "immediate"), call("pg_ctl", "start", *start)),
    )
    call("pg_ctl", "stop", "-m", "immediate")
    shutil.rmtree(folder)
