"""One Beat at a time: `celery beat --scheduler celeriac.beat:LeaderScheduler`.

The leader holds a PostgreSQL advisory lock (the lease) around whatever scheduler the
app uses; every other Beat waits as a standby. Guarantees:

- The schedule is read only once the lease is held.
- The lease is verified before each tick; a Beat that lost it exits with status 1 and
  never ticks again. A dead leader's lease is free as soon as PostgreSQL sees its
  connection end: at once for a dead process, about 15 s for a dead host.
- SIGTERM never interrupts a tick, and each run is saved right after it was sent.

Limits: the lease needs a session of its own, so `default` must reach PostgreSQL
directly or through a session pooler, never through a transaction pooler. A kill between
sending a run and saving it repeats that one run. While the broker is away a due run is
lost, as in stock Celery, unless Beat has not connected yet: then it waits.
"""

import os
import signal
import socket
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import Celery
from celery.beat import PersistentScheduler
from celery.exceptions import ImproperlyConfigured
from celery.utils.imports import load_extension_class_names, symbol_by_name
from celery.utils.log import get_logger

from celeriac import notify

logger = get_logger("celeriac.beat")

STANDBY_SECONDS = 0.5
TICK_SECONDS = 5.0
LEASE_SPACE = zlib.crc32(b"celeriac.beat") - 2**31


class Lease:
    """A session-level advisory lock in the app's database, named after the Celery app.

    Advisory locks are local to one database, so two apps share a lease only when both
    the database and the Celery app's name are the same.
    """

    LOCKS = (
        "FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 2"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        " AND classid::bigint = (%s::bigint & 4294967295)"
        " AND objid::bigint = (%s::bigint & 4294967295)"
    )

    def __init__(self, app_name: str) -> None:
        self.key = zlib.crc32(app_name.encode()) - 2**31
        self.owner = f"celeriac-beat {socket.gethostname()}:{os.getpid()}"
        self.connection: Any = None

    def connect(self) -> None:
        """Open the session; raises Django's OperationalError when it cannot."""
        from django.db import connections

        self.close()
        connection = connections["default"].copy()
        if connection.vendor != "postgresql":
            raise ImproperlyConfigured(
                "celeriac.beat needs PostgreSQL as the `default` database for its lease, but "
                f"DATABASES['default'] is {connection.vendor}. Use PostgreSQL, or run Beat "
                "without --scheduler celeriac.beat:LeaderScheduler on exactly one host."
            )
        with connection.cursor() as cursor:
            cursor.execute("SELECT set_config('application_name', %s, false)", [self.owner[:63]])
            for name, value in (("idle", 5), ("interval", 3), ("count", 3)):
                cursor.execute(f"SET tcp_keepalives_{name} = {value}")
        self.connection = connection

    def close(self) -> None:
        """Drop the session, and with it the lock."""
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.close()

    def acquire(self) -> bool:
        """Try to take the lock; connects first when there is no session."""
        if self.connection is None:
            self.connect()
        return self.query("SELECT pg_try_advisory_lock(%s, %s)")[0]

    def held(self) -> bool:
        """Whether this very session still holds the lock."""
        return self.query(f"SELECT count(*) = 1 {self.LOCKS} AND pid = pg_backend_pid()")[0]

    def holder(self) -> str:
        """Who holds the lock, as "host:pid", for people."""
        row = self.query(
            "SELECT coalesce(nullif(application_name, ''), 'process ' || pid) FROM "
            f"pg_stat_activity WHERE pid = (SELECT pid {self.LOCKS} LIMIT 1)"
        )
        return row[0].removeprefix("celeriac-beat ") if row else "nobody"

    def query(self, sql: str) -> Any:
        with self.connection.cursor() as cursor:
            cursor.execute(sql, [LEASE_SPACE, self.key])
            return cursor.fetchone()


def scheduler_class(app: Celery) -> type:
    """The scheduler to lead: $CELERIAC_BEAT_SCHEDULER, or `beat_scheduler` if the app sets
    one, or django-celery-beat's when it is installed, or Celery's own."""
    aliases = dict(load_extension_class_names("celery.beat_schedulers"))
    chosen = os.environ.get("CELERIAC_BEAT_SCHEDULER", "").strip()
    if chosen:
        try:
            found = symbol_by_name(chosen, aliases=aliases)
        except (ImportError, AttributeError, ValueError) as error:
            raise ImproperlyConfigured(
                f"CELERIAC_BEAT_SCHEDULER={chosen!r} cannot be imported: {error}. Write "
                "module:Class, for example django_celery_beat.schedulers:DatabaseScheduler."
            ) from error
        if found is LeaderScheduler:
            raise ImproperlyConfigured(
                f"CELERIAC_BEAT_SCHEDULER={chosen!r} names the lease itself. Name the scheduler "
                "that it should lead, or leave the variable out."
            )
        return found
    found = symbol_by_name(app.conf.beat_scheduler, aliases=aliases)
    if found not in (LeaderScheduler, PersistentScheduler):
        return found
    from django.conf import settings

    if "django_celery_beat" in settings.INSTALLED_APPS:
        return symbol_by_name("django_celery_beat.schedulers:DatabaseScheduler")
    return PersistentScheduler


