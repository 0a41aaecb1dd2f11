"""Run a Celery worker under `Type=notify`: attach with `--include celeriac.worker`.

Guarantees (Redis and AMQP transports; prefork, gevent, threads and solo pools):

- READY=1 is sent by the main process when its loop consumes, never by a pool child.
- WATCHDOG=1 goes on while the loop turns, also while the broker is away and while
  draining; it stops when the loop is stuck or no longer consumes.
- SIGTERM drains: stop consuming, wait until running tasks are acknowledged, then let
  Celery stop. What was prefetched or waits for its ETA goes back to the broker.
- At CELERIAC_DRAIN_TIMEOUT seconds a prefork worker sends itself SIGQUIT, and its
  running `acks_late` tasks return to the queue at once.
- A task that runs out of memory (MemoryError) fails; it does not stop the worker.
- A task that has ended while the broker was away is not taken for one that runs too long.

Limits: other pools have no safe way to cancel a task, so they wait for systemd's
SIGKILL, and their running tasks return after the broker's visibility timeout. When
the broker is away nothing can be acknowledged: Celery stops at once and unfinished
`acks_late` tasks run again. A solo worker is not watched while it runs a task.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any

from celery import signals
from celery.exceptions import ImproperlyConfigured
from celery.worker import state
from celery.worker.consumer import consumer as consumer_module

from celeriac import connections, inspection, logs, notify  # noqa: F401 - inspection replaces an answer

QUIET_SECONDS = 0.3
POLL_SECONDS = 0.1
FULL_POLL_SECONDS = 0.02
LOOK_SECONDS = 1.0


def seconds_from_env(name: str, default: float | None) -> float | None:
    """Read a positive number of seconds from the environment, or `default` if unset."""
    value = os.environ.get(name, "").strip()
    if not value:
        return default
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0
    if not 0 < seconds < float("inf"):
        raise ImproperlyConfigured(
            f"{name}={value!r} is not a positive number of seconds. Write for example {name}=60."
        )
    return seconds


DRAIN_SECONDS = seconds_from_env("CELERIAC_DRAIN_TIMEOUT", None)
LOOP_SECONDS = seconds_from_env("CELERIAC_LOOP_TIMEOUT", 40.0) or 40.0


def native(module: str, name: str) -> Callable[..., Any]:
    """The function as it was before gevent patched it."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None:
        return monkey.get_original(module, name)
    return getattr(import_module(module), name)


def tasks(count: int) -> str:
    return f"{count} task{'' if count == 1 else 's'} running"


def has_tables() -> bool:
    """Whether the project has opted in to durable tasks and dead letters."""
    if "django" not in sys.modules:
        return False
    from django.apps import apps

    return apps.ready and apps.is_installed("celeriac")


class OutOfMemory(Exception):
    """A task's MemoryError."""


def survive_memory_errors() -> None:
    """Take a task's MemoryError for its failure; Celery takes it for the worker's own and exits."""
    from billiard.einfo import ExceptionWithTraceback
    from celery.worker.request import Request

    on_failure = Request.on_failure

    def survive(self: Any, exc_info: Any, *args: Any, **kwargs: Any) -> Any:
        error = exc_info.exception
        if isinstance(error, ExceptionWithTraceback):
            error = error.exc
        if isinstance(error, MemoryError):
            exc_info.exception = OutOfMemory(*error.args)
        return on_failure(self, exc_info, *args, **kwargs)

    Request.on_failure = survive


def look_before_time_limits() -> None:
    """Read what children have done before a hard time limit falls, LOOK_SECONDS later at most.

    While a broker is away the loop stands still. Then a task that has ended long ago would be
    taken for one that never does, as the loop's timers come before its pipes.
    """
    from celery.concurrency.asynpool import AsynPool
    from kombu.asynchronous import get_event_loop

    fall = AsynPool._on_hard_timeout

    def look_first(self: Any, job: int) -> None:
        if job in self._cache:
            get_event_loop().call_later(LOOK_SECONDS, fall, self, job)
        else:
            fall(self, job)

    AsynPool._on_hard_timeout = look_first


