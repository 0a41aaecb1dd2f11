"""Durable tasks: `celeriac.Task` owes each call as a row in PostgreSQL until its effect is there.

Guarantees, for tasks whose effect is in the same database:

- `delay()` and `apply_async()` write one row in the caller's transaction; a rollback takes
  the task with it. The message is published after the commit; a broker that is away costs
  nothing but time.
- The task runs in one transaction that also removes its row, and writes the rows of the
  tasks that follow it (chain, link, chord). The row's lock is the lease: a copy of the message
  finds the row gone or locked, and is dropped. So the effect is committed exactly once.
- A worker or child that dies gives up its lock with its connection; the keeper sends the
  task again within seconds, however long the visibility timeout is.
- A task under which a process died `max_sends` times becomes a dead letter (see quarantine.py),
  as does one that raised. A task that died with its neighbour, or with its worker, does not.

Limits: effects outside the database happen at least once, and never at the same time while
the worker's session with PostgreSQL lives; hand the task's id on as idempotency key. Results
in a result backend and error callbacks are Celery's own and may be lost. Only calls through
the task are durable, not `app.send_task("name")`.
"""

import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from typing import Any

from celery.canvas import _chain, _chord, group, maybe_signature
from celery.contrib.django.task import DjangoTask
from celery.exceptions import Ignore, ImproperlyConfigured, Retry
from celery.result import AsyncResult
from celery.utils import uuid
from celery.utils.saferepr import saferepr
from celery.utils.time import maybe_iso8601, maybe_make_aware
from django.db import InterfaceError, OperationalError, transaction

from celeriac import broker, chord, ledger
from celeriac.broker import HEADER, STRIKES, Message
from celeriac.quarantine import Busy, gate

logger = logging.getLogger("celeriac.durable")

POSTPONE_SECONDS = 5.0

CLOSED = (
    "{task} closed the connection of its own transaction, so nothing it did is committed. Leave "
    "out connection.close(), or give the task atomic=False."
)


