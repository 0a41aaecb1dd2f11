"""Durable tasks: real workers, real kills; a row in jobs_effect is the effect."""

import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from conftest import PROJECT, environment, wait_for
from owed import LATE, POOLS, Ledger, postgresql

pytestmark = pytest.mark.faults


# -- the caller --------------------------------------------------------------------------


def test_a_call_is_part_of_the_callers_transaction(ledger, broker):
    ledger.run(
        "with transaction.atomic(): d.work.delay('kept')\n"
        "try:\n"
        "    with transaction.atomic(): d.work.delay('undone'); 1/0\n"
        "except ZeroDivisionError: pass\n"
        "with transaction.atomic():\n"
        "    d.work.delay_on_commit('also kept')\n"
        "    assert marks().connection_pool and app.connection().default_channel.client"
        ".llen('default') == 1, 'published before the commit'"
    )
    assert ledger.outbox() == 2
    assert broker.client.llen("default") == 2


def test_one_setting_makes_every_task_durable(worker, ledger, broker):
    env = {"PROJECT_TASK_CLS": "celeriac.Task"}
    ledger.run(
        "from jobs.tasks import work\nassert isinstance(work, d.Task)\nwork.delay(7)\n"
        "work.apply_async((8,), durable=False)",
        **env,
    )
    assert ledger.outbox() == 1
    assert broker.client.llen("default") == 2
    worker("prefork", 2, **env).ready()
    ledger.settled()
    wait_for(lambda: broker.marks.hgetall("done") == {b"7": b"1", b"8": b"1"}, 5)


@POOLS
def test_effects_come_once_and_the_outbox_empties(worker, ledger, pool):
    worker(pool, 4, settings=LATE).ready()
    ledger.run("for n in range(30): d.work.delay(f'one {n}')")
    ledger.run("enqueue_many(d.work, [(f'many {n}',) for n in range(500)])")
    ledger.settled()
    effects = ledger.effects()
    assert len(effects) == 530
    assert set(effects.values()) == {1}


def test_a_bulk_is_composed_as_celery_would(ledger, broker):
    ledger.run(
        "import json, base64\n"
        "from celeriac.models import Outbox\n"
        "enqueue_many(d.add, [(1, 2), {'x': 1, 'y': 2}, (3, 4)])\n"
        "d.add.delay(3, 4)\n"
        "first, _, a, b = [json.loads(m.message) for m in Outbox.objects.order_by('seq')]\n"
        "assert a['body'] == b['body'], (base64.b64decode(a['body']), b)\n"
        "skip = ('id', 'root_id', 'correlation_id', 'celeriac_due', 'celeriac_request')\n"
        "for part in ('headers', 'properties'):\n"
        "    one, other = ({k: v for k, v in m[part].items() if k not in skip} for m in (a, b))\n"
        "    assert one == other, (one, other)\n"
        "called = [m['headers']['celeriac_request'] for m in (first, a, b)]\n"
        "assert called == [first['headers']['id']] * 2 + [b['headers']['id']], called\n"
        "assert a['headers']['id'] == a['headers']['root_id'] == a['properties']['correlation_id']"
    )


def test_a_call_succeeds_while_the_broker_is_away_and_runs_when_it_is_back(worker, ledger, broker):
    service = worker(settings=LATE).ready()
    broker.stop()
    took = float(
        ledger.run(
            "t = time.time()\n"
            "for n in range(50):\n"
            "    with transaction.atomic(): d.work.delay(f'{n}')\n"
            "group(d.work.s('g1'), d.work.s('g2')).delay()\n"
            "print(time.time() - t)"
        )
    )
    assert took < 5
    assert ledger.outbox() == 52
    broker.start()
    ledger.settled(30)
    assert set(ledger.effects().values()) == {1}
    assert len(ledger.effects()) == 52, service.log()


