"""Celery workers as their units run them: readiness, watchdog, drain."""

import os
import signal
import time
from types import SimpleNamespace

import pytest
from conftest import wait_for

from celeriac.worker import Supervisor

WORK = "jobs.tasks.work"


def totals(broker, key):
    """How often each task left the mark `key`."""
    return {int(number): int(count) for number, count in broker.marks.hgetall(key).items()}


@pytest.mark.spec("D6.3.1", "D7.1.1", "D6.1.1", "D7.2.1")
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_is_ready_when_it_consumes_and_stops_on_sigterm(worker, send, broker, pool):
    service = worker(pool)
    send(WORK, 1)
    service.ready()
    assert "STATUS=consuming default" in service.manager.all("STATUS")
    wait_for(lambda: totals(broker, "done") == {1: 1}, 5, "the task")
    service.term()
    started = time.monotonic()
    assert service.wait() == 0, service.log()
    assert time.monotonic() - started < 8
    assert service.manager.all("STOPPING") == ["STOPPING=1"]
    assert service.manager.pids() == {service.pid}, "a pool child notified"


def test_is_not_ready_before_the_broker_answers(worker, broker):
    broker.stop()
    service = worker()
    wait_for(lambda: "Cannot connect" in service.log(), 15)
    time.sleep(1)
    assert service.manager.all("READY") == []
    broker.start()
    service.ready()


def test_runs_without_systemd(worker, send, broker):
    service = worker("solo", NOTIFY_SOCKET="")
    wait_for(lambda: "ready." in service.log(), 15)
    send(WORK, 1)
    wait_for(lambda: totals(broker, "done") == {1: 1}, 5)
    service.term()
    assert service.wait() == 0


def test_a_bad_drain_timeout_is_refused_by_name(worker):
    service = worker(CELERIAC_DRAIN_TIMEOUT="1 minute")
    assert service.wait() != 0
    assert "CELERIAC_DRAIN_TIMEOUT='1 minute' is not a positive number" in service.log()
    assert service.manager.all("READY") == []


@pytest.mark.spec("D6.3.4", "G11.1")
@pytest.mark.parametrize(("pool", "prefetch"), [("prefork", 1), ("prefork", 4), ("gevent", 1)])
def test_a_drain_of_a_saturated_queue_loses_and_doubles_nothing(
    worker, send, broker, pool, prefetch
):
    for number in range(240):
        send(WORK, number, 0.01 if number % 20 else 0.8)
    settings = {"CELERY_WORKER_PREFETCH_MULTIPLIER": prefetch}
    old = worker(pool, 4, settings=settings).ready()
    wait_for(lambda: len(totals(broker, "done")) >= 40, 15)
    old.term()
    time.sleep(0.05)
    old.term()  # a second one does no harm
    assert old.wait() == 0, old.log()
    assert old.manager.pids() == {old.pid}, "a pool child notified"
    assert broker.client.hlen("unacked") == 0, "the old worker left tasks unacknowledged"
    assert totals(broker, "started") == totals(broker, "done"), "a task was cut off"
    done, waiting = len(totals(broker, "done")), broker.client.llen("default")
    assert done + waiting == 240
    assert waiting > 0, "nothing was left to lose"
    worker("gevent", 40).ready()
    wait_for(lambda: len(totals(broker, "done")) == 240, 20)
    assert set(totals(broker, "done").values()) == {1}


@pytest.mark.parametrize("pool", ["prefork", "gevent"])
def test_a_running_task_finishes_and_eta_tasks_return(worker, send, broker, pool):
    service = worker(pool).ready()
    send(WORK, 1, 2.0)
    send(WORK, 2, countdown=3600)
    send(WORK, 3, countdown=3.0)  # comes due during the drain, and must not start
    send(WORK, 4, 3.5)
    wait_for(lambda: set(totals(broker, "started")) == {1, 4}, 5)
    wait_for(lambda: broker.client.hlen("unacked") == 4, 5)
    service.term()
    assert service.wait() == 0, service.log()
    assert totals(broker, "done") == {1: 1, 4: 1}
    assert broker.client.llen("default") == 2
    assert broker.client.hlen("unacked") == 0
    assert any("draining: 2 tasks running" in line for line in service.manager.all("STATUS"))


def test_prefork_returns_its_tasks_at_the_deadline(worker, send, broker):
    service = worker(CELERIAC_DRAIN_TIMEOUT="2").ready()
    send(WORK, 1, 30.0)
    send(WORK, 2, 0.1)
    wait_for(lambda: 2 in totals(broker, "done") and 1 in totals(broker, "started"), 5)
    started = time.monotonic()
    service.term()
    service.wait()
    assert 2 <= time.monotonic() - started < 8
    assert broker.client.llen("default") == 1, "the task is not back in the queue"
    assert broker.client.hlen("unacked") == 0
    assert any(
        "drain limit of 2 s passed, 1 task running: returning" in line
        for line in service.manager.all()
    )


def test_gevent_is_never_cancelled_at_the_deadline(worker, send, broker):
    service = worker("gevent", CELERIAC_DRAIN_TIMEOUT="1").ready()
    send(WORK, 1, 2.5)
    wait_for(lambda: 1 in totals(broker, "started"), 5)
    service.term()
    assert service.wait() == 0
    assert totals(broker, "done") == {1: 1}
    assert broker.client.hlen("unacked") == 0
    assert any(
        "drain limit of 1 s passed, 1 task running: after" in line
        for line in service.manager.all("STATUS")
    )