class Task(DjangoTask):
    """Base class of durable tasks; `durable=False` turns it off for a task or for one call."""

    abstract = True
    Request = "celeriac.request:Request"

    durable = True
    """Whether calls go through the outbox."""

    atomic = True
    """Run in one transaction with the removal of the row. False, for tasks that take hours or
    need transactions of their own: the row goes after the task, so its effects may repeat
    after a crash, but never run twice at the same time."""

    max_sends = 6
    """How many strikes make the task a dead letter, retries apart: deaths of its process, and
    deadlocks, timeouts and lost races in PostgreSQL. Under gevent one more."""

    async_commit = False
    """Commit without waiting for PostgreSQL's disk: after a crash of the database the last
    moments' effects and removals are lost together, and these tasks run again."""

    # -- the caller --------------------------------------------------------------------

    def apply_async(
        self,
        args: Any = None,
        kwargs: Any = None,
        task_id: str | None = None,
        producer: Any = None,
        link: Any = None,
        link_error: Any = None,
        shadow: str | None = None,
        countdown: float | None = None,
        eta: Any = None,
        durable: bool | None = None,
        **options: Any,
    ) -> Any:
        """Owe the task; everything Celery's own `apply_async` takes, and `durable`."""
        app = self._get_app()
        owed = self.durable if durable is None else durable
        if not owed or app.conf.task_always_eager:
            # Before the commit nobody could see what the task is about.
            return super().apply_async(
                args,
                kwargs,
                task_id=task_id,
                producer=producer,
                link=link,
                link_error=link_error,
                shadow=shadow,
                countdown=countdown,
                eta=eta,
                **options,
            )
        if options.get("chord"):
            raise ImproperlyConfigured(chord.REFUSED.format(culprit=self.name))
        broker.require_redis(app)
        task_id = task_id or uuid()
        due_at = self.due(countdown, eta)
        options |= {"link": link, "link_error": link_error, "shadow": shadow}
        message, result = self.message(args, kwargs, task_id, due_at, **options)
        request = self.request
        if (
            request.get(HEADER) is not None
            and request.id == task_id
            and options.get("retries", 0) > request.retries
        ):
            request.celeriac_retry = message, due_at  # written when this attempt is rolled back
            return result
        sent = due_at is None and broker.reachable()
        seq = ledger.insert(task_id, self.name, message, due_at, sent)
        if sent:
            transaction.on_commit(
                lambda: self.publish(message, seq), using=ledger.DATABASE, robust=True
            )
        return result

    def delay_on_commit(self, *args: Any, **kwargs: Any) -> Any:
        """The same as `delay`: the row is part of the transaction already."""
        return self.apply_async_on_commit(args, kwargs)

    def apply_async_on_commit(self, *args: Any, **kwargs: Any) -> Any:
        """The same as `apply_async`, except for tasks that are not durable."""
        if not kwargs.get("durable", self.durable):
            return super().apply_async_on_commit(*args, **kwargs)
        return self.apply_async(*args, **kwargs)

    def message(
        self,
        args: Any,
        kwargs: Any,
        task_id: str,
        due_at: datetime | None = None,
        **options: Any,
    ) -> tuple[Message, AsyncResult]:
        """What Celery would send for this call, without sending it."""
        app = self._get_app()
        capture = broker.Capture(app, due_at)
        ignored = options.pop("ignore_result", None)
        ignored = self.ignore_result if ignored is None else ignored
        headers = (options.pop("headers", None) or {}) | {"ignore_result": ignored}
        options.pop("connection", None)
        # Told to ignore the result, Celery asks no result backend now; the header says the rest.
        result = super().apply_async(
            args,
            kwargs,
            task_id=task_id,
            producer=capture,
            ignore_result=True,
            headers=headers,
            **options,
        )
        result.ignored = ignored
        if capture.message is None:
            raise RuntimeError(f"Celery sent no message for {self.name}")
        return capture.message, result

    def due(self, countdown: float | None, eta: Any) -> datetime | None:
        """When the task may start; None for at once."""
        app = self._get_app()
        if countdown:
            return app.now() + timedelta(seconds=countdown)
        return maybe_make_aware(maybe_iso8601(eta), app.timezone) if eta else None

    def publish(self, message: Message, seq: int) -> None:
        problem = broker.publish(self._get_app(), message, seq)
        if problem:
            logger.warning("%s stays in the outbox for now: %s", self.name, problem)

    # -- the worker ----------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        request = self.request
        if request.called_directly:
            return super().__call__(*args, **kwargs)
        seq = request.get(HEADER)
        if request.is_eager or seq is None:
            return self.run(*args, **kwargs)
        run = self.run_in_transaction if self.atomic else self.run_under_lock
        with self.owed_if_the_database_fails(seq), self.passing_the_gate(seq):
            try:
                return run(seq, args, kwargs)
            except Retry:
                if stash := request.get("celeriac_retry"):
                    ledger.reschedule(seq, request.id, *stash)
                raise

    @contextmanager
    def passing_the_gate(self, seq: int) -> Iterator[None]:
        """Run beside others or, after a strike, alone. What does not get in is sent later."""
        limit = (self.request.timelimit or (None, None))[0] or self.time_limit
        try:
            with gate.passing(seq, bool(self.request.get(STRIKES)), limit and limit / 2):
                yield
        except Busy as error:
            ledger.postpone(seq, self.request.id, POSTPONE_SECONDS)
            raise Ignore("another task has to run alone in this process") from error

    def count_start(self, seq: int) -> None:
        """Give what is sent again its strike before it starts; nobody could after its death."""
        if self.strikes_before_start():
            ledger.note(seq, self.request.id, "its process died under it, silently", strikes=1)

    def strikes_before_start(self) -> bool:
        return gate.shared_process and self.request.get(STRIKES) is not None

    @contextmanager
    def owed_if_the_database_fails(self, seq: int) -> Iterator[None]:
        """PostgreSQL went away, or gave up on this transaction: the keeper sends the row again."""
        try:
            yield
        except (OperationalError, InterfaceError) as error:
            logger.warning("%s[%s] will be sent again: %s", self.name, self.request.id, error)
            strikes = is_its_own_fault(error) - self.strikes_before_start()
            with suppress(OperationalError, InterfaceError):
                why = f"{type(error).__name__}: {error}"
                ledger.note(seq, self.request.id, why, strikes)
            raise Ignore(str(error)) from error

    def run_in_transaction(self, seq: int, args: Any, kwargs: Any) -> Any:
        """Effect, removal and what follows, in one transaction."""
        ignored = None
        self.count_start(seq)
        with ledger.atomic():
            if not ledger.take(seq, self.request.id, self.async_commit):
                raise Ignore("a copy: done already, or running elsewhere")
            try:
                result = self.run(*args, **kwargs)
            except Ignore as done:
                ignored = done
            if ledger.connection().closed_in_transaction:
                raise RuntimeError(CLOSED.format(task=self.name))
            if ignored is None:
                self.follow(result)
            else:
                self.refuse_to_lose_a_part()
            self.retry_later()
        if ignored is not None:
            raise ignored
        return result

    def run_under_lock(self, seq: int, args: Any, kwargs: Any) -> Any:
        """The task first, then its removal and what follows, in one transaction."""
        ignored = None
        with ledger.lock(seq, self.request.id) as locked:
            if not locked:
                raise Ignore("a copy: done already, or running elsewhere")
            self.count_start(seq)
            try:
                result = self.run(*args, **kwargs)
            except Ignore as done:
                ignored = done
            with ledger.atomic():
                if ledger.take(seq, self.request.id, self.async_commit):
                    if ignored is None:
                        self.follow(result)
                    else:
                        self.refuse_to_lose_a_part()
                    self.retry_later()
        if ignored is not None:
            raise ignored
        return result

    def retry_later(self) -> None:
        """After `retry(throw=False)`: the effect stays, and the task is owed again."""
        if stash := self.request.get("celeriac_retry"):
            message, due_at = stash
            ledger.insert(self.request.id, self.name, message, due_at, sent=False)

    def follow(self, result: Any) -> None:
        """Owe the links and the next step of the chain, so that Celery need not."""
        request, app = self.request, self._get_app()
        options: dict[str, Any] = {
            "parent_id": request.id,
            "root_id": request.root_id or request.id,
        }
        if app.conf.task_inherit_parent_priority:
            options["priority"] = (request.delivery_info or {}).get("priority")
        for callback in request.callbacks or ():
            self.apply_next(maybe_signature(callback, app=app), result, options)
        if request.chain:
            *rest, following = request.chain
            self.apply_next(maybe_signature(following, app=app), result, options | {"chain": rest})
        request.callbacks = request.chain = None
        if part := request.get(chord.HEADER):
            chord.finish(app, *part, result)

    def refuse_to_lose_a_part(self) -> None:
        if part := self.request.get(chord.HEADER):
            raise RuntimeError(chord.LOST.format(task=self.name, chord=part[0]))

    def apply_next(self, signature: Any, result: Any, options: dict[str, Any]) -> None:
        if is_durable(self._get_app(), signature):
            signature.apply_async((result,), **options)
        else:
            transaction.on_commit(
                lambda: signature.apply_async((result,), **options), using=ledger.DATABASE
            )