def test_a_flushed_broker_loses_nothing(worker, ledger, broker):
    ledger.run("for n in range(300): d.work.delay(f'{n}', 0.01)")
    worker(settings=LATE).ready()
    wait_for(lambda: len(ledger.effects()) > 20, 10)
    broker.client.flushdb()
    assert ledger.outbox() > 100, "nothing was left to lose"
    ledger.settled(30)
    assert len(ledger.effects()) == 300
    assert set(ledger.effects().values()) == {1}


@POOLS
def test_a_counter_takes_the_place_of_a_chord_also_under_kills(worker, ledger, broker, pool):
    ledger.run(
        "from jobs.models import Batch\n"
        "with transaction.atomic():\n"
        "    batch = Batch.objects.create(left=60)\n"
        "    enqueue_many(d.part, [(batch.pk, f'part {n}') for n in range(60)])"
    )
    for _ in range(3):
        started = ledger.starts("part")
        doomed = worker(pool, 4, settings=LATE).ready()
        wait_for(lambda before=started: ledger.starts("part") > before + 6, 20)
        if pool == "prefork":
            os.kill(int(broker.marks.lindex("starts:part", -1)), signal.SIGKILL)
        os.killpg(doomed.pid, signal.SIGKILL)
    worker(pool, 4, settings=LATE).ready()
    ledger.settled(60)
    assert ledger.effects() == {f"part {n}": 1 for n in range(60)} | {"whole of 60": 1}


def test_rabbitmq_is_refused_by_name_for_durable_tasks(ledger):
    code = (
        "from celeriac import broker\n"
        "for call in (lambda: broker.client(app), lambda: d.add.delay(1, 1),\n"
        "             lambda: enqueue_many(d.add, [(1, 1)])):\n"
        "    try: call()\n"
        "    except Exception as error: print(type(error).__name__, error)"
    )
    said = ledger.run(code, CELERY_BROKER_URL="amqp://guest:secret@localhost//").splitlines()
    assert len(said) == 3, said
    for line in said:
        assert line.startswith(
            "ImproperlyConfigured Durable tasks and the replay of dead letters need"
        )
        assert "amqp://" in line
        assert "secret" not in line
    assert ledger.outbox() == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"INSTALLED_APPS": ["jobs"]}, "add 'celeriac' to INSTALLED_APPS"),
        (
            {
                "DATABASES": {
                    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
                }
            },
            "need PostgreSQL, but DATABASES['default'] is sqlite",
        ),
    ],
)
def test_what_it_cannot_work_with_is_refused_by_name(ledger, change, message):
    import json

    code = "try: d.add.delay(1, 1)\nexcept Exception as error: print(error)"
    assert message in ledger.run(code, PROJECT_SETTINGS=json.dumps(change))


