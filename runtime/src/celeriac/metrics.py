"""The exporter for Prometheus: queues, workers, outbox, dead letters, Beat and tasks.

    python -m celeriac.metrics --app config [--listen 127.0.0.1:9808] [--queues orders,mail]

Everything is asked for at the scrape: Redis for the queues, PostgreSQL for the rest. What does
not answer says `celeriac_source_up{source="…"} 0`, and the other source's figures stay. The
counters are rows of PostgreSQL, so they survive restarts of the exporter, of the workers and of
the hosts; any exporter shows the same, so one is enough for an app.

A project without "celeriac" in INSTALLED_APPS gets its queues only. Under systemd it says READY
when it listens, feeds the watchdog, and ends with status 0 on SIGTERM.

Limits: queues are those of `--queues`, of the app's settings and of its workers, 200
at most in this order; what is left out is counted. Tasks are
those that a worker has known; dead letters beyond the most frequent pairs of reason and task
are counted as "(other)".
"""

import argparse
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from socket import AF_INET, AF_INET6
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from celery import Celery
from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from celeriac import figures, notify
from celeriac.history import BUCKETS
from celeriac.worker import has_tables

logger = logging.getLogger("celeriac.metrics")

LISTEN = "127.0.0.1:9808"
TIMEOUT = 5
WAKE_SECONDS = 5.0


def gauge(name: str, about: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"celeriac_{name}", about, labels=labels)


class Server(ThreadingMixIn, WSGIServer):
    """Beside the one of another release, so that a deploy refuses no scrape."""

    allow_reuse_port = True
    daemon_threads = True
    block_on_close = False


class Quiet(WSGIRequestHandler):
    """Logs no scrape."""

    timeout = 30

    def log_message(self, *_: Any) -> None:
        return


def serve(host: str, port: int, registry: CollectorRegistry) -> Server:
    """Listen, and answer in threads from now on."""

    class Family(Server):
        address_family = AF_INET6 if ":" in host else AF_INET

    server = make_server(host, port, make_wsgi_app(registry), Family, Quiet)
    threading.Thread(target=server.serve_forever, args=(0.2,), daemon=True).start()
    return server


