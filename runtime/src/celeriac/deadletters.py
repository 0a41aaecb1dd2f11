"""Dead letters: tasks that failed, are unknown, or could not be read, kept in PostgreSQL.

For every task of the app, durable or not. Fed by Celery's signals and by the keeper.
Guarantees: nothing here raises into the worker or holds it longer than some `TIMEOUT`
seconds; one letter per task id. A durable task's letter stays until someone replays or
discards it; of the others the last 100,000 are kept. Where a keeper runs (the worker's main
process) it writes, and goes on trying while the database is away; a pool child writes at once
and tries once.

Limits: the letter of a plain task is written after its failure, so a crash between the two
loses it. A durable task's row becomes its letter, so nothing is between.
"""

import base64
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from celery import Celery, current_app, signals

from celeriac import broker, chord, ledger
from celeriac.broker import DUE, HEADER, Message

logger = logging.getLogger("celeriac.deadletters")

TIMEOUT = 2

Write = Callable[[Any], None]
_later: Callable[[Write], None] | None = None


def connect() -> None:
    """Listen to Celery's signals in this process and its children."""
    signals.task_failure.connect(on_failure, weak=False)
    signals.task_unknown.connect(on_unknown, weak=False)
    signals.task_rejected.connect(on_rejected, weak=False)
    signals.task_revoked.connect(on_revoked, weak=False)


def connect_undecodable() -> None:
    """Hear of messages that cannot be decoded, for which Celery has no signal."""
    from celery.worker.consumer import Consumer

    on_decode_error = Consumer.on_decode_error

    def heard(self: Any, message: Any, exc: Exception) -> None:
        on_rejected(self, message, exc)
        on_decode_error(self, message, exc)

    Consumer.on_decode_error = heard


def hand_over(later: Callable[[Write], None] | None) -> None:
    """Let a keeper write from now on (None: nobody)."""
    global _later
    _later = later


def write(action: Write) -> None:
    """Run `action(connection)` soon, and never raise."""
    if _later is not None:
        _later(action)
        return
    connection = None
    try:
        # A session of its own: the task's may be broken, or inside a transaction.
        connection = ledger.own_connection(ledger.direct(), TIMEOUT)
        with connection.cursor() as cursor:
            cursor.execute(f"SET statement_timeout = '{TIMEOUT}s'")
        action(connection)
    except Exception:
        logger.exception("A dead letter could not be written")
    finally:
        if connection is not None:
            connection.close()


# -- from Celery's signals ---------------------------------------------------------------


def safely(receiver: Callable[..., None]) -> Callable[..., None]:
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            receiver(*args, **kwargs)
        except Exception:
            logger.exception("A dead letter could not be composed")

    return wrapped


@safely
def on_failure(
    sender: Any = None,
    task_id: str = "",
    exception: Any = None,
    args: Any = None,
    kwargs: Any = None,
    einfo: Any = None,
    **_: Any,
) -> None:
    """A task raised, was rejected, ran into its hard limit, or lost its child."""
    request = sender.request
    if request.id != task_id:  # Celery tells of a hard limit without a request
        request = _timed_out(task_id)
    if request is not None and request.is_eager:
        return
    error = str(getattr(einfo, "traceback", "") or "") or repr(exception)
    reason = type(exception).__name__[:32]
    seq = request.get(HEADER) if request is not None else None
    if seq is not None:
        write(lambda connection: bury(seq, task_id, reason, error, connection))
        return
    if request is not None:
        signature = sender.signature_from_request(request, retries=0)
    else:
        signature = sender.signature(args, kwargs)
    message = composed(sender.app, signature, task_id)
    name = sender.name
    write(lambda connection: ledger.record(task_id, name, message, reason, error, connection))


def bury(seq: int, task_id: str, reason: str, error: str, connection: Any) -> None:
    """Make a durable task's row its letter. Raises Busy while a doomed child still holds it."""
    if not ledger.bury(seq, task_id, reason, error, connection):
        busy_if_owed(seq, task_id, connection)


def strike(seq: int, task_id: str, error: str, connection: Any, strikes: int = 1) -> None:
    """Keep the error with a durable task's row, and count it. Raises Busy like `bury`."""
    if not ledger.note(seq, task_id, error, strikes, connection):
        busy_if_owed(seq, task_id, connection)


def busy_if_owed(seq: int, task_id: str, connection: Any) -> None:
    row = "SELECT 1 FROM celeriac_outbox WHERE seq = %s AND task_id = %s"
    if ledger.fetch(row, [seq, task_id], connection):
        raise Busy(f"task {task_id} still runs")


