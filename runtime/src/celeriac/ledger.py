"""The statements on the outbox and the dead letters, one function each.

All but `record` use the caller's own connection and transaction.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from celery.exceptions import ImproperlyConfigured
from django.apps import apps
from django.db import connections, transaction

from celeriac.broker import Message

DATABASE = "default"
# Advisory locks of tasks that run without a transaction: one 64-bit key space.
TASK_LOCKS = 0x63656C << 40
LOCK_SECONDS = 5
ERROR_CHARACTERS = 20_000


def connection() -> Any:
    """The connection of the caller; refuses a database or project that cannot do it."""
    found = connections[DATABASE]
    if found.vendor != "postgresql":
        raise ImproperlyConfigured(
            f"Durable tasks need PostgreSQL, but DATABASES[{DATABASE!r}] is {found.vendor}."
        )
    if not apps.is_installed("celeriac"):
        raise ImproperlyConfigured(
            "Durable tasks need their tables: add 'celeriac' to INSTALLED_APPS and run "
            "manage.py migrate."
        )
    return found


def direct() -> str:
    """The alias of the way to the database that does not go through a transaction pooler."""
    return "celeriac" if "celeriac" in connections.settings else DATABASE


def own_connection(alias: str, timeout: int) -> Any:
    """A session outside Django's own, without its pool, that gives up after `timeout` s."""
    session = connections[alias].copy()
    options = dict(session.settings_dict.get("OPTIONS") or {}, connect_timeout=timeout)
    for name in ("pool", "isolation_level"):
        options.pop(name, None)
    session.settings_dict["OPTIONS"] = options
    return session


def fetch(sql: str, parameters: Sequence[Any], using: Any = None) -> list[tuple[Any, ...]]:
    with (using or connection()).cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetchall()


def insert(task_id: str, task: str, message: Message, due_at: datetime | None, sent: bool) -> int:
    """Owe a task: one row in the caller's transaction. Returns its seq."""
    rows = fetch(
        "INSERT INTO celeriac_outbox"
        " (task_id, task, queue, message, due_at, sent_at, sends, created_at, error)"
        " VALUES (%s, %s, %s, %s, coalesce(%s, clock_timestamp()),"
        " CASE WHEN %s THEN clock_timestamp() END, %s, clock_timestamp(), '') RETURNING seq",
        [task_id, task, message.queue, message.text, due_at, sent, int(sent)],
    )
    return rows[0][0]


def insert_many(task: str, ids: list[str], messages: list[Message]) -> None:
    """Owe many tasks in one statement, for the keeper to send."""
    with connection().cursor() as cursor:
        cursor.execute(
            "INSERT INTO celeriac_outbox"
            " (task_id, task, queue, message, due_at, sends, created_at, error)"
            " SELECT task_id, %s, queue, message, clock_timestamp(), 0, clock_timestamp(), ''"
            " FROM unnest(%s::text[], %s::text[], %s::text[])"
            " AS t(task_id, queue, message)",
            [task, ids, [m.queue for m in messages], [m.text for m in messages]],
        )


def take(seq: int, task_id: str, async_commit: bool = False) -> bool:
    """Lock and remove the row, until the transaction ends. False: done, or running elsewhere."""
    returning = "set_config('synchronous_commit', 'off', true)" if async_commit else "1"
    return bool(
        fetch(
            "DELETE FROM celeriac_outbox WHERE seq = (SELECT seq FROM celeriac_outbox"
            " WHERE seq = %s AND task_id = %s FOR UPDATE SKIP LOCKED) RETURNING " + returning,
            [seq, task_id],
        )
    )


@contextmanager
def lock(seq: int, task_id: str) -> Iterator[bool]:
    """Lock the row's number, in a session of its own. False: done, or running elsewhere.

    Not in the task's session, which the task may close or hand to a transaction pooler.
    """
    session = own_connection(direct(), LOCK_SECONDS)
    try:
        yield bool(
            fetch("SELECT pg_try_advisory_lock(%s)", [TASK_LOCKS + seq], session)[0][0]
            and fetch(
                "SELECT 1 FROM celeriac_outbox WHERE seq = %s AND task_id = %s",
                [seq, task_id],
                session,
            )
        )
    finally:
        session.close()


