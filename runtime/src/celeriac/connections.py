"""Keep a worker's PostgreSQL connections across its tasks, safely.

Celery closes every database connection before and after each task. `celeriac.worker`
attaches this module instead (prefork, threads and solo pools), with these guarantees:

- A task finds the session as if it had just been opened. After a task that used it, the
  connection is reset by `DISCARD ALL` and set up as Django does for a new one, receivers
  of `connection_created` included: no SET, role, advisory lock, temporary table, LISTEN
  or prepared statement of one task is seen by the next.
- A connection that a task left inside a transaction or an atomic block, or without
  autocommit, is closed: PostgreSQL rolls back what was not committed.
- A connection that died between two tasks (restart, failover, pg_terminate_backend) is
  replaced before the first query. Its socket tells at no cost; one that stood idle for 5 s
  is also asked by `SELECT 1`. A task that does not use the database never touches it.
- A connection is replaced after `CONN_MAX_AGE` seconds, or 60 when that is 0 or None.
- A server that vanished without a word, with its host or the network, is noticed within about
  15 s, not two hours, in every pool (`notice_lost_servers`).
- A connection is used only by the process that opened it: Celery's own fixup drops what a
  forked child has inherited, before its first task.

Limits: a connection that dies during a task fails that task, as with Celery alone. An
idle worker holds its connections until its next task. gevent and eventlet run each task
in a greenlet of its own, and its connection ends with it, so Celery's behaviour stays;
there Django's `pool` option is what saves connecting. Projects with that option, and
databases other than PostgreSQL, keep Celery's behaviour too. `CELERY_DB_REUSE_MAX` has no
effect while this is on; CELERIAC_CONN_MAX_AGE=0 turns it off.
"""

import os
import select
import time
from contextlib import suppress
from typing import Any

from celery import concurrency
from celery.exceptions import ImproperlyConfigured
from celery.fixups.django import DjangoFixup
from celery.utils.log import get_logger

logger = get_logger("celeriac.connections")

DEFAULT_SECONDS = 60.0
IDLE_SECONDS = 5.0
POOLS = {"prefork", "solo", "thread"}
# libpq's own names; seconds, and milliseconds for the last.
NOTICE = {"keepalives_idle": 5, "keepalives_interval": 3, "keepalives_count": 3}
NOTICE |= {"tcp_user_timeout": 15_000}


def max_age_from_env(name: str = "CELERIAC_CONN_MAX_AGE") -> float | None:
    """Seconds to keep a connection, 0 to keep none, or None to follow the settings."""
    value = os.environ.get(name, "").strip()
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1
    if not 0 <= seconds < float("inf"):
        raise ImproperlyConfigured(
            f"{name}={value!r} is not a number of seconds. Write for example {name}=60, "
            f"or {name}=0 to close connections after every task."
        )
    return seconds


MAX_AGE = max_age_from_env()


class Kept:
    """One of Django's connections, and what has become of it since the last task."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.session: Any = None  # the driver's connection, once it has been seen
        self.used = False
        self.settled_at = 0.0
        self.answers = connection.is_usable
        # Django asks before the first query after `settle`.
        connection.is_usable = self.is_usable

    def is_usable(self) -> bool:
        """Note that the task uses the connection, and whether it is still alive."""
        self.used = True
        idle = time.monotonic() - self.settled_at
        if self.connection.errors_occurred or idle >= IDLE_SECONDS or self.has_news():
            return self.answers()
        return True

    def has_news(self) -> bool:
        """Whether the server has sent or closed something while nobody asked."""
        poll = select.poll()
        poll.register(self.connection.connection.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def settle(self) -> None:
        """Between two tasks: make the connection as good as new, or close it."""
        connection = self.connection
        if connection.connection is None:
            return
        now = time.monotonic()
        if connection.connection is not self.session:
            self.session = connection.connection
            self.used = True
            connection.close_at = now + self.max_age()
        if now >= connection.close_at or (self.used and not self.renew()):
            self.close()
            return
        self.used = False
        self.settled_at = time.monotonic()
        connection.health_check_enabled = True
        connection.health_check_done = False

    def max_age(self) -> float:
        if MAX_AGE is not None:
            return MAX_AGE
        return self.connection.settings_dict["CONN_MAX_AGE"] or DEFAULT_SECONDS

    def renew(self) -> bool:
        """Reset the session; False when it cannot be trusted any more."""
        from django.db import Error
        from django.db.backends.signals import connection_created

        connection = self.connection
        try:
            with connection.wrap_database_errors:
                with self.session.cursor() as cursor:
                    cursor.execute("DISCARD ALL")  # an error inside a transaction
                connection.init_connection_state()
            connection_created.send(sender=type(connection), connection=connection)
        except Error as error:
            logger.debug("Replacing the connection %r: %s", connection.alias, error)
            return False
        connection.errors_occurred = False
        return True

    def close(self) -> None:
        """Close it whatever state it is in; the next query opens a new one."""
        self.session = None
        close(self.connection)


def close(connection: Any) -> None:
    """Close one of Django's connections, also inside an atomic block that a task left open."""
    from django.db import Error

    connection.in_atomic_block = connection.closed_in_transaction = False
    with suppress(Error):
        connection.close()
    connection.connection = None


def settle(**_: Any) -> None:
    """Before and after each task: settle every connection of this thread."""
    from django.db import connections

    for connection in connections.all(initialized_only=True):
        if connection.vendor != "postgresql":
            close(connection)
            continue
        if not hasattr(connection, "kept"):
            connection.kept = Kept(connection)
        connection.kept.settle()


def notice_lost_servers() -> None:
    """Let this process's PostgreSQL connections from now on end when nobody answers.

    What the project sets itself in OPTIONS is kept.
    """
    from django.db import connections

    for connection in connections.all():
        if connection.vendor == "postgresql":
            settings = connections.settings[connection.alias]
            settings["OPTIONS"] = NOTICE | (settings.get("OPTIONS") or {})


def attach(worker: Any) -> bool:
    """Let `settle` take the place of Celery's close around each task; False if it stays."""
    from django.conf import settings

    fixups = [fixup for fixup in worker.app._fixups if isinstance(fixup, DjangoFixup)]
    if not fixups:
        return False
    notice_lost_servers()
    pool = concurrency.get_implementation(worker.pool_cls).__module__.rpartition(".")[2]
    if MAX_AGE == 0 or pool not in POOLS:
        return False
    if any((d.get("OPTIONS") or {}).get("pool") for d in settings.DATABASES.values()):
        return False
    for fixup in fixups:
        fixup.worker_fixup.close_database = settle
    return True
