"""The keeper: a thread in each worker's main process that looks after the outbox.

Every keeper says what its worker has taken and not yet started, and what it runs; it writes
dead letters and history (see history.py). One of them leads (an advisory lock) and

- sends rows that are due: bulk, ETAs, retries, and what could not be published;
- sends again what has left its queue without an effect;
- makes a dead letter of what has `max_sends` strikes (see quarantine.py), and of what was sent
  ten times as often, whatever the reason;
- notes once a minute how much waits in each queue.

How a message is known to have left its queue: Redis lists are first in, first out, and every
message carries its row's `seq`. So the lowest seq near the head of the list, sampled twice a
second, tells that everything below it has been taken. A row is sent again if it was already
below the head SLACK seconds ago, is not locked (running), and not held by a live worker. An
empty list needs no special case, nor does FLUSHALL, nor a failed publish.

The keeper has a session of its own with PostgreSQL, connects again whenever that or Redis
goes away, and never raises into the worker. Under gevent it is a greenlet.

Limits: its advisory locks need a real session, so it refuses a transaction pooler (name a
direct way to the same database in DATABASES["celeriac"]). A message that waits behind more
than DEEP_LOOK plain messages, or was committed long after it got its seq, may be sent twice;
the copy is dropped when it comes to run.
"""

import json
import logging
import os
import re
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from celery import Celery, signals
from celery.worker import state

from celeriac import broker, deadletters, figures, history, ledger
from celeriac.broker import HEADER
from celeriac.figures import WORKERS
from celeriac.quarantine import gate

logger = logging.getLogger("celeriac.keeper")

TICK = 0.25
SAMPLE_SECONDS = 0.5
SLACK = 2.0
LOOK = 20
DEEP_LOOK = 1000
BATCH = 500
RESEND_BATCH = 200
BATCHES_A_TICK = 50
SEEN_SECONDS = 5.0
MAX_SENDS = 6
REPORT_SECONDS = 1.0
DEPTH_SECONDS = 60.0
MOST_TASKS = 100
MOST_CHARACTERS = 120
STOP_SECONDS = 2.0
NO_JSON = re.compile("[\0\ud800-\udfff]")  # what PostgreSQL does not take
SENDS_A_STRIKE = 10
MOST_PLAIN_LETTERS = 100_000
LEADER = zlib.crc32(b"celeriac.keeper") - 2**31

RELAY = """
WITH due AS (
    SELECT seq FROM celeriac_outbox WHERE sent_at IS NULL AND due_at <= clock_timestamp()
    ORDER BY due_at, seq LIMIT %s FOR UPDATE SKIP LOCKED)
UPDATE celeriac_outbox AS o
SET seq = nextval(pg_get_serial_sequence('celeriac_outbox', 'seq')),
    sent_at = clock_timestamp(), sends = sends + 1
FROM due WHERE o.seq = due.seq RETURNING o.queue, o.message, o.seq, nullif(o.strikes, 0)
"""

QUEUES = """
WITH RECURSIVE q AS (
    (SELECT queue FROM celeriac_outbox WHERE sent_at IS NOT NULL ORDER BY queue LIMIT 1)
    UNION ALL
    SELECT (SELECT o.queue FROM celeriac_outbox o
            WHERE sent_at IS NOT NULL AND o.queue > q.queue ORDER BY o.queue LIMIT 1)
    FROM q WHERE q.queue IS NOT NULL)
SELECT queue FROM q WHERE queue IS NOT NULL
"""

HEADS = """
SELECT DISTINCT ON (queue) queue, at, seq FROM celeriac_head
WHERE at <= clock_timestamp() - make_interval(secs => %s) ORDER BY queue, at DESC
"""

# Highest first: each batch goes to the front of the queue, so the lowest must come last.
AGAIN = f"""
WITH overdue AS MATERIALIZED (
    SELECT seq FROM celeriac_outbox
    WHERE queue = %s AND sent_at IS NOT NULL AND seq < %s AND sent_at < %s
      AND seq NOT IN (
        SELECT jsonb_array_elements_text(w.held)::bigint FROM celeriac_worker w
        JOIN pg_locks l ON l.locktype = 'advisory' AND l.granted AND l.objsubid = 2
         AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
         AND l.classid::bigint = ({WORKERS}::bigint & 4294967295) AND l.objid::bigint = w.id)
    ORDER BY seq DESC LIMIT %s FOR UPDATE SKIP LOCKED),
idle AS MATERIALIZED (
    SELECT seq FROM overdue WHERE pg_try_advisory_xact_lock({ledger.TASK_LOCKS} + seq))
UPDATE celeriac_outbox AS o SET sent_at = clock_timestamp(), sends = sends + 1
FROM idle WHERE o.seq = idle.seq
RETURNING o.queue, o.message, o.seq, o.strikes, o.sends, o.task, o.task_id
"""