def reschedule(seq: int, task_id: str, message: Message, due_at: datetime | None) -> None:
    """Owe the task anew, from `due_at` on, and forget its strikes; older copies are void."""
    fetch(
        "UPDATE celeriac_outbox SET seq = nextval(pg_get_serial_sequence('celeriac_outbox',"
        " 'seq')), queue = %s, message = %s, due_at = coalesce(%s, clock_timestamp()),"
        " sent_at = NULL, sends = 0, strikes = 0 WHERE seq = %s AND task_id = %s RETURNING 1",
        [message.queue, message.text, due_at, seq, task_id],
    )


def postpone(seq: int, task_id: str, seconds: float) -> None:
    """Send the row again in some seconds, as if it had not been sent."""
    fetch(
        "UPDATE celeriac_outbox SET seq = nextval(pg_get_serial_sequence('celeriac_outbox',"
        " 'seq')), due_at = clock_timestamp() + make_interval(secs => %s), sent_at = NULL,"
        " sends = greatest(sends - 1, 0) WHERE seq = (SELECT seq FROM celeriac_outbox"
        " WHERE seq = %s AND task_id = %s FOR UPDATE SKIP LOCKED) RETURNING 1",
        [seconds, seq, task_id],
    )


UPSERT = (
    " ON CONFLICT (task_id) DO UPDATE SET task = excluded.task, queue = excluded.queue,"
    " message = excluded.message, durable = excluded.durable, reason = excluded.reason,"
    " error = excluded.error, died_at = excluded.died_at, deaths = celeriac_dead.deaths + 1"
    " RETURNING id"
)


def bury(seq: int, task_id: str, reason: str, error: str, using: Any = None) -> bool:
    """Move a row from the outbox to the dead letters, unless it is done or running."""
    return bool(
        fetch(
            "WITH row AS (DELETE FROM celeriac_outbox WHERE seq = (SELECT seq FROM"
            " celeriac_outbox WHERE seq = %s AND task_id = %s FOR UPDATE SKIP LOCKED)"
            " RETURNING *) INSERT INTO celeriac_dead"
            " (task_id, task, queue, message, durable, reason, error, deaths, died_at)"
            " SELECT task_id, task, queue, message, true, %s,"
            " CASE WHEN %s = '' THEN error ELSE %s END, 1, clock_timestamp() FROM row" + UPSERT,
            [seq, task_id, reason, error, error[-ERROR_CHARACTERS:]],
            using,
        )
    )


def note(seq: int, task_id: str, error: str, strikes: int = 0, using: Any = None) -> bool:
    """Keep the last error with a row that will be sent again, and add strikes.

    False if it is done, or running.
    """
    return bool(
        fetch(
            "UPDATE celeriac_outbox SET error = coalesce(nullif(%s, ''), error),"
            " strikes = greatest(strikes + %s, 0) WHERE seq = (SELECT seq FROM celeriac_outbox"
            " WHERE seq = %s AND task_id = %s FOR UPDATE SKIP LOCKED) RETURNING 1",
            [error[-ERROR_CHARACTERS:], strikes, seq, task_id],
            using,
        )
    )


def drop(seq: int, task_id: str, using: Any = None) -> bool:
    """Forget a row that was revoked or has expired, unless it is running."""
    return bool(
        fetch(
            "DELETE FROM celeriac_outbox WHERE seq = (SELECT seq FROM celeriac_outbox"
            " WHERE seq = %s AND task_id = %s FOR UPDATE SKIP LOCKED) RETURNING 1",
            [seq, task_id],
            using,
        )
    )


def record(
    task_id: str, task: str, message: Message, reason: str, error: str, using: Any = None
) -> None:
    """Write the dead letter of a task that is not durable."""
    fetch(
        "INSERT INTO celeriac_dead"
        " (task_id, task, queue, message, durable, reason, error, deaths, died_at)"
        " VALUES (%s, %s, %s, %s, false, %s, %s, 1, clock_timestamp())" + UPSERT,
        [task_id, task, *message, reason, error[-ERROR_CHARACTERS:]],
        using,
    )


def trim(keep: int, using: Any = None) -> int:
    """Forget the oldest letters of tasks that are not durable beyond `keep`; returns how many."""
    return len(
        fetch(
            "DELETE FROM celeriac_dead WHERE NOT durable AND id <= (SELECT id FROM celeriac_dead"
            " WHERE NOT durable ORDER BY id DESC OFFSET %s LIMIT 1) RETURNING id",
            [keep],
            using,
        )
    )


def atomic() -> transaction.Atomic:
    return transaction.atomic(using=DATABASE)
