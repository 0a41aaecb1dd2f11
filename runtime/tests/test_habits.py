"""Durable tasks and what projects do: pools, isolation levels, eager tests, closed connections."""

import json
import time

import pytest
from conftest import wait_for
from owed import LATE, POOLS

pytestmark = pytest.mark.faults


def options(**given):
    return json.dumps({"OPTIONS": given})


@POOLS
@pytest.mark.parametrize("level", [4, 3], ids=["serializable", "repeatable read"])
def test_stricter_isolation_levels(worker, ledger, pool, level):
    env = {"PROJECT_DATABASE": options(isolation_level=level)}
    service = worker(pool, 4, settings=LATE, **env).ready()
    ledger.run(
        "enqueue_many(d.work, [(f'many {n}',) for n in range(100)])\n"
        "for n in range(50): d.work.delay(f'one {n}')\n"
        "chain(d.add.s(1, 1), d.add.s(2)).delay(); d.flaky.delay('twice', 2)",
        **env,
    )
    ledger.settled(40)
    effects = ledger.effects()
    assert len(effects) == 154
    assert set(effects.values()) == {1}
    assert ledger.dead() == []
    assert "The outbox has to wait" not in service.log()


@POOLS
def test_djangos_own_pool(worker, ledger, pool):
    env = {"PROJECT_DATABASE": options(pool=True)}
    worker(pool, 4, settings=LATE, **env).ready()
    ledger.run("for n in range(50): d.work.delay(f'{n}')\nd.long.delay('long', 1)", **env)
    ledger.settled(40)
    assert len(ledger.effects()) == 51
    assert set(ledger.effects().values()) == {1}


@POOLS
def test_a_task_that_closes_its_connection_fails_or_runs_once(worker, ledger, pool):
    """In a transaction there is nothing left to commit; without one the lock is elsewhere."""
    worker(pool, 2, settings=LATE).ready()
    other = worker(pool, 2, settings=LATE).ready()
    ledger.run("d.closes.delay('in a transaction'); d.closes_long.delay('without', 6)")
    wait_for(ledger.dead, 10)
    ((task, _, error, *_),) = ledger.dead()
    assert task == "jobs.durable.closes"
    assert "closed the connection of its own transaction" in error
    ledger.settled()
    assert ledger.effects() == {"without": 1}
    assert ledger.starts("without") == 1, other.log()


@POOLS
def test_replace_retry_at_once_and_error_callbacks(worker, ledger, pool):
    worker(pool, 2, settings=LATE).ready()
    ledger.run(
        "d.replaced.apply_async(('x',), link=d.add.s(100)); d.at_once.delay('y')\n"
        "d.fail.apply_async(('z',), link_error=d.errback.s())"
    )
    wait_for(lambda: len(ledger.effects()) == 5, 15)
    ledger.settled()
    names = {"x was replaced", "7+7", "14+100", "y 2"}
    names.add("errback of jobs.durable.fail: z is not for sale")
    assert ledger.effects() == dict.fromkeys(names, 1)


@POOLS
def test_a_terminated_task_is_owed_no_more(worker, ledger, pool):
    worker(pool, 2, settings=LATE).ready()
    ledger.run(
        "import uuid; task = d.slow.delay('x', 60)\n"
        "while not marks().llen('starts:x'): time.sleep(0.05)\n"
        "app.control.revoke(task.id, terminate=True, signal='SIGKILL')\n"
        "task = d.work.apply_async(('waiting',), countdown=2)\n"
        "app.control.revoke(task.id)"
    )
    ledger.settled()
    time.sleep(4)
    assert ledger.effects() == {}
    assert ledger.starts("x") == 1
    assert ledger.outbox() == 0


def test_a_number_that_comes_again_after_a_restore_is_another_task(worker, ledger, broker):
    ledger.run("d.work.delay('before')")
    ledger.server.execute("TRUNCATE celeriac_outbox RESTART IDENTITY")
    ledger.run("d.work.delay('after')")
    assert broker.client.llen("default") == 2
    worker("prefork", 2, settings=LATE).ready()
    ledger.settled()
    assert ledger.effects() == {"after": 1}
    wait_for(lambda: broker.client.llen("default") + broker.client.hlen("unacked") == 0, 5)


def test_eager_tests_owe_nothing(ledger, broker):
    """CELERY_TASK_ALWAYS_EAGER as in tests, nested calls, and apply()."""
    eager = json.dumps({"CELERY_TASK_ALWAYS_EAGER": True, "CELERY_TASK_EAGER_PROPAGATES": True})
    ledger.run(
        "with transaction.atomic(): d.outer.delay('a')\n"
        "chain(d.add.s(1, 2), d.add.s(3)).delay()\n"
        "enqueue_many(d.work, [('b',)])\n"
        "d.work.delay_on_commit('c')\n"
        "try: d.fail.delay('d')\n"
        "except ValueError: pass\n"
        "else: raise SystemExit('not propagated')",
        PROJECT_SETTINGS=eager,
    )
    assert ledger.outbox() == 0
    names = {"outer a", "inner a", "1+2", "3+3", "b", "c"}
    assert set(ledger.effects()) - {"d"} == names
    ledger.run("d.outer.apply(('e',)); d.work('called')")
    assert ledger.outbox() == 1, "what it calls is owed"
    assert ledger.effects()["outer e"] == 1
    assert ledger.dead() == []


def test_two_apps_with_one_database_and_one_broker(worker, ledger):
    """Each consumes its own queues; either's keeper looks after both."""
    worker("prefork", 1, queue="one", settings=LATE).ready()
    worker("prefork", 1, queue="two", settings=LATE | {"CELERY_TASK_DEFAULT_QUEUE": "two"}).ready()
    ledger.run(
        "for n in range(40): d.work.apply_async((f'{n}',), queue=('one', 'two')[n % 2])\n"
        "enqueue_many(d.work, [('bulk',)])",
        PROJECT_SETTINGS=json.dumps({"CELERY_TASK_DEFAULT_QUEUE": "two"}),
    )
    ledger.settled()
    assert len(ledger.effects()) == 41
    assert set(ledger.effects().values()) == {1}


def test_a_view_with_atomic_requests(ledger, broker):
    settings = {"ROOT_URLCONF": "jobs.views", "ALLOWED_HOSTS": ["testserver"]}
    ledger.run(
        "from django.test import Client\n"
        "client = Client(raise_request_exception=False)\n"
        "assert client.get('/good/').status_code == 200\n"
        "assert client.get('/bad/').status_code == 500",
        PROJECT_SETTINGS=json.dumps(settings),
        PROJECT_DATABASE=json.dumps({"ATOMIC_REQUESTS": True}),
    )
    assert ledger.effects() == {"good": 1}
    assert ledger.outbox() == 1
    assert broker.client.llen("default") == 1