class TransactionPooler(Exception):
    """The database is reached through a pooler that changes the session under us."""


class Keeper:
    """One per worker; `start` returns at once."""

    def __init__(self, app: Celery, name: str, consumer: Any = None) -> None:
        self.app, self.name, self.consumer = app, name, consumer
        self.pid = os.getpid()
        self.session: Any = None
        self.worker_id = 0
        self.leading = False
        self.letters: deque[deadletters.Write] = deque(maxlen=10_000)
        self.said: tuple[list[int] | None, float] = (None, 0.0)
        self.sampled_at = 0.0
        self.tidied_at = 0.0
        self.trouble = ""
        self.tally = history.Tally(lambda: app.amqp.queues.consume_from)
        self.reported: tuple[Any, float] = (None, 0.0)
        self.report_trouble = ""
        self.depths_at = 0.0
        self.stopping = False
        self.wake, self.written = threading.Event(), threading.Event()

    def start(self) -> None:
        if not type(self.consumer.pool).__module__.endswith("prefork"):
            gate.close_off()
        deadletters.hand_over(self.letters.append)
        signals.worker_shutdown.connect(self.stop, weak=False)
        os.register_at_fork(after_in_child=self.forget)
        threading.Thread(target=self.run, name="celeriac-keeper", daemon=True).start()

    def stop(self, **_: Any) -> None:
        """The worker leaves: write what was counted, and wait for it some seconds at most."""
        if os.getpid() == self.pid:
            self.stopping = True
            self.wake.set()
            self.written.wait(STOP_SECONDS)

    def forget(self) -> None:
        """In a pool child: let go of the session, or it would outlive its worker."""
        if os.getpid() == self.pid:
            return
        deadletters.hand_over(None)
        with suppress(Exception):
            os.close(self.session.connection.fileno())

    def run(self) -> None:
        while True:
            pause = TICK
            self.tally.add_up()
            try:
                if self.session is None:
                    self.open()
                self.tick()
                if self.trouble:
                    logger.warning("The outbox is looked after again")
                    self.trouble = ""
            except TransactionPooler as error:
                pause = 60.0
                logger.critical("Durable tasks are not looked after: %s", error)
                self.close()
            except Exception as error:
                pause = 1.0
                trouble = f"{type(error).__name__}: {error}".strip()
                if trouble != self.trouble:
                    self.trouble = trouble
                    logger.warning("The outbox has to wait: %s", trouble)
                if not is_broker_error(error):
                    self.close()
            self.wake.wait(pause)
            self.wake.clear()

    # -- the session -------------------------------------------------------------------

    def open(self) -> None:
        alias = ledger.direct()
        session = ledger.own_connection(alias, 5)
        self.session = session
        with session.cursor() as cursor:
            for option, value in (
                ("application_name", f"celeriac-keeper {self.name}"[:63]),
                ("statement_timeout", "10s"),
                ("tcp_keepalives_idle", "5"),
                ("tcp_keepalives_interval", "3"),
                ("tcp_keepalives_count", "3"),
            ):
                cursor.execute("SELECT set_config(%s, %s, false)", [option, value])
        refuse_transaction_pooler(session, alias)
        self.worker_id = self.fetch(
            "INSERT INTO celeriac_worker (name, seen_at, held)"
            " VALUES (%s, clock_timestamp(), '[]') RETURNING id",
            self.name,
        )[0][0]
        self.fetch("SELECT pg_advisory_lock(%s, %s)", WORKERS, self.worker_id)
        self.said = self.reported = (None, 0.0)

    def close(self) -> None:
        session, self.session, self.leading = self.session, None, False
        if session is not None:
            with suppress(Exception):
                session.close()

    def fetch(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return ledger.fetch(sql, parameters, self.session)

    def execute(self, sql: str, *parameters: Any) -> None:
        with self.session.cursor() as cursor:
            cursor.execute(sql, parameters)

    # -- one tick ----------------------------------------------------------------------

    def tick(self) -> None:
        self.say_held()
        self.write_letters()
        self.report()
        if not self.leading:
            self.leading = self.fetch("SELECT pg_try_advisory_lock(%s, 0)", LEADER)[0][0]
        if not self.leading or not broker.is_redis(self.app):
            return
        if time.monotonic() - self.sampled_at >= SAMPLE_SECONDS:
            self.sample()
            self.sampled_at = time.monotonic()
            self.send_again()
        self.relay()
        self.tidy()

    def say_held(self) -> None:
        """Tell the others what this worker has taken and not started."""
        held = self.held()
        last, at = self.said
        if held == last and time.monotonic() - at < SEEN_SECONDS:
            return
        found = self.fetch(
            "UPDATE celeriac_worker SET held = %s, seen_at = clock_timestamp()"
            " WHERE id = %s RETURNING 1",
            json.dumps(held),
            self.worker_id,
        )
        if not found:
            raise LookupError("the row of this worker is gone")
        self.said = held, time.monotonic()

    def held(self) -> list[int]:
        """Rows whose messages wait in this process: for a slot, an ETA, a rate limit, the gate."""
        # In the order that a request goes through them.
        waiting = members(state.scheduled_requests) | members(state.reserved_requests)
        for bucket in list(getattr(self.consumer, "task_buckets", None) or ()):
            limited = self.consumer.task_buckets[bucket]
            if limited:
                waiting.update(request for request, _ in list(limited.contents))
        seqs = (r._request_dict.get(HEADER) for r in waiting if not r.time_start)
        return sorted({seq for seq in seqs if seq is not None} | gate.waiting.copy())

    def report(self) -> None:
        """Write what this worker runs, and what it did."""
        stopping = self.stopping
        if stopping:
            self.tally.add_up()
        self.aside(self.say_running)
        self.aside(lambda: self.tally.write(self.session, at_once=stopping))
        if stopping:
            self.written.set()

    def aside(self, action: Callable[[], None]) -> None:
        """Do what people like to see, but what may not keep the outbox waiting."""
        try:
            action()
        except Exception as error:
            if not self.session.is_usable():
                raise
            if str(error) != self.report_trouble:
                self.report_trouble = str(error)
                logger.warning("The history has a gap: %s", error)

    def say_running(self) -> None:
        """Tell people what this worker runs; once a second at most, and only when it changed."""
        last, at = self.reported
        if time.monotonic() - at < REPORT_SECONDS:
            return
        running = members(state.active_requests)
        longest = sorted(running, key=lambda request: request.time_start or 0)[:MOST_TASKS]
        pool = getattr(self.consumer, "pool", None)
        queues = sorted(self.app.amqp.queues.consume_from)
        said = (
            type(pool).__module__.rpartition(".")[2],
            self.slots(pool),
            json.dumps(queues),
            figures.release(),
            len(running),
            json.dumps([described(request) for request in longest]),
        )
        self.reported = last, time.monotonic()
        if said != last:
            self.execute(
                "UPDATE celeriac_worker SET pool = %s, concurrency = %s, queues = %s,"
                " release = %s, running = %s, tasks = %s WHERE id = %s",
                *said,
                self.worker_id,
            )
            self.reported = said, time.monotonic()

    def slots(self, pool: Any) -> int | None:
        """How many tasks may run at once; what a pool that grows may grow to."""
        grows_to = getattr(getattr(self.consumer, "controller", None), "max_concurrency", None)
        return grows_to or getattr(pool, "num_processes", None) or getattr(pool, "limit", None)

    def write_letters(self) -> None:
        for _ in range(len(self.letters)):
            action = self.letters[0]
            try:
                action(self.session)
            except deadletters.Busy:
                self.letters.rotate(-1)
                continue
            except Exception as error:
                if not self.session.is_usable():
                    raise
                logger.error("A dead letter could not be written: %s", error)
            self.letters.popleft()

    def sample(self) -> None:
        """Note the lowest seq that is still in each queue."""
        redis = broker.client(self.app)
        for (name,) in self.fetch(QUEUES):
            # Before the look: whatever is sent after this moment is above the head.
            at, top = self.fetch(
                "SELECT clock_timestamp(), last_value + 1 FROM celeriac_outbox_seq_seq"
            )[0]
            seq = None
            for look in (LOOK, DEEP_LOOK):
                messages = redis.lrange(broker.unprefixed(self.app, name), -look, -1)
                seqs = [seq for m in messages if (seq := seq_of(m)) is not None]
                if seqs:
                    seq = min(seqs)
                    break
                if len(messages) < look:
                    seq = top
                    break
            if seq is not None:
                self.execute(
                    "INSERT INTO celeriac_head (queue, at, seq) VALUES (%s, %s, %s)", name, at, seq
                )

    def send_again(self) -> None:
        """Send what has left its queue without an effect; to the front, it has waited."""
        for name, at, head in self.fetch(HEADS, SLACK):
            for _ in range(BATCHES_A_TICK):
                rows = self.fetch(AGAIN, name, head, at, RESEND_BATCH)
                alive = []
                for row in rows:
                    seq, strikes, sends, task, task_id = row[2:]
                    limit = self.max_sends(task)
                    if strikes < limit and sends <= limit * SENDS_A_STRIKE:
                        alive.append(row[:4])
                        continue
                    ledger.bury(seq, task_id, "max_sends", "", self.session)
                    logger.error(
                        "%s[%s] was sent %s times and left no effect, %s times by its own fault: "
                        "it is a dead letter now", task, task_id, sends - 1, strikes)  # fmt: skip
                if alive:
                    # The statement has committed: a copy that comes at once finds its row free.
                    self.push(sorted(alive, key=lambda r: -r[2]), front=True)
                    logger.warning("Sent %s tasks of %s again", len(alive), name.split("\x06")[0])
                if len(rows) < RESEND_BATCH:
                    break

    def push(self, rows: list[tuple[Any, ...]], front: bool = False) -> None:
        """Push rows that were just marked as sent; if that fails, it does not count."""
        try:
            broker.push(self.app, rows, front)
        except Exception:
            # A full or read-only Redis must not use up the sends of good tasks.
            self.execute(
                "UPDATE celeriac_outbox SET sends = sends - 1 WHERE seq = ANY(%s) AND sends > 0",
                [row[2] for row in rows],
            )
            raise

    def max_sends(self, task: str) -> int:
        return getattr(self.app.tasks.get(task), "max_sends", MAX_SENDS)

    def relay(self) -> None:
        """Send the rows that are due."""
        for _ in range(BATCHES_A_TICK):
            broker.client(self.app).ping()  # a row is marked before it is pushed
            rows = self.fetch(RELAY, BATCH)
            if rows:
                self.push(sorted(rows, key=lambda row: row[2]))
            if len(rows) < BATCH:
                return

    def tidy(self) -> None:
        if time.monotonic() - self.tidied_at < 10:
            return
        self.tidied_at = time.monotonic()
        self.execute("DELETE FROM celeriac_head WHERE at < clock_timestamp() - interval '60 s'")
        self.execute(
            "DELETE FROM celeriac_worker w WHERE seen_at < clock_timestamp() - interval '60 s'"
            " AND pg_try_advisory_xact_lock(%s, w.id::int) AND id <> %s",
            WORKERS,
            self.worker_id,
        )
        self.aside(lambda: history.tidy(self.session))
        if time.monotonic() - self.depths_at >= DEPTH_SECONDS:
            self.depths_at = time.monotonic()
            self.aside(self.note_depths)
            self.aside(lambda: ledger.trim(MOST_PLAIN_LETTERS, self.session))

    def note_depths(self) -> None:
        names = figures.queue_names(self.app, self.session)
        found = figures.queues(self.app, figures.chosen_queues(names)[0])
        history.note_depths(self.session, [(q.name, q.depth, q.oldest) for q in found])


def members(group: Any) -> set[Any]:
    """The members of a weak set that another thread may change meanwhile."""
    while True:
        try:
            return set(group)
        except RuntimeError:
            continue


def described(request: Any) -> dict[str, Any]:
    """A running task as people want to see it."""
    arguments = f"{request.argsrepr or ''} {request.kwargsrepr or ''}"
    if len(arguments) > MOST_CHARACTERS:
        arguments = arguments[: MOST_CHARACTERS - 1] + "…"
    return {
        "id": NO_JSON.sub("?", request.id),
        "task": request.task.name,
        "arguments": NO_JSON.sub("?", arguments),
        "since": request.time_start,
    }


def seq_of(message: bytes) -> int | None:
    """The outbox row of a message in a list, if it has one."""
    try:
        return json.loads(message)["headers"].get(HEADER)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def is_broker_error(error: Exception) -> bool:
    return type(error).__module__.partition(".")[0] in ("redis", "kombu")


def refuse_transaction_pooler(session: Any, alias: str) -> None:
    """Raise TransactionPooler if statements of one session may run in several.

    A pooler shows by its own key for cancelling; which kind it is, by whether a second
    connection is given the server process of the first while that one is idle.
    """
    real = ledger.fetch("SELECT pg_backend_pid()", [], session)[0][0]
    if session.connection.info.backend_pid == real:
        return
    other = ledger.own_connection(alias, 5)
    try:
        other.set_autocommit(False)
        theirs = ledger.fetch("SELECT pg_backend_pid()", [], other)[0][0]
        now = ledger.fetch("SELECT pg_backend_pid()", [], session)[0][0]
    finally:
        other.close()
    if theirs == real or now != real:
        raise TransactionPooler(
            f"DATABASES[{alias!r}] goes through a transaction pooler, where session locks do "
            "not hold. Add DATABASES['celeriac']: the same database, reached directly (or by "
            "a pooler in session mode). Only the keeper uses it, one connection a worker."
        )