class Busy(Exception):
    """The row is locked by a task that is about to end; try again."""


_timing_out: dict[str, Any] = {}


@contextmanager
def timing_out(context: Any) -> Iterator[None]:
    """Know a request that Celery has forgotten by the time it tells of a hard limit."""
    _timing_out[context.id] = context
    try:
        yield
    finally:
        _timing_out.pop(context.id, None)


def _timed_out(task_id: str) -> Any:
    from celery.worker import state

    found = state.requests.get(task_id)
    return found._context if found is not None else _timing_out.get(task_id)


def composed(app: Celery, signature: Any, task_id: str) -> Message:
    """The message that calling this signature would send, as a plain task."""
    capture = broker.Capture(app)
    options = {k: v for k, v in signature.options.items() if k not in ("countdown", "eta")}
    options |= {"task_id": task_id, "producer": capture, "ignore_result": True}
    app.send_task(signature.task, signature.args, signature.kwargs, **options)
    if capture.message is None:
        raise RuntimeError(f"Celery sent no message for {signature.task}")
    return capture.message


@safely
def on_unknown(message: Any = None, name: str = "", **told: Any) -> None:
    """No task of that name: a durable one is sent again, it may be new to this worker only."""
    error = f"No task named {name!r} is known to this worker."
    unread(message, told.get("id", ""), name, "unknown", error)


@safely
def on_rejected(sender: Any = None, message: Any = None, exc: Any = None, **_: Any) -> None:
    """The message cannot be read as a task."""
    headers = message.headers or {}
    error = repr(exc) if exc else "The message does not look like a task."
    name = str(headers.get("task") or "")
    unread(message, str(headers.get("id") or message.delivery_tag), name, "rejected", error)


def unread(message: Any, task_id: str, name: str, reason: str, error: str) -> None:
    seq = (message.headers or {}).get(HEADER)
    if seq is not None:
        write(lambda connection: strike(seq, task_id, error, connection))
        return
    letter = raw(message)
    write(lambda connection: ledger.record(task_id, name, letter, reason, error, connection))


def raw(message: Any) -> Message:
    """A message just as it came, to be put back just so."""
    body = message.body if isinstance(message.body, bytes) else str(message.body).encode()
    queue = (message.delivery_info or {}).get("routing_key") or ""
    properties = dict(message.properties or {}) | {"body_encoding": "base64"}
    properties["delivery_info"] = {"exchange": "", "routing_key": queue}
    text = json.dumps(
        {
            "body": base64.b64encode(body).decode(),
            "content-encoding": message.content_encoding,
            "content-type": message.content_type,
            "headers": message.headers or {},
            "properties": properties,
        },
        default=str,
    )
    name = broker.list_name(current_app, queue, int(properties.get("priority") or 0))
    return Message(name, text)


@safely
def on_revoked(request: Any = None, **_: Any) -> None:
    """Revoked or expired: what was owed is not owed any more, unless a chord waits for it."""
    seq, task_id = request.get(HEADER), request.id
    if seq is not None and request.get(chord.HEADER):
        why = "Revoked or expired, but a chord waits for its result."
        write(lambda connection: bury(seq, task_id, "revoked", why, connection))
    elif seq is not None:
        write(lambda connection: ledger.drop(seq, task_id, connection))


# -- for people ------------------------------------------------------------------------------


def replay(letters: Iterable[Any]) -> int:
    """Send dead letters again, with all their retries; returns how many.

    A durable task goes back to the outbox in one transaction; a plain one is published and
    then forgotten, so a crash between the two leaves its letter.
    """
    count = 0
    for letter in letters:
        if letter.durable:
            count += bool(
                ledger.fetch(
                    "WITH letter AS (DELETE FROM celeriac_dead WHERE id = %s RETURNING *)"
                    " INSERT INTO celeriac_outbox"
                    " (task_id, task, queue, message, due_at, sends, created_at, error)"
                    " SELECT task_id, task, queue, %s, clock_timestamp(), 0, clock_timestamp(), ''"
                    " FROM letter RETURNING seq",
                    [letter.pk, fresh(letter.message)],
                )
            )
        else:
            broker.push(current_app, [(letter.queue, fresh(letter.message), None)])
            count += bool(letter.delete()[0])
    return count


def fresh(text: str) -> str:
    """The message as at its first attempt, due now."""
    message = json.loads(text)
    message["headers"][DUE] = time.time()
    if "retries" in message["headers"]:
        message["headers"]["retries"] = 0
    return json.dumps(message)
