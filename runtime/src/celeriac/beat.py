"""One Beat at a time: `celery beat --scheduler celeriac.beat:LeaderScheduler`.

The leader holds a PostgreSQL advisory lock (the lease) around whatever scheduler the
app uses; every other Beat waits as a standby. Guarantees:

- The schedule is read only once the lease is held.
- The lease is verified before each tick; a Beat that lost it exits with status 1 and
  never ticks again. A dead leader's lease is free as soon as PostgreSQL sees its
  connection end: at once for a dead process, about 15 s for a dead host.
- SIGTERM never interrupts a tick, and each run is saved right after it was sent.
- Every run has a task id made of the app, the entry, and its previous run, so that the
  same run has the same id however often and by whichever Beat it is sent.
- A run of a durable task (celeriac.Task) never waits for the broker. With
  django-celery-beat in the `default` database it is owed and saved in one transaction, so
  that a kill at any moment leaves it run exactly once.
- A run of any other task that is due while the broker is away waits for it, and the runs
  behind it wait in order; then it is sent and saved. A Beat that stops or dies meanwhile
  leaves it due.
- After a pause of more than 5 s the leader says which entries missed how many runs.
- A clock that was ahead and is set back does not silence an entry until that time comes
  again: the entry counts from now.

Limits: the lease needs a session of its own, so `default` must reach PostgreSQL
directly or through a session pooler, never through a transaction pooler. For tasks that
are not durable, a kill between sending a run and saving it, or a connection that breaks
between the broker's taking a run and its answer, sends that one run again, with the same
id; so does nothing else. An entry that was due several times during an outage runs once, as
after any pause of Beat. An entry that sets its own `task_id` keeps it, and a scheduler that
saves nothing (celery.beat:Scheduler) gives each Beat ids of its own.
"""

import heapq
import os
import signal
import socket
import time
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

from celery import Celery
from celery.beat import PersistentScheduler, SchedulingError
from celery.exceptions import ImproperlyConfigured
from celery.utils.imports import load_extension_class_names, symbol_by_name
from celery.utils.log import get_logger
from kombu.exceptions import OperationalError

from celeriac import connections, history, logs, notify

logger = get_logger("celeriac.beat")

STANDBY_SECONDS = 0.5
TICK_SECONDS = 5.0
BROKER_SECONDS = 1.0
PAUSE_SECONDS = 5.0
MISSED_AT_MOST = 1000
REPORT_SECONDS = 2.0
AHEAD_SECONDS = 10.0
RUN_SPACE = uuid.uuid5(uuid.NAMESPACE_URL, "celeriac.beat")
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
        self.app_name = app_name
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


def broker_is_away(error: BaseException | None) -> bool:
    """Whether a publish failed for a reason that goes away by itself, and is not the run's own.

    kombu raises OperationalError for a broker that does not answer, and for each of Redis's
    error replies: full, read-only, loading; but also for a queue that this run may not use.
    """
    if not isinstance(error, OperationalError):
        return False
    forbidden = type(error.__cause__).__name__ == "NoPermissionError"
    return not forbidden and not str(error).startswith("WRONGTYPE")


def due_times(schedule: Any, last: Any, now: Any) -> list[Any]:
    """When an interval or crontab was due after `last` until `now`; [] for other schedules."""
    last = schedule.maybe_make_aware(last)
    times: list[Any] = []
    while len(times) < MISSED_AT_MOST:
        if hasattr(schedule, "remaining_delta"):
            start, delta, _ = schedule.remaining_delta(last)
            last = start + delta
        elif isinstance(getattr(schedule, "run_every", None), timedelta) and schedule.run_every:
            last += schedule.run_every
        else:
            break
        if last > now:
            break
        times.append(last)
    return times