def test_the_system_check_refuses_another_database(ledger):
    import json

    sqlite = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
    done = subprocess.run(
        [sys.executable, "-m", "django", "check"],
        cwd=PROJECT,
        env=ledger.env() | {"PROJECT_SETTINGS": json.dumps({"DATABASES": sqlite})},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "celeriac.E001" in done.stderr


# -- the fence -------------------------------------------------------------------------------


@POOLS
@pytest.mark.parametrize("task", ["work", "long"])
def test_copies_of_a_message_have_one_effect(worker, ledger, broker, pool, task):
    ledger.run(f"d.{task}.delay('x', 1.5)")
    message = broker.client.lindex("default", 0)
    for _ in range(5):
        broker.client.lpush("default", message)
    worker(pool, 4, settings=LATE).ready()
    wait_for(lambda: ledger.starts("x"), 10)
    broker.client.lpush("default", message)  # while it runs
    ledger.settled()
    broker.client.lpush("default", message)  # when it is done
    wait_for(lambda: broker.client.llen("default") == 0, 5)
    time.sleep(1)
    assert ledger.effects() == {"x": 1}
    assert ledger.starts("x") == 1


@POOLS
@pytest.mark.parametrize("task", ["work", "long"])
def test_a_long_task_on_a_live_worker_is_never_started_twice(worker, ledger, pool, task):
    worker(pool, 1, settings=LATE).ready()
    other = worker(pool, 1, settings=LATE).ready()
    ledger.run(f"d.{task}.delay('long', 14)\nfor n in range(20): d.work.delay(f'{{n}}', 0.1)")
    wait_for(lambda: len(ledger.effects()) >= 20, 20)  # the head is far behind the long one
    time.sleep(3)
    assert ledger.query("SELECT sends FROM celeriac_outbox") == [(1,)], "it was sent again"
    ledger.settled(20)
    assert ledger.starts("long") == 1, other.log()
    assert ledger.effects()["long"] == 1


def test_tasks_that_wait_inside_a_live_worker_are_not_sent_again(worker, ledger):
    settings = LATE | {"CELERY_WORKER_PREFETCH_MULTIPLIER": 4}
    service = worker("prefork", 1, settings=settings).ready()
    ledger.run("d.work.delay('first', 15)\nfor n in range(3): d.work.delay(f'waiting {n}')")
    wait_for(lambda: ledger.starts("first"), 10)
    time.sleep(5)
    assert set(ledger.query("SELECT sends FROM celeriac_outbox")) == {(1,)}
    ledger.settled()
    assert "again" not in service.log()


# -- kills ---------------------------------------------------------------------------------------


@POOLS
@pytest.mark.parametrize("task", ["work", "long"])
def test_a_killed_workers_task_runs_elsewhere_within_seconds(worker, ledger, pool, task):
    doomed = worker(pool, 2, settings=LATE).ready()
    ledger.run(f"d.{task}.delay('x', 20)\nfor n in range(3): d.work.delay(f'{{n}}', 3)")
    wait_for(lambda: ledger.starts("x"), 10)
    worker(pool, 4, settings=LATE).ready()
    os.killpg(doomed.pid, signal.SIGKILL)
    killed = time.monotonic()
    wait_for(lambda: ledger.starts("x") == 2, 8.9, "the second start")
    print("started again after", time.monotonic() - killed)
    ledger.settled(40)
    assert ledger.effects() == {"x": 1, "0": 1, "1": 1, "2": 1}


@pytest.mark.parametrize("task", ["work", "long"])
def test_a_killed_childs_task_runs_again_on_the_same_worker(worker, ledger, broker, task):
    service = worker("prefork", 2, settings=LATE).ready()
    ledger.run(f"d.{task}.delay('x', 3)")
    wait_for(lambda: ledger.starts("x"), 10)
    os.kill(int(broker.marks.lindex("starts:x", 0)), signal.SIGKILL)
    wait_for(lambda: ledger.starts("x") == 2, 8.9, "the second start")
    ledger.settled()
    assert ledger.effects() == {"x": 1}
    time.sleep(11)  # the pool reports a lost child only now
    assert ledger.dead() == []
    assert broker.client.hlen("unacked") == 0, service.log()
    assert ledger.effects() == {"x": 1}


def sockets_of(pid):
    links = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]
    return {link[len("socket:[") : -1] for link in links if link.startswith("socket:[")}


def test_a_child_does_not_share_its_workers_session(worker, ledger, broker):
    """Or the session, with its locks, would live as long as the child."""
    service = worker("prefork", 1, settings=LATE).ready()
    keeper = (
        "SELECT client_port FROM pg_stat_activity WHERE datname = current_database()"
        " AND starts_with(application_name, 'celeriac-keeper')"
    )
    ((port,),) = wait_for(lambda: ledger.query(keeper), 5)
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    server = ledger.server.info.port
    ends = f":{port:04X}", f":{server:04X}"
    (inode,) = (row[9] for row in rows if row[1].endswith(ends[0]) and row[2].endswith(ends[1]))
    assert inode in sockets_of(service.pid)
    ledger.run("d.work.delay('x', 30)")
    wait_for(lambda: ledger.starts("x"), 10)
    os.kill(int(broker.marks.lindex("starts:x", 0)), signal.SIGKILL)
    wait_for(lambda: ledger.starts("x") == 2, 15)  # in a child that was forked just now
    assert inode not in sockets_of(int(broker.marks.lindex("starts:x", -1)))
    assert inode in sockets_of(service.pid)


