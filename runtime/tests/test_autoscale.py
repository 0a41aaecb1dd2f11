"""A pool with a lower bound grows with the load, shrinks after it, and loses nothing meanwhile."""

from pathlib import Path

import pytest
from conftest import wait_for

WORK = "jobs.tasks.work"
MOST, LEAST, TASKS = 4, 1, 60
# Seconds without a new task after which Celery gives processes back; its default is 30.
SOON = {"AUTOSCALE_KEEPALIVE": "2"}


def children(pid: int) -> int:
    """How many processes the worker's main process has."""
    return len(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


def done(broker) -> dict[int, int]:
    """How often each task has ended."""
    return {int(number): int(count) for number, count in broker.marks.hgetall("done").items()}


@pytest.mark.spec("G11.3")
def test_processes_come_with_the_load_and_go_after_it(worker, send, broker):
    service = worker("prefork", MOST, at_least=LEAST, **SOON).ready()
    assert children(service.pid) == LEAST
    for number in range(TASKS):
        send(WORK, number, 0.2)
    wait_for(lambda: children(service.pid) == MOST, 15, "growth")
    wait_for(lambda: len(done(broker)) == TASKS, 30, "the tasks")
    wait_for(lambda: children(service.pid) == LEAST, 20, "shrinking")
    assert set(done(broker).values()) == {1}
    send(WORK, TASKS)
    wait_for(lambda: len(done(broker)) == TASKS + 1, 10, "a task after the load")


@pytest.mark.spec("G11.3")
def test_green_threads_come_and_go_too(worker, send, broker):
    service = worker("gevent", MOST, at_least=LEAST, **SOON).ready()
    for number in range(TASKS):
        send(WORK, number, 0.2)
    wait_for(lambda: "Scaling up" in service.log(), 15, "growth")
    wait_for(lambda: len(done(broker)) == TASKS, 30, "the tasks")
    wait_for(lambda: "Scaling down" in service.log(), 20, "shrinking")
    assert set(done(broker).values()) == {1}


@pytest.mark.spec("G11.3")
@pytest.mark.parametrize("pool", ["prefork", "gevent"])
def test_one_that_is_stopped_while_it_shrinks_loses_nothing(worker, send, broker, pool):
    """Some tasks are long, so that the pool shrinks around them."""
    old = worker(pool, MOST, at_least=LEAST, **SOON).ready()
    for number in range(TASKS):
        send(WORK, number, 6 if number % 20 == 0 else 0.05)
    wait_for(lambda: "Scaling down" in old.log(), 30, "shrinking")
    old.term()
    assert old.wait() == 0, old.log()
    new = worker(pool, MOST, at_least=LEAST, **SOON).ready()
    wait_for(lambda: len(done(broker)) == TASKS, 30, "the tasks")
    assert set(done(broker).values()) == {1}
    assert broker.client.hlen("unacked") == 0, new.log()