class LeaderScheduler:
    """The app's own scheduler, built and ticked only while the lease is held.

    Celery builds a scheduler twice: once with lazy=True for its banner, which must not
    wait for the lease, and once to run.
    """

    def __init__(self, app: Celery, lazy: bool = False, **options: Any) -> None:
        self.app = app
        self.busy = False
        self.stopping = False
        self.waited = False  # for the broker, with the run that is being sent
        self.late = ""  # the entry whose run was sent after a wait
        self.missed: dict[str, int] = {}
        self.producer: Any = None
        self.reported_at = float("-inf")
        self.clock = float("inf")  # how far it is before the monotonic one
        inner_class = scheduler_class(app)
        if not lazy:
            app.conf.beat_sync_every = 1
            logs.connect()
            connections.notice_lost_servers()
            self.lease = Lease(app.main or "celery")
            self.wait_for_lease()
        self.inner = inner_class(app=app, lazy=lazy, **options)
        if not lazy:
            self.inner.producer = None  # Celery would wait for the broker before each run
            self.publish, self.inner.apply_async = self.inner.apply_async, self.apply_async
            self.take_signals()
            watchdog = notify.watchdog_seconds()
            self.longest_sleep = min(TICK_SECONDS, watchdog / 4) if watchdog else TICK_SECONDS
            notify.send("READY=1", self.status())

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

    def status(self) -> str:
        """One line for `systemctl status`."""
        missed = ", ".join(f"{count} of {name}" for name, count in list(self.missed.items())[-5:])
        after = f"; runs missed in a pause: {missed}" if missed else ""
        return f"STATUS=leading: {type(self.inner).__name__} is ticking{after}"

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
            self.count_from_now()
            delay = self.inner.tick()
            self.report()
            if self.late:
                self.recount()
                delay = 0
        return min(delay, self.longest_sleep)

    def report(self) -> None:
        """Tell the metrics that the leader ticks; at most every REPORT_SECONDS."""
        from django.db import Error

        if time.monotonic() - self.reported_at < REPORT_SECONDS:
            return
        self.reported_at = time.monotonic()
        with suppress(Error):  # a lost session is `verify`'s to notice
            history.ticked(self.lease.connection, self.lease.app_name, self.lease.owner)

    def count_from_now(self) -> None:
        """Let no entry wait for the time of a clock that was ahead when it ran last.

        Looked for at the first tick, and when the clock was set back.
        """
        before, self.clock = self.clock, time.time() - time.monotonic()
        if self.clock > before - AHEAD_SECONDS:
            return
        heap = getattr(self.inner, "_heap", None) or []
        # django-celery-beat keeps what has run in the heap alone, Celery what has not been there.
        for entry in [*self.inner.schedule.values(), *(event.entry for event in heap)]:
            if entry.last_run_at is None:
                continue
            now = entry.schedule.maybe_make_aware(entry.default_now())
            if entry.last_run_at - now > timedelta(seconds=AHEAD_SECONDS):
                logger.warning(
                    "%s ran last at %s, which is yet to come: the clock was ahead, so it counts "
                    "from now", entry.name, entry.last_run_at)  # fmt: skip
                entry.last_run_at = now
        for index, event in enumerate(heap):
            due, delay = self.inner.is_due(event.entry)
            heap[index] = event._replace(time=self.inner._when(event.entry, not due and delay))
        heapq.heapify(heap)

    def recount(self) -> None:
        """Count the delay of the run after one that waited from its own time, not from now."""
        heap = getattr(self.inner, "_heap", None) or []
        for index, event in enumerate(heap):
            if event.entry.name == self.late:
                due, delay = self.inner.is_due(event.entry)
                heap[index] = event._replace(time=self.inner._when(event.entry, not due and delay))
        heapq.heapify(heap)
        self.late = ""

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
        self.give_up(f"lost the lease: {reason}")

    @staticmethod
    def give_up(reason: str) -> None:
        """Leave without saving: what is due stays due, for the next Beat."""
        logger.critical("Beat is leaving: %s", reason)
        notify.send(f"STATUS={reason}")
        os._exit(1)

    def connect_to_broker(self) -> None:
        """Connect for sending, for as long as it takes; the due run waits.

        Stopping here leaves at once without saving, so that the run stays due.
        """

        def waiting(error: Exception, interval: float) -> None:
            self.waited = True
            logger.error("Beat cannot reach the broker: %s. Trying again.", error)
            notify.send("STATUS=leading: waiting for the broker")

        connection = self.inner.connection.ensure_connection(
            waiting,
            interval_start=BROKER_SECONDS,
            interval_max=BROKER_SECONDS,
            callback=self.still_waiting,
        )
        notify.send(self.status())
        self.producer = self.inner.Producer(connection, auto_declare=False)

    def still_waiting(self) -> None:
        """Between two attempts: stop if asked to, without saving; else go on as the leader."""
        if self.stopping:
            os._exit(0)
        self.verify()
        notify.send("WATCHDOG=1")

    def apply_async(self, entry: Any, producer: Any = None, advance: bool = True, **kw: Any) -> Any:
        """Send or owe one run, and save it.

        An error of the entry's own is raised as SchedulingError, and Celery logs it and goes
        on with the next run.
        """
        try:
            self.count_missed(entry)
        except Exception:  # a schedule of another kind; the run itself matters more
            logger.exception("Cannot tell how many runs of %s were missed", entry.name)
        if advance:
            self.inner.reserve(entry)
        options, entry.options = entry.options, {"task_id": self.run_id(entry)} | entry.options
        should_sync, self.inner.should_sync = self.inner.should_sync, lambda: False
        try:
            if not self.is_durable(entry):
                return self.send(entry, **kw)
            if not self.saves_in_the_outbox(entry):
                return self.publish(entry, advance=False, **kw)
            return self.owe(entry, **kw)
        finally:
            entry.options = options
            del self.inner.should_sync
            if self.waited:
                self.late, self.waited = entry.name, False
            if should_sync():
                self.inner._do_sync()

    def send(self, entry: Any, **kw: Any) -> Any:
        """Send a run, for as long as the broker is away; it is saved after that."""
        while True:
            if self.producer is None:
                self.connect_to_broker()
            try:
                return self.publish(entry, producer=self.producer, advance=False, **kw)
            except SchedulingError as error:
                if not broker_is_away(error.__context__):
                    raise
                logger.error("Keeping the due run of %s: %s", entry.name, error)
            self.waited = True
            notify.send("STATUS=leading: waiting for the broker")
            self.producer = None  # its channel is gone
            time.sleep(BROKER_SECONDS)
            self.still_waiting()

    def owe(self, entry: Any, **kw: Any) -> Any:
        """Write the run's row in the outbox and save its entry, in one transaction.

        When PostgreSQL fails nobody knows what was committed: the next Beat reads it there.
        """
        from django.db import InterfaceError, OperationalError, close_old_connections

        from celeriac import ledger

        close_old_connections()
        try:
            with ledger.atomic():
                result = self.publish(entry, advance=False, **kw)
                entry.save()
        except (OperationalError, InterfaceError, SchedulingError) as error:
            cause = error.__context__ if isinstance(error, SchedulingError) else error
            if not isinstance(cause, OperationalError | InterfaceError):
                raise
            self.give_up(f"could not save the run of {entry.name}: {str(cause).splitlines()[0]}")
        self.inner._dirty.discard(entry.name)
        return result

    def is_durable(self, entry: Any) -> bool:
        """Whether the run goes to the outbox."""
        from django.apps import apps

        if not apps.is_installed("celeriac"):
            return False
        from celeriac.durable import Task

        task = self.app.tasks.get(entry.task)
        durable = isinstance(task, Task) and entry.options.get("durable", task.durable)
        return durable and not self.app.conf.task_always_eager

    def saves_in_the_outbox(self, entry: Any) -> bool:
        """Whether the entry is a row of django-celery-beat's, in the database of the outbox."""
        from django.apps import apps
        from django.db import router

        if not apps.is_installed("django_celery_beat"):
            return False
        from django_celery_beat.schedulers import ModelEntry

        from celeriac.ledger import DATABASE

        return isinstance(entry, ModelEntry) and router.db_for_write(type(entry.model)) == DATABASE

    def count_missed(self, entry: Any) -> None:
        """Say how many earlier runs of a due entry did not take place, after a pause."""
        if not entry.total_run_count:
            return
        now = entry.schedule.maybe_make_aware(entry.default_now())
        due = due_times(entry.schedule, entry.last_run_at, now)
        if len(due) < 2 or now - due[0] < timedelta(seconds=PAUSE_SECONDS):
            return
        count = len(due) - 1
        more = "at least " if len(due) >= MISSED_AT_MOST else ""
        self.missed.pop(entry.name, None)
        self.missed[entry.name] = count
        logger.warning(
            "%s missed %s%s runs since %s; it runs now, once", entry.name, more, count, due[0]
        )
        notify.send(self.status())

    def run_id(self, entry: Any) -> str:
        """The task id of the run that `entry` is due for."""
        previous = entry.last_run_at.timestamp(), entry.total_run_count
        return str(uuid.uuid5(RUN_SPACE, repr((self.app.main, entry.name, *previous))))

    def _do_sync(self) -> None:
        with self.uninterrupted():
            self.inner._do_sync()

    def close(self) -> None:
        """Save the schedule. The lease goes with the process, after the last save."""
        if hasattr(self, "lease"):
            notify.send("STOPPING=1", "STATUS=stopping")
        self.busy = True
        self.inner.close()