class Exporter(Collector):
    """Collects all metrics of one app; scrapes take turns."""

    def __init__(self, app: Celery, queues: Iterable[str] = ()) -> None:
        self.app, self.wanted = app, set(queues)
        self.names = self.wanted | figures.configured_queues(app)
        self.turn = threading.Lock()
        self.troubles: dict[str, str] = {}

    def describe(self) -> list[Metric]:
        return []  # so that registering it asks nothing

    def collect(self) -> Iterator[Metric]:
        """PostgreSQL first: it knows which queues there are."""
        sources: list[tuple[str, Callable[[], Iterator[Metric]]]] = [("redis", self.from_redis)]
        if has_tables():
            sources.insert(0, ("postgresql", self.from_postgresql))
        up = gauge("source_up", "Whether the source answered this scrape.", "source")
        took = gauge("source_seconds", "How long the source took for this scrape.", "source")
        with self.turn:
            for name, ask in sources:
                started = time.monotonic()
                try:
                    found = list(ask())
                except Exception as error:
                    self.trouble(name, f"{type(error).__name__}: {error}".strip())
                    up.add_metric([name], 0)
                else:
                    self.trouble(name, "")
                    up.add_metric([name], 1)
                    yield from found
                took.add_metric([name], time.monotonic() - started)
        yield up
        yield took

    def trouble(self, source: str, text: str) -> None:
        """Log what changed, not every scrape."""
        if text != self.troubles.get(source, ""):
            self.troubles[source] = text
            logger.warning("%s: %s", source, text or "answers again")

    # -- Redis ---------------------------------------------------------------------------

    def from_redis(self) -> Iterator[Metric]:
        depth = gauge("queue_messages", "Messages that wait, of all priorities.", "queue")
        oldest = gauge(
            "queue_oldest_message_age_seconds",
            "How long the first message has been due; absent where it does not say.",
            "queue",
        )
        names, left_out = figures.chosen_queues(self.names, self.wanted)
        for queue in figures.queues(self.app, names):
            depth.add_metric([queue.name], queue.depth)
            if queue.oldest is not None or not queue.depth:
                oldest.add_metric([queue.name], queue.oldest or 0)
        unacked = gauge("unacked_messages", "Messages taken by workers and not acknowledged.")
        unacked.add_metric([], figures.unacked(self.app))
        beyond = gauge("queues_left_out", "Queues that are not shown, for there are too many.")
        beyond.add_metric([], left_out)
        yield from (depth, oldest, unacked, beyond)

    # -- PostgreSQL ----------------------------------------------------------------------

    def from_postgresql(self) -> Iterator[Metric]:
        from celeriac.ledger import DATABASE, own_connection

        session = own_connection(DATABASE, TIMEOUT)
        try:
            with session.cursor() as cursor:
                cursor.execute("SET application_name = 'celeriac-metrics'")
                cursor.execute(f"SET statement_timeout = '{TIMEOUT}s'")
            self.names = self.wanted | figures.queue_names(self.app, session)
            yield from self.workers(session)
            yield from self.owed(session)
            yield from self.dead(session)
            yield from self.beat(session)
            yield from self.tasks(session)
        finally:
            session.close()

    def workers(self, session: Any) -> Iterator[Metric]:
        alive = [worker for worker in figures.workers(session) if worker.alive]
        count = gauge("workers", "Workers that are alive.")
        count.add_metric([], len(alive))
        about = gauge(
            "worker_info", "A worker that is alive; 1.", "worker", "pool", "release", "queues"
        )
        slots = gauge("worker_slots", "Tasks that the worker can run at once.", "worker")
        running = gauge("worker_running_tasks", "Tasks that the worker runs.", "worker")
        seen = gauge("worker_last_seen_seconds", "Seconds since the worker last told.", "worker")
        consumers = gauge("queue_consumers", "Workers that consume the queue.", "queue")
        consumed = dict.fromkeys(self.names, 0)
        for name, group in by_name(alive).items():
            first = group[0]
            about.add_metric([name, first.pool, first.release, ",".join(first.queues)], 1)
            slots.add_metric([name], sum(worker.concurrency for worker in group))
            running.add_metric([name], sum(worker.running for worker in group))
            seen.add_metric([name], min(worker.seen for worker in group))
        for worker in alive:
            for queue in worker.queues:
                consumed[queue] = consumed.get(queue, 0) + 1
        for queue, number in sorted(consumed.items()):
            consumers.add_metric([queue], number)
        yield from (count, about, slots, running, seen, consumers)

    def owed(self, session: Any) -> Iterator[Metric]:
        owed = figures.owed(session)
        rows = gauge(
            "outbox_rows",
            "Durable tasks owed: due and not sent, waiting for their time, or sent.",
            "state",
        )
        for state in ("due", "waiting", "sent"):
            rows.add_metric([state], getattr(owed, state))
        oldest = gauge(
            "outbox_oldest_age_seconds", "How long the oldest of them has been due.", "state"
        )
        oldest.add_metric(["due"], owed.oldest_due or 0)
        oldest.add_metric(["sent"], owed.oldest_sent or 0)
        yield from (rows, oldest)

    def dead(self, session: Any) -> Iterator[Metric]:
        letters = gauge("dead_letters", "Dead letters that wait.", "reason", "task")
        for reason, task, number in figures.dead(session):
            letters.add_metric([reason, task], number)
        yield letters

    def beat(self, session: Any) -> Iterator[Metric]:
        beat = figures.beat(session, self.app)
        leaders = gauge("beat_leaders", "Beats that hold the lease; 1 is right.")
        leaders.add_metric([], len(beat.leaders))
        standbys = gauge("beat_standbys", "Beats that wait for the lease.")
        standbys.add_metric([], beat.standbys)
        info = gauge("beat_leader_info", "The Beat that holds the lease; 1.", "leader")
        for leader in beat.leaders:
            info.add_metric([leader], 1)
        tick = gauge("beat_last_tick_age_seconds", "Seconds since the leader last ticked.")
        if beat.ticked is not None:
            tick.add_metric([], beat.ticked)
        rivals = gauge(
            "beat_rivals", "Beats that have sent runs in turns in the last minutes; 0 is right."
        )
        rivals.add_metric([], beat.rivals)
        yield from (leaders, standbys, info, tick, rivals)

    def tasks(self, session: Any) -> Iterator[Metric]:
        ended = CounterMetricFamily(
            "celeriac_tasks", "Tasks that ended.", labels=("task", "queue", "outcome")
        )
        runtime = HistogramMetricFamily(
            "celeriac_task_runtime_seconds", "How long tasks ran.", labels=("task", "queue")
        )
        latency = HistogramMetricFamily(
            "celeriac_task_latency_seconds",
            "How late tasks started, after they were published or due.",
            labels=("task", "queue"),
        )
        for total in figures.totals(session):
            labels = [total.task, total.queue]
            for outcome, number in total.outcomes.items():
                ended.add_metric([*labels, outcome], number)
            runtime.add_metric(labels, cumulative(total.runtime), total.runtime_sum)
            latency.add_metric(labels, cumulative(total.latency), total.latency_sum)
        yield from (ended, runtime, latency)


def cumulative(counts: list[int]) -> list[tuple[str, float]]:
    bounds = [f"{bound:g}" for bound in BUCKETS] + ["+Inf"]
    return list(zip(bounds, map(float, accumulate(counts)), strict=True))


def by_name(workers: list[figures.Worker]) -> dict[str, list[figures.Worker]]:
    """Workers by their node name, which two of them may share for a moment."""
    found: dict[str, list[figures.Worker]] = {}
    for worker in workers:
        found.setdefault(worker.name, []).append(worker)
    return found


def address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 <= int(port) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is no host:port, such as {LISTEN}")
    return host.strip("[]"), int(port)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m celeriac.metrics")
    parser.add_argument("--app", required=True, help="the Celery app, as in `celery -A`")
    parser.add_argument("--listen", type=address, default=LISTEN, help=f"default {LISTEN}")
    parser.add_argument("--queues", default="", help="queues to show also while they are empty")
    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s")

    from celeriac.check import load

    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    app = load(options.app)
    registry = CollectorRegistry()
    registry.register(Exporter(app, filter(None, options.queues.split(","))))
    ProcessCollector(registry=registry)
    server = serve(*options.listen, registry)
    notify.send("READY=1", f"STATUS=listening on {options.listen[0]}:{server.server_port}")
    while not stopping.wait(WAKE_SECONDS):
        notify.send("WATCHDOG=1")
    notify.send("STOPPING=1", "STATUS=stopping")
    server.shutdown()
    server.server_close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