@POOLS
def test_work_goes_on_after_a_restart_of_postgresql(worker, ledger, pool):
    service = worker(pool, 2, settings=LATE).ready()
    ledger.run("d.work.delay('x', 3)\nfor n in range(20): d.work.delay(f'{n}', 0.2)")
    wait_for(lambda: ledger.starts("x"), 10)
    ledger.server.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    ledger.settled(30)
    effects = ledger.effects()
    assert len(effects) == 21
    assert set(effects.values()) == {1}
    assert ledger.dead() == []
    assert service.process.poll() is None
    ledger.run("d.work.delay('after')")
    ledger.settled()


@pytest.fixture
def own_server():
    """A PostgreSQL of the test's own, to be restarted: (URL, crash)."""
    with postgresql("127.0.0.1") as server:
        yield server


@POOLS
def test_a_crash_of_postgresql_loses_and_doubles_nothing(worker, own_server, broker, pool):
    url, crash = own_server
    command = [sys.executable, "-m", "django", "migrate", "--verbosity=0"]
    subprocess.run(command, cwd=PROJECT, env=environment(DATABASE_URL=url), check=True)
    ledger = Ledger(url, broker)
    service = worker(pool, 2, settings=LATE, DATABASE_URL=url).ready()
    ledger.run("for n in range(60): d.work.delay(f'{n}', 0.2)")
    wait_for(lambda: len(ledger.effects()) > 5, 10)
    crash()
    ledger = Ledger(url, broker)
    assert ledger.outbox() > 0, "nothing was left to lose"
    ledger.settled(40)
    assert len(ledger.effects()) == 60, service.log()
    assert set(ledger.effects().values()) == {1}
    assert ledger.dead() == []
    assert service.process.poll() is None


def test_a_redis_that_takes_no_writes_does_not_use_up_the_sends(worker, ledger, broker):
    worker(settings=LATE).ready()
    broker.client.config_set("maxmemory", "1")
    try:
        ledger.run("d.work.delay('one'); enqueue_many(d.work, [('two',)])")
        time.sleep(10)
        assert max(ledger.query("SELECT sends FROM celeriac_outbox")) <= (1,)
    finally:
        broker.client.config_set("maxmemory", "0")
    ledger.settled()
    assert ledger.effects() == {"one": 1, "two": 1}
    assert ledger.dead() == []


@pytest.mark.parametrize("pool", ["prefork"])  # in the others it kills the whole worker
def test_poison_ends_as_a_dead_letter_and_does_not_stop_the_pool(worker, ledger, pool):
    service = worker(pool, 2, settings=LATE).ready()
    ledger.run("d.poison.delay('bad')")
    wait_for(ledger.dead, 30, "a dead letter")
    ((task, reason, error, durable, _),) = ledger.dead()
    assert (task, reason, durable) == ("jobs.durable.poison", "max_sends", True)
    assert "SIGKILL" in error
    assert ledger.starts("bad") in (2, 3), "its death may be noticed late"
    assert ledger.outbox() == 0
    ledger.run("d.work.delay('good')")
    ledger.settled()
    assert service.process.poll() is None


def keep_up(worker, until, seconds, pool, **options):
    """Start the worker again whenever it dies, as its unit would; returns how often it did."""
    services = []
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, "poison goes on and on"
        if not services or services[-1].process.poll() is not None:
            services.append(worker(pool, 6, settings=LATE | options))  # may die as it starts
        time.sleep(0.1)
    return len(services) - 1