class Supervisor:
    """Follows one worker from its first consuming pass to its exit.

    `on_pass` runs in the consumer's loop; `watch` runs in a native thread and touches
    nothing but counters, so that a stuck loop cannot stop it and it cannot hold a lock
    across a fork of the pool.
    """

    def __init__(self, consumer: Any) -> None:
        self.consumer = consumer
        self.pid = os.getpid()
        self.pool = type(consumer.pool).__module__.rpartition(".")[2]
        self.queues = sorted(consumer.app.amqp.queues.consume_from)
        self.ready = False
        self.turned_at = self.consumed_at = time.monotonic()
        self.asked_at: float | None = None
        self.term_at: float | None = None
        self.cancelled = False
        self.quiet_at: float | None = None
        self.handed_over = False
        self.gave_up = ""
        self.celery_term: Any = None
        self.shortened: Any = None

    def install(self) -> None:
        """Take over SIGTERM, hook the loop, and start watching."""
        self.celery_term = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, self.on_term)
        check_flags = state.maybe_shutdown

        def maybe_shutdown() -> None:
            check_flags()
            if os.getpid() == self.pid:
                self.on_pass()
                check_flags()

        # Celery calls it once per pass of either loop, and every second while reconnecting.
        state.maybe_shutdown = consumer_module.maybe_shutdown = maybe_shutdown
        native("_thread", "start_new_thread")(self.watch, ())

    # -- in the consumer's loop ------------------------------------------------------

    def on_pass(self) -> None:
        """One pass of the loop: stamp it, say READY at the first, and move a drain on."""
        self.turned_at = time.monotonic()
        if self.consumes():
            self.consumed_at = self.turned_at
        self.keep_turning()
        if not self.ready:
            self.ready = True
            notify.send("READY=1", f"STATUS={self.status()}")
        if self.term_at is not None and not self.handed_over:
            self.drain()

    def consumes(self) -> bool:
        """Whether this pass shows that messages can still arrive (or are not wanted)."""
        channel = getattr(self.consumer.task_consumer, "channel", None)
        if self.consumer.connection is None or not hasattr(channel, "_in_poll"):
            return True
        last, self.asked_at = self.asked_at, channel._brpop_sent_at
        return bool(
            channel._in_poll
            or last != self.asked_at
            or not channel.active_queues
            or not channel.qos.can_consume()
        )

    def keep_turning(self) -> None:
        """Shorten gevent's poll of 2 s while it waits for a free slot or drains.

        A slot that frees up does not wake that poll, so a full pool would fetch its next
        tasks only every 2 s.
        """
        connection = self.consumer.connection
        if self.consumer.hub or connection is None or connection is self.shortened:
            return
        self.shortened = connection
        drain_events = connection.drain_events

        def short_when_full(timeout: float | None = None) -> Any:
            qos = getattr(getattr(self.consumer.task_consumer, "channel", None), "qos", None)
            if self.term_at is not None:
                timeout = POLL_SECONDS
            elif hasattr(qos, "can_consume") and not qos.can_consume():
                timeout = FULL_POLL_SECONDS
            return drain_events(timeout=timeout)

        connection.drain_events = short_when_full

    def drain(self) -> None:
        """Stop consuming, then hand over to Celery once nothing runs or waits for its ack.

        Waiting here, in the loop, is what lets the last acks out: a TERM straight after
        the cancel now and then repeats a task that had just finished.
        """
        if self.consumer.connection is None or self.consumer.task_consumer is None:
            self.hand_over()
            return
        if not self.cancelled:
            self.cancelled = True
            self.stop_consuming()
        channel = getattr(self.consumer.task_consumer, "channel", None)
        if getattr(channel, "_in_poll", None) or self.dispatched():
            self.quiet_at = None
        elif self.quiet_at is None:
            self.quiet_at = time.monotonic()
        elif time.monotonic() - self.quiet_at >= QUIET_SECONDS:
            self.hand_over()

    def dispatched(self) -> bool:
        """Whether the pool still has a task, or its ack is still to be sent."""
        requests = set(state.reserved_requests) | set(state.active_requests)
        return any(r._apply_result is not None or r.time_start for r in requests)

    def stop_consuming(self) -> None:
        """Cancel every queue, start nothing that only waits, and make the loop turn fast."""
        consumer = self.consumer
        queues = consumer.app.amqp.queues
        for name in list(queues.consume_from):
            queue = queues.aliases.get(name, name)
            queues.deselect(name)  # so that a reconnect does not consume again
            with suppress(*consumer.connection_errors, *consumer.channel_errors):
                consumer.task_consumer.cancel_by_queue(queue)
        for request in list(state.scheduled_requests):
            if request._eta_timer_entry is not None:
                consumer.timer.cancel(request._eta_timer_entry)
        for bucket in consumer.task_buckets.values():
            if bucket:
                bucket.clear_pending()
        if consumer.controller.semaphore:
            consumer.controller.semaphore.clear()  # those waiting for a free child stay unacked
        if consumer.hub:
            consumer.timer.call_repeatedly(POLL_SECONDS, lambda: None)

    def hand_over(self) -> None:
        """Run the TERM handler that Celery had installed."""
        self.handed_over = True
        notify.send("STATUS=stopping")
        if callable(self.celery_term):
            self.celery_term(signal.SIGTERM, None)
        else:
            state.should_stop = 0

    # -- in the signal handler ---------------------------------------------------------

    def on_term(self, *_: Any) -> None:
        """Begin the drain; a second SIGTERM changes nothing."""
        if os.getpid() == self.pid and self.term_at is None:
            self.term_at = time.monotonic()
            notify.send("STOPPING=1", f"STATUS={self.status()}")

    # -- in the watching thread ----------------------------------------------------------

    def watch(self) -> None:
        """Ping the watchdog, keep STATUS current, and enforce the drain's deadline."""
        sleep = native("time", "sleep")
        limit = notify.watchdog_seconds()
        period = min(1.0, limit / 4) if limit else 1.0
        last = ""
        while True:
            sleep(period)
            if not self.ready:
                continue
            lines = []
            if limit and self.alive():
                lines.append("WATCHDOG=1")
            if (status := self.status()) != last:
                lines.append(f"STATUS={status}")
                last = status
            if lines:
                notify.send(*lines)
            if DRAIN_SECONDS and self.term_at and not self.gave_up:
                self.enforce(DRAIN_SECONDS)

    def alive(self) -> bool:
        """Whether the loop has turned and could consume within CELERIAC_LOOP_TIMEOUT."""
        if self.term_at is not None or (self.pool == "solo" and len(state.active_requests)):
            return True
        return time.monotonic() - min(self.turned_at, self.consumed_at) < LOOP_SECONDS

    def enforce(self, limit: float) -> None:
        """At the deadline, return prefork's tasks to the broker; other pools cannot."""
        if self.term_at is None or time.monotonic() - self.term_at < limit:
            return
        count = len(state.active_requests)
        after = (
            "returning them" if self.pool == "prefork" else "after the visibility timeout they go"
        )
        self.gave_up = f"drain limit of {limit:g} s passed, {tasks(count)}: {after} to the queue"
        notify.send(f"STATUS={self.gave_up}")
        os.write(2, f"celeriac: {self.gave_up}\n".encode())
        if self.pool == "prefork":
            os.kill(self.pid, signal.SIGQUIT)

    # -- for people ------------------------------------------------------------------------

    def status(self) -> str:
        """One line for `systemctl status`."""
        running = tasks(len(state.active_requests))
        if self.gave_up:
            return self.gave_up
        if self.handed_over:
            return "stopping"
        if self.term_at is not None:
            return f"draining: {running}"
        if self.consumer.connection is None:
            return f"waiting for the broker: {running}"
        return f"consuming {', '.join(self.queues)}"


@signals.worker_init.connect(weak=False)
def announce(sender: Any, **_: Any) -> None:
    """Say why the unit is still starting, and keep database connections across tasks."""
    connections.attach(sender)
    logs.connect()
    survive_memory_errors()
    look_before_time_limits()
    notify.send("STATUS=starting: connecting to the broker")
    if has_tables():
        from celeriac import deadletters, history

        deadletters.connect_undecodable()
        history.connect_requests()


@signals.worker_ready.connect(weak=False)
def supervise(sender: Any, **_: Any) -> None:
    """Start supervising, and looking after durable tasks, when the worker has subscribed."""
    Supervisor(sender).install()
    if has_tables():
        from celeriac.keeper import Keeper

        Keeper(sender.app, sender.hostname, sender).start()
