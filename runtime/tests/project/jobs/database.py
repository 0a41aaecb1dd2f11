"""Tasks that use the database, well and badly. Include with CELERY_INCLUDE."""

import json
import os
from contextlib import suppress

from celery import shared_task, signals
from django.contrib.contenttypes.models import ContentType
from django.db import DatabaseError, connection, transaction
from django.db.backends.signals import connection_created
from django.dispatch import receiver

from jobs.tasks import marks

if value := os.environ.get("PROJECT_LOCK_TIMEOUT"):

    @receiver(connection_created)
    def configure(connection, **_):
        with connection.cursor() as cursor:
            cursor.execute(f"SET lock_timeout = '{value}'")


if os.environ.get("PROJECT_PARENT_QUERIES"):

    @signals.worker_before_create_process.connect
    def query_in_the_main_process(**_):
        print(f"the main process is {fetch('SELECT pg_backend_pid()')}", flush=True)


def fetch(sql: str) -> object:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchone()[0]


def execute(sql: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql)


@shared_task
def look(number: str) -> None:
    """Note which session this is and what is left in it, and write a row."""
    seen = {
        "child": os.getpid(),
        "backend": fetch("SELECT pg_backend_pid()"),
        "autocommit": connection.get_autocommit() and not connection.in_atomic_block,
        "statement_timeout": fetch("SHOW statement_timeout"),
        "lock_timeout": fetch("SHOW lock_timeout"),
        "timezone": fetch("SHOW timezone"),
        "role": fetch("SHOW role"),
        "locks": fetch("SELECT count(*) FROM pg_locks WHERE objid = 4711"),
        "temporary": fetch("SELECT count(*) FROM pg_class WHERE relname = 'left_behind'"),
        "prepared": fetch("SELECT count(*) FROM pg_prepared_statements"),
    }
    with transaction.atomic():
        execute(f"INSERT INTO scratch VALUES ('{number}')")
    marks().hset("seen", number, json.dumps(seen))


def fail() -> None:
    with suppress(DatabaseError):
        execute("SELECT 1/0")


def leave_a_transaction() -> None:
    connection.set_autocommit(False)
    execute("INSERT INTO scratch VALUES ('uncommitted')")


def leave_an_aborted_transaction() -> None:
    leave_a_transaction()
    fail()


def leave_an_atomic_block() -> None:
    transaction.atomic().__enter__()
    execute("INSERT INTO scratch VALUES ('uncommitted')")


def leave_an_aborted_atomic_block() -> None:
    leave_an_atomic_block()
    fail()


def leave_a_transaction_of_the_driver() -> None:
    execute("BEGIN")
    execute("INSERT INTO scratch VALUES ('uncommitted')")


def leave_settings() -> None:
    execute("SET statement_timeout = '77s'; SET timezone = 'Asia/Tokyo'; SET lock_timeout = 0")
    execute("SET ROLE pg_monitor")


def leave_locks() -> None:
    execute("SELECT pg_advisory_lock(4711)")


def leave_objects() -> None:
    execute("CREATE TEMPORARY TABLE left_behind (n int)")
    execute("PREPARE left_behind AS SELECT 1")


def leave_traces_before_close_old_connections() -> None:
    from django.db import close_old_connections

    leave_settings()
    leave_locks()
    close_old_connections()


def leave_nothing() -> None:
    """The task that says how clean a session is."""


@shared_task
def leave(what: str) -> None:
    """Behave badly as `what` says."""
    globals()[f"leave_{what}"]()


@shared_task
def idle() -> None:
    """Uses no database."""


@shared_task
def query() -> None:
    """One query and nothing else."""
    ContentType.objects.values_list("pk").first()