@pytest.mark.parametrize("pool", ["gevent", "threads"])
def test_poison_in_a_shared_process_dies_alone(worker, ledger, pool):
    """It kills the whole worker each time; its neighbours are not buried with it."""
    ledger.run(
        "for n in range(3): d.poison.delay(f'bad {n}')\n"
        "for n in range(12): d.slow.delay(f'{n}', 0.7)"
    )
    keep_up(worker, lambda: len(ledger.dead()) == 3 and ledger.outbox() == 0, 150, pool)
    assert {(task, reason) for task, reason, *_ in ledger.dead()} == {
        ("jobs.durable.poison", "max_sends")
    }
    assert ledger.effects() == {f"{n}": 1 for n in range(12)}
    for n in range(3):  # a start without a strike, one beside others, one alone, at most
        assert 1 <= ledger.starts(f"bad {n}") <= 3
    assert "died under it" in ledger.dead()[0][2]


@POOLS
def test_six_kills_in_a_row_do_not_bury_an_innocent_task(worker, ledger, pool):
    ledger.run("d.endures.delay('x', 6)")
    for count in range(1, 7):
        service = worker(pool, 2, settings=LATE).ready()
        wait_for(lambda count=count: ledger.starts("x") == count, 15, f"start {count}")
        os.killpg(service.pid, signal.SIGKILL)
    worker(pool, 2, settings=LATE).ready()
    ledger.settled()
    assert ledger.effects() == {"x": 1}
    assert ledger.dead() == []


@POOLS
def test_a_task_that_wants_too_much_memory_is_a_dead_letter(worker, ledger, broker, pool):
    service = worker(pool, 1, settings=LATE).ready()
    ledger.run(
        "d.gluttonous.delay('x'); d.gluttonous.apply_async(('plain',), durable=False)\n"
        "d.work.delay('after')"
    )
    ledger.settled()
    wait_for(lambda: len(ledger.dead()) == 2, 10)
    assert {(task, reason) for task, reason, *_ in ledger.dead()} == {
        ("jobs.durable.gluttonous", "MemoryError")
    }
    wait_for(lambda: broker.client.hlen("unacked") == 0, 5)
    assert service.process.poll() is None
    # The plain one is not undone: its own transaction, its own affair.
    assert ledger.effects() == {"after": 1, "plain": 1}


@POOLS
def test_a_task_that_exits_is_poison(worker, ledger, pool):
    ledger.run("d.leaves.delay('x'); d.slow.delay('beside', 1)")
    keep_up(worker, lambda: ledger.dead() and ledger.outbox() == 0, 60, pool)
    assert [(task, reason) for task, reason, *_ in ledger.dead()] == [
        ("jobs.durable.leaves", "max_sends")
    ]
    assert ledger.effects() == {"beside": 1}


def test_children_that_grow_too_large_are_replaced_and_lose_nothing(worker, ledger):
    settings = LATE | {"CELERY_WORKER_MAX_MEMORY_PER_CHILD": 1}
    service = worker("prefork", 2, settings=settings).ready()
    ledger.run("for n in range(30): d.work.delay(f'{n}')")
    ledger.settled(60)
    assert ledger.effects() == {f"{n}": 1 for n in range(30)}
    assert ledger.query("SELECT count(DISTINCT pid) FROM jobs_effect") == [(30,)]
    assert service.process.poll() is None


@POOLS
def test_what_postgresql_refuses_again_and_again_is_a_dead_letter(worker, ledger, pool):
    worker(pool, 2, settings=LATE).ready()
    with ledger.server.transaction():
        ledger.server.execute("LOCK TABLE django_migrations")
        ledger.run("d.locks.delay('x')")
        with psycopg.connect(ledger.url, autocommit=True) as other:
            dead = "SELECT error FROM celeriac_dead"
            wait_for(lambda: other.execute(dead).fetchall(), 40)
            assert "lock timeout" in other.execute(dead).fetchone()[0]
    assert ledger.effects() == {}