def is_its_own_fault(error: Exception) -> bool:
    """Whether PostgreSQL refused this transaction (a deadlock, a lost race, a timeout of a lock
    or statement), and not everybody's."""
    cause = error.__cause__
    state = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None) or ""
    return state[:2] in ("40", "55") or state == "57014"


def is_durable(app: Any, signature: Any) -> bool:
    """Whether calling the signature writes rows only."""
    signature = maybe_signature(signature, app=app)
    if isinstance(signature, _chain):
        return bool(signature.tasks) and is_durable(app, signature.tasks[0])
    if isinstance(signature, group):
        return all(is_durable(app, part) for part in signature.tasks)
    if isinstance(signature, _chord):
        return all(is_durable(app, part) for part in (*signature.tasks, signature.body))
    task = app.tasks.get(signature.task)
    return bool(isinstance(task, Task) and signature.options.get("durable", task.durable))


def enqueue_many(task: Task, rows: Iterable[Any], batch: int = 1000) -> list[str]:
    """Owe the task once per row, a tuple of arguments or a dict of keyword arguments.

    Returns the ids. Several times faster than `delay` in a loop; the keeper sends the
    messages after the commit. Signals and headers of publishing are those of the first row.
    """
    app = task._get_app()
    calls = [((), row) if isinstance(row, dict) else (tuple(row), {}) for row in rows]
    if app.conf.task_always_eager or not task.durable:
        return [task.apply_async(args, kwargs).id for args, kwargs in calls]
    broker.require_redis(app)
    ids = [uuid() for _ in calls]
    for start in range(0, len(calls), batch):
        messages = similar(task, calls[start : start + batch], ids[start : start + batch])
        ledger.insert_many(task.name, ids[start : start + batch], messages)
    return ids


def similar(task: Task, calls: list[Any], ids: list[str]) -> list[Message]:
    """The messages of calls that differ only in their arguments."""
    app = task._get_app()
    first, _ = task.message(*calls[0], ids[0])
    parent = app.current_worker_task
    template = json.loads(first.text)
    options = task._get_exec_options()
    serializer = options.get("serializer") or app.conf.task_serializer
    compression = options.get("compression") or app.conf.task_compression
    embed = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    messages = [first]
    for (args, kwargs), task_id in zip(calls[1:], ids[1:], strict=True):
        if task.typing:
            task.__header__(*args, **kwargs)
        headers = template["headers"] | {
            "id": task_id,
            "argsrepr": saferepr(args, app.amqp.argsrepr_maxsize),
            "kwargsrepr": saferepr(kwargs, app.amqp.kwargsrepr_maxsize),
        }
        if parent is None:
            headers["root_id"] = task_id
        properties = template["properties"] | {"correlation_id": task_id}
        queue = properties["delivery_info"]["routing_key"]
        messages.append(
            broker.compose(
                app, queue, (args, kwargs, embed), headers, properties, serializer, compression
            )
        )
    return messages


chord.install()