class LeaderScheduler:
    """The app's own scheduler, built and ticked only while the lease is held.

    Celery builds a scheduler twice: once with lazy=True for its banner, which must not
    wait for the lease, and once to run.
    """

    def __init__(self, app: Celery, lazy: bool = False, **options: Any) -> None:
        self.app = app
        self.busy = False
        self.stopping = False
        inner_class = scheduler_class(app)
        if not lazy:
            app.conf.beat_sync_every = 1
            self.lease = Lease(app.main or "celery")
            self.wait_for_lease()
        self.inner = inner_class(app=app, lazy=lazy, **options)
        if not lazy:
            self.inner._ensure_connected = self.connect_to_broker
            self.take_signals()
            watchdog = notify.watchdog_seconds()
            self.longest_sleep = min(TICK_SECONDS, watchdog / 4) if watchdog else TICK_SECONDS
            notify.send("READY=1", f"STATUS=leading: {inner_class.__name__} is ticking")

    def __getattr__(self, name: str) -> Any:
        if name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)

    # -- standby -------------------------------------------------------------------------

    def wait_for_lease(self) -> None:
        """Return once the lease is held. The first connection must succeed."""
        from django.db import DatabaseError, InterfaceError

        previous = {s: signal.signal(s, self.leave) for s in (signal.SIGTERM, signal.SIGINT)}
        said = ""
        self.lease.connect()
        while True:
            try:
                if self.lease.acquire():
                    break
                status = f"standby: waiting for the lease held by {self.lease.holder()}"
            except (DatabaseError, InterfaceError) as error:
                status = f"standby: the database does not answer: {str(error).splitlines()[0]}"
                self.lease.close()
            if status != said:
                logger.warning(status)
                notify.send("READY=1", f"STATUS={status}")
                said = status
            notify.send("WATCHDOG=1")
            time.sleep(STANDBY_SECONDS)
        for number, handler in previous.items():
            signal.signal(number, handler)

    @staticmethod
    def leave(*_: Any) -> None:
        """Stop a standby: it has no schedule to save."""
        notify.send("STOPPING=1", "STATUS=stopping")
        raise SystemExit(0)

    # -- leader --------------------------------------------------------------------------

    def take_signals(self) -> None:
        """Let SIGTERM and SIGINT end Beat between two ticks; Celery saves on the way out."""

        def stop(*_: Any) -> None:
            notify.send("STOPPING=1", "STATUS=stopping")
            self.stopping = True
            if not self.busy:
                raise SystemExit(0)

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)

    @contextmanager
    def uninterrupted(self) -> Iterator[None]:
        outermost, self.busy = not self.busy, True
        try:
            yield
        finally:
            if outermost:
                self.busy = False
        if outermost and self.stopping:
            raise SystemExit(0)

    def tick(self) -> float:
        """Verify the lease, run one tick, and return the seconds to sleep (at most 5)."""
        with self.uninterrupted():
            self.verify()
            notify.send("WATCHDOG=1")
            delay = self.inner.tick()
        return min(delay, self.longest_sleep)

    def verify(self) -> None:
        """Return if the lease is held; otherwise end the process without saving anything."""
        from django.db import Error

        try:
            if self.lease.held():
                return
            reason = (
                "the session changed under it; the `default` database must be reached "
                "directly, not through a transaction pooler"
            )
        except Error as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        logger.critical("Lost the Beat lease, leaving: %s", reason)
        notify.send(f"STATUS=lost the lease: {reason}")
        os._exit(1)

    def connect_to_broker(self) -> Any:
        """Connect for sending, for as long as it takes; the due run waits.

        Stopping here leaves at once without saving, so that the run stays due.
        """

        def waiting(error: Exception, interval: float) -> None:
            logger.error("Beat cannot reach the broker: %s. Trying again.", error)
            notify.send("STATUS=leading: waiting for the broker")

        def still_alive() -> None:
            if self.stopping:
                os._exit(0)
            self.verify()
            notify.send("WATCHDOG=1")

        connection = self.inner.connection
        connection = connection.ensure_connection(waiting, None, callback=still_alive)
        notify.send(f"STATUS=leading: {type(self.inner).__name__} is ticking")
        return connection

    def _do_sync(self) -> None:
        with self.uninterrupted():
            self.inner._do_sync()

    def close(self) -> None:
        """Save the schedule. The lease goes with the process, after the last save."""
        if hasattr(self, "lease"):
            notify.send("STOPPING=1", "STATUS=stopping")
        self.busy = True
        self.inner.close()