# -- outcomes -----------------------------------------------------------------------------------


@POOLS
def test_retries_undo_the_attempt_and_count(worker, ledger, pool):
    worker(pool, 2, settings=LATE).ready()
    ledger.run("d.flaky.delay('twice', 2); d.flaky.delay('too often', 9)")
    ledger.settled()
    assert ledger.effects() == {"twice": 1, "twice:2": 1}
    ((task, reason, error, _, _),) = ledger.dead()
    assert (task, reason) == ("jobs.durable.flaky", "ValueError")
    assert "attempt 3" in error


@POOLS
def test_an_exception_makes_a_dead_letter_that_can_be_replayed(worker, ledger, pool):
    worker(pool, 2, settings=LATE).ready()
    ledger.run("d.fail.delay('turnip')")
    wait_for(ledger.dead, 10)
    ((task, reason, error, durable, task_id),) = ledger.dead()
    assert (task, reason, durable) == ("jobs.durable.fail", "ValueError", True)
    assert "turnip is not for sale" in error
    assert ledger.outbox() == 0
    assert ledger.effects() == {}
    listed = ledger.manage("dead").stdout
    assert task_id in listed
    assert "('turnip',)" in listed
    assert ledger.manage("replay", task_id).stdout == "1 sent again\n"
    deaths = "SELECT deaths FROM celeriac_dead"
    wait_for(lambda: ledger.query(deaths) == [(1,)], 10)
    assert ledger.manage("discard").returncode != 0
    assert ledger.manage("discard", "nobody").returncode != 0
    assert ledger.manage("discard", "--all").stdout == "1 discarded\n"
    assert ledger.dead() == []


@POOLS
def test_a_hard_time_limit_makes_a_dead_letter(worker, ledger, pool):
    worker(pool, 2, settings=LATE).ready()
    ledger.run("d.stuck.delay('x')")
    wait_for(ledger.dead, 15)
    ledger.settled(5)
    time.sleep(3)
    assert [(task, reason) for task, reason, *_ in ledger.dead()] == [
        ("jobs.durable.stuck", "TimeLimitExceeded")
    ]
    assert ledger.effects() == {}
    assert ledger.outbox() == 0


@POOLS
def test_chains_links_and_groups_follow_in_the_same_transaction(worker, ledger, broker, pool):
    worker(pool, 2, settings=LATE).ready()
    ledger.run(
        "chain(d.add.s(1, 2), d.add.s(3), group(d.add.s(10), d.add.s(20))).delay()\n"
        "d.add.apply_async((100, 1), link=[d.add.s(5), d.plain.s()])"
    )
    wait_for(lambda: len(ledger.effects()) == 6, 10)
    ledger.settled()
    wait_for(lambda: broker.marks.lrange("plain", 0, -1) == [b"101"], 5)
    names = {"1+2", "3+3", "6+10", "6+20", "100+1", "101+5"}
    assert ledger.effects() == dict.fromkeys(names, 1)


def test_a_chain_survives_a_kill_right_after_the_commit(worker, ledger, broker):
    """Celery would send the next step now; it has been in the transaction already."""
    kill = {"CELERY_INCLUDE": ["jobs.kill_after_commit"]}
    worker("prefork", 2, settings=LATE | kill).ready()
    ledger.run("chain(d.add.s(1, 2), d.add.s(3)).delay()")
    wait_for(lambda: broker.marks.get("killed"), 10)
    wait_for(lambda: len(ledger.effects()) == 2, 15)
    ledger.settled()
    assert ledger.effects() == {"1+2": 1, "3+3": 1}


def test_an_asynchronous_commit_is_for_that_task_only(worker, ledger):
    worker("prefork", 1, settings=LATE).ready()
    ledger.run("d.quick.delay('quick'); d.add.delay(1, 1); d.quick.delay('again')")
    ledger.settled()
    assert ledger.effects() == {"quick: off": 1, "1+1": 1, "again: off": 1}