@pytest.mark.spec("G7.6")
def test_the_watchdog_is_fed_through_a_broker_outage(worker, send, broker):
    service = worker(WATCHDOG_USEC="2000000", CELERIAC_LOOP_TIMEOUT="1.5").ready()
    wait_for(lambda: "WATCHDOG=1" in service.manager.all(), 3)
    broker.stop()
    away = time.monotonic()
    time.sleep(4)
    pings = [at for at, _, line in service.manager.lines if at > away and line == "WATCHDOG=1"]
    assert max(b - a for a, b in zip([away, *pings], [*pings, time.monotonic()], strict=True)) < 2
    assert any("waiting for the broker" in line for line in service.manager.all("STATUS"))
    broker.start()
    send(WORK, 1)
    wait_for(lambda: totals(broker, "done") == {1: 1}, 15)


@pytest.mark.spec("G7.6")
@pytest.mark.parametrize("pool", ["prefork", "gevent"])
def test_the_watchdog_is_not_fed_when_the_loop_is_stuck(worker, send, pool):
    service = worker(
        pool, WATCHDOG_USEC="1000000", CELERIAC_LOOP_TIMEOUT="2.5", CELERY_RDBSIG="1"
    ).ready()
    wait_for(lambda: "WATCHDOG=1" in service.manager.all(), 3)
    if pool == "gevent":
        send("jobs.tasks.spin", 60)
        time.sleep(3.5)
    else:
        # A stopped main process could not send anything; block only its loop.
        os.kill(service.pid, signal.SIGUSR2)
        wait_for(lambda: "Remote Debugger" in service.log(), 5)
        time.sleep(3.5)
    quiet = time.monotonic()
    time.sleep(1)
    assert service.manager.since(quiet, "WATCHDOG") == []
    assert service.process.poll() is None


def test_a_long_task_in_a_solo_worker_is_not_taken_for_a_stuck_loop(worker, send, broker):
    service = worker("solo", WATCHDOG_USEC="1000000", CELERIAC_LOOP_TIMEOUT="1").ready()
    send(WORK, 1, 3.0)
    wait_for(lambda: 1 in totals(broker, "started"), 5)
    time.sleep(1.7)
    late = time.monotonic()
    time.sleep(1)
    assert service.manager.since(late, "WATCHDOG")
    service.term()
    assert service.wait() == 0
    assert totals(broker, "done") == {1: 1}


def test_sigterm_while_the_broker_is_away_stops_the_worker(worker, broker):
    service = worker().ready()
    broker.stop()
    wait_for(lambda: "Cannot connect" in service.log(), 10)
    service.term()
    service.wait(15)


def test_a_consumer_that_loops_but_is_deaf_does_not_look_alive(monkeypatch):
    monkeypatch.setattr("celeriac.worker.LOOP_SECONDS", 0.2)
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    channel = SimpleNamespace(
        _in_poll=None,
        _brpop_sent_at=1.0,
        active_queues={"default"},
        qos=SimpleNamespace(can_consume=lambda: True),
    )
    app = SimpleNamespace(amqp=SimpleNamespace(queues=SimpleNamespace(consume_from={})))
    consumer = SimpleNamespace(
        app=app,
        pool=None,
        hub=True,
        connection=True,
        task_consumer=SimpleNamespace(channel=channel),
    )
    supervisor = Supervisor(consumer)
    supervisor.on_pass()
    time.sleep(0.3)
    supervisor.on_pass()
    assert not supervisor.alive(), "it has not asked for messages"
    channel._brpop_sent_at = 2.0
    supervisor.on_pass()
    assert supervisor.alive(), "it asks again"


def test_a_hard_time_limit_falls_after_a_look_at_what_children_have_done(monkeypatch):
    """A loop that stood still has its timers before its pipes."""
    from celery.concurrency.asynpool import AsynPool

    from celeriac.worker import LOOK_SECONDS, look_before_time_limits

    fallen, later = [], []
    monkeypatch.setattr(AsynPool, "_on_hard_timeout", lambda self, job: fallen.append(job))
    loop = SimpleNamespace(call_later=lambda *given: later.append(given))
    monkeypatch.setattr("kombu.asynchronous.get_event_loop", lambda: loop)
    look_before_time_limits()
    AsynPool._on_hard_timeout(SimpleNamespace(_cache={7: "runs"}), 7)
    assert fallen == []
    ((seconds, fall, *arguments),) = later
    assert seconds == LOOK_SECONDS
    fall(*arguments)
    assert fallen == [7]


class Broken(BaseException):
    """As gevent's Timeout is: no Exception."""


@pytest.mark.parametrize("begun", [False, True])
def test_a_hard_time_limit_on_gevent_buries_only_what_has_begun(monkeypatch, begun):
    from celery.worker import request, state

    from celeriac import deadletters, quarantine
    from celeriac import request as durable_request
    from celeriac.broker import HEADER

    gate = quarantine.Gate()
    gate.close_off()
    monkeypatch.setattr(durable_request, "gate", gate)
    told, owed = [], []
    monkeypatch.setattr(request.Request, "on_timeout", lambda self, *given: told.append(given))
    monkeypatch.setattr(deadletters, "write", owed.append)
    monkeypatch.setattr(state, "task_ready", lambda done: None)
    if begun:
        with pytest.raises(Broken), gate.passing(7, alone=False):
            raise Broken
    found = SimpleNamespace(
        _request_dict={HEADER: 7},
        _context=SimpleNamespace(id="one"),
        id="one",
        name="jobs.one",
        _task=SimpleNamespace(acks_late=False),
    )
    late = type("Late", (durable_request.Request,), {"__init__": lambda self: None})()
    for name, value in vars(found).items():
        setattr(late, name, value)
    late.on_timeout(False, 60)
    assert (len(told), len(owed)) == ((1, 0) if begun else (0, 1))
    assert gate.begun == set()