@POOLS
def test_an_eta_waits_in_postgresql(worker, ledger, broker, pool):
    worker(pool, 2, settings=LATE).ready()
    eta = (datetime.now(UTC) + timedelta(seconds=3)).isoformat()
    started = time.monotonic()
    ledger.run(f"d.work.apply_async(('eta',), eta='{eta}')")
    ledger.run("d.work.apply_async(('later',), countdown=3600)")
    time.sleep(1)
    assert broker.client.llen("default") + broker.client.hlen("unacked") == 0
    wait_for(lambda: ledger.effects() == {"eta": 1}, 10)
    assert time.monotonic() - started >= 2.9 - 1
    assert ledger.outbox() == 1


def test_priorities_have_a_queue_each(worker, ledger, broker):
    ledger.run(
        "for n in range(10): d.work.apply_async((f'{n}',), priority=9 * (n % 2))\n"
        "for n in range(10): d.add.apply_async((n, n), priority=9)"
    )
    assert broker.client.llen("default") == 5
    assert broker.client.llen("default\x06\x169") == 15
    broker.client.delete("default\x06\x169")
    worker("prefork", 2, settings=LATE).ready()
    ledger.settled(20)
    assert len(ledger.effects()) == 20


@POOLS
def test_higher_priorities_run_first(worker, ledger, pool):
    """As kombu orders them on Redis: 0 is the most urgent."""
    ledger.run(
        "for n in range(6):\n"
        "    for priority in (9, 3, 0, 6):\n"
        "        d.work.apply_async((f'{priority} {n}',), priority=priority)"
    )
    worker(pool, 1, settings=LATE).ready()
    ledger.settled(30)
    order = [name for (name,) in ledger.query("SELECT name FROM jobs_effect ORDER BY id")]
    assert order == [f"{priority} {n}" for priority in (0, 3, 6, 9) for n in range(6)]


def test_revoked_and_expired_tasks_are_owed_no_more(worker, ledger):
    service = worker("prefork", 1, settings=LATE).ready()
    ledger.run("d.work.delay('first', 2); d.work.apply_async(('late',), expires=1)")
    ledger.settled()
    assert ledger.effects() == {"first": 1}, service.log()


def test_old_letters_are_listed_and_discarded_by_age(ledger):
    for n, (age, durable) in enumerate([("40 days", True), ("40 days", False), ("2 hours", True)]):
        ledger.server.execute(
            "INSERT INTO celeriac_dead (task_id, task, queue, message, error, durable, reason,"
            " deaths, died_at) VALUES (%s, 't', 'q', '{}', '', %s, 'x', 1, now() - %s::interval)",
            [f"id{n}", durable, age],
        )
    assert ledger.manage("dead", "--older-than", "30d", "--count").stdout == "2\n"
    assert ledger.manage("dead", "--older-than", "90m", "--count").stdout == "3\n"
    for bad in ("30", "30 days", "-1d", "d", "1y"):
        refused = ledger.manage("discard", f"--older-than={bad}")
        assert refused.returncode != 0
        assert f"{bad!r} is no age. Write for example 90m, 12h, 30d or 8w." in refused.stderr
    refused = ledger.manage("discard", "id0", "--older-than", "30d")
    assert refused.returncode != 0
    assert "Say which" in refused.stderr
    assert ledger.manage("discard", "--older-than", "30d", "--task", "u").stdout == "0 discarded\n"
    assert ledger.manage("discard", "--older-than", "30d").stdout == "2 discarded\n"
    assert [task_id for *_, task_id in ledger.dead()] == ["id2"]
    assert ledger.manage("outbox", "--older-than", "30d").returncode != 0


def test_plain_letters_are_bounded_and_durable_ones_stay(ledger):
    ledger.server.execute(
        "INSERT INTO celeriac_dead (task_id, task, queue, message, error, durable, reason, deaths,"
        " died_at) SELECT 'id' || n, 't', 'q', '{}', '', n % 10 = 0, 'x', 1, now()"
        " FROM generate_series(1, 100) n"
    )
    trim = "from celeriac import ledger\nprint(ledger.trim(20), ledger.trim(20))"
    assert ledger.run(trim) == "70 0"
    left = {int(task_id[2:]) for *_, task_id in ledger.dead()}
    assert {n for n in left if n % 10} == {n for n in range(78, 101) if n % 10}
    assert len(left) == 30


# -- dead letters of every task -----------------------------------------------------------------


@POOLS
def test_a_plain_tasks_failure_is_a_dead_letter_and_can_be_replayed(worker, ledger, send, pool):
    worker(pool, 2).ready()
    send("jobs.durable.plain_failure", "kohlrabi")
    wait_for(ledger.dead, 10)
    ((task, reason, error, durable, task_id),) = ledger.dead()
    assert (task, reason, durable) == ("jobs.durable.plain_failure", "KeyError", False)
    assert "kohlrabi" in error
    died = ledger.query("SELECT died_at FROM celeriac_dead")
    assert ledger.manage("replay", task_id).stdout == "1 sent again\n"
    wait_for(lambda: ledger.dead() and ledger.query("SELECT died_at FROM celeriac_dead") > died, 10)
    assert [row[4] for row in ledger.dead()] == [task_id]


def test_unknown_and_unreadable_messages_are_dead_letters(worker, ledger, send, broker):
    service = worker("prefork", 2).ready()
    send("jobs.nowhere.to_be_found", 1)
    wait_for(lambda: len(ledger.dead()) == 1, 10)
    send("jobs.durable.plain", 1)
    broken = broker.client.lindex("default", 0)
    ledger.run(
        "import json\n"
        "m = {'body': '!', 'content-type': 'application/json', 'content-encoding': 'utf-8',\n"
        "     'headers': {'task': 'jobs.durable.plain', 'id': 'garbled'},\n"
        "     'properties': {'delivery_tag': 't1', 'delivery_info':\n"
        "       {'exchange': '', 'routing_key': 'default'}}}\n"
        "c = app.connection().default_channel.client\n"
        "c.lpush('default', json.dumps(m))\n"
        "m['headers'] = {}; m['body'] = '{}'; m['properties']['delivery_tag'] = 't2'\n"
        "c.lpush('default', json.dumps(m))"
    )
    wait_for(lambda: len(ledger.dead()) == 3, 10, service.log)
    assert {reason for _, reason, *_ in ledger.dead()} == {"unknown", "rejected"}
    assert broken is None or service.process.poll() is None


def test_an_unknown_durable_task_is_tried_again_before_it_is_dead(worker, ledger):
    worker("prefork", 2).ready()
    ledger.run(
        "@app.task(base=d.Task, name='jobs.of.tomorrow', max_sends=3)\ndef t(): pass\nt.delay()"
    )
    wait_for(lambda: ledger.query("SELECT 1 FROM celeriac_outbox WHERE sends > 1"), 10)
    wait_for(ledger.dead, 40)
    ((task, reason, error, durable, _),) = ledger.dead()
    assert (task, reason, durable) == ("jobs.of.tomorrow", "max_sends", True)
    assert "No task named 'jobs.of.tomorrow'" in error


def test_a_failing_dead_letter_does_not_harm_the_worker(worker, ledger, send, broker):
    service = worker("prefork", 2).ready()
    ledger.server.execute("ALTER TABLE celeriac_dead RENAME TO hidden")
    try:
        send("jobs.durable.plain_failure", "x")
        send("jobs.nowhere.to_be_found", 1)
        send("jobs.durable.plain", 7)
        wait_for(lambda: broker.marks.lrange("plain", 0, -1) == [b"7"], 10)
        assert service.process.poll() is None
    finally:
        ledger.server.execute("ALTER TABLE hidden RENAME TO celeriac_dead")
