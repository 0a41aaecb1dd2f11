"""What workers write down of what they did, in every pool; and what they say they do now."""

import json
import os
import subprocess
import sys
import time

import psycopg
import pytest
from conftest import PROJECT, environment, wait_for

POOLS = pytest.mark.parametrize("pool", ["prefork", "gevent", "threads", "solo"])
TABLES = "minute, celeriac_depth, celeriac_tick, celeriac_outbox, celeriac_dead, celeriac_worker"
SETUP = """
import os, sys, time, json, django; django.setup()
from datetime import timedelta
from django.utils import timezone
from config.celery import app; app.loader.import_default_modules()
from jobs import durable as d, tasks as t; from celeriac import enqueue_many, figures
from celeriac.models import Dead; from celeriac.deadletters import replay
from django.db import connection
"""


class History:
    """What the database says, and a Django shell."""

    def __init__(self, url, broker):
        self.env = environment(
            DATABASE_URL=url, CELERY_BROKER_URL=broker.url, MARKS_URL=broker.marks_url
        )
        self.server = psycopg.connect(url, autocommit=True)
        self.server.execute(f"TRUNCATE celeriac_{TABLES}")

    def query(self, sql, *parameters):
        return self.server.execute(sql, parameters).fetchall()

    def run(self, code, **env):
        command = [sys.executable, "-c", SETUP + code]
        done = subprocess.run(
            command, cwd=PROJECT, env=self.env | env, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def sums(self, task, minutes="> 'epoch'"):
        """Succeeded, failed, retried, rejected, and how many runtimes and latencies."""
        return self.query(
            "SELECT coalesce(sum(succeeded), 0)::int, coalesce(sum(failed), 0)::int,"
            " coalesce(sum(retried), 0)::int, coalesce(sum(rejected), 0)::int,"
            " coalesce(sum((SELECT sum(n) FROM unnest(runtime) n)), 0)::int,"
            " coalesce(sum((SELECT sum(n) FROM unnest(latency) n)), 0)::int"
            f" FROM celeriac_minute WHERE task = %s AND minute {minutes}",
            task,
        )[0]

    def latency(self, task):
        """The mean, in seconds."""
        return self.query(
            "SELECT latency_sum / (SELECT sum(n) FROM unnest(latency) n)::float FROM"
            " celeriac_minute WHERE task = %s AND minute = 'epoch'",
            task,
        )[0][0]

    def running(self):
        rows = self.query("SELECT running, tasks FROM celeriac_worker WHERE tasks IS NOT NULL")
        return rows[0] if rows else (0, [])


@pytest.fixture
def history(database, broker):
    it = History(database, broker)
    yield it
    it.server.close()


@POOLS
def test_every_end_of_a_task_is_counted_also_the_last_ones_before_a_stop(worker, history, pool):
    history.run(
        "for n in range(20): t.work.delay(n)\n"
        "for n in range(5): d.plain_failure.delay(n)\n"
        "d.flaky.delay('f', 2)\n"
        "for n in range(10): d.add.delay(n, n)"
    )
    service = worker(pool, 1 if pool == "solo" else 2).ready()

    def all_done():
        effects = history.query("SELECT count(*) FROM jobs_effect WHERE name IN ('f', '9+9')")
        return effects[0][0] >= 2 and history.query("SELECT count(*) FROM celeriac_outbox") == [
            (0,)
        ]

    wait_for(all_done, 30)
    service.term()
    assert service.wait(30) == 0
    for minutes in ("> 'epoch'", "= 'epoch'"):
        assert history.sums("jobs.tasks.work", minutes) == (20, 0, 0, 0, 20, 20)
        assert history.sums("jobs.durable.plain_failure", minutes) == (0, 5, 0, 0, 5, 5)
        assert history.sums("jobs.durable.flaky", minutes) == (1, 0, 2, 0, 3, 3)
        assert history.sums("jobs.durable.add", minutes) == (10, 0, 0, 0, 10, 10)


def test_a_hard_limit_and_a_lost_child_are_one_failure_each(worker, history):
    service = worker("prefork", 2).ready()
    history.run("d.stuck.delay('s'); d.poison.delay('p')")
    wait_for(lambda: history.sums("jobs.durable.stuck")[1], 30, "the hard limit")
    wait_for(lambda: history.query("SELECT 1 FROM celeriac_dead WHERE task ~ 'poison'"), 60)
    service.term()
    service.wait(30)
    assert history.sums("jobs.durable.stuck")[:4] == (0, 1, 0, 0)
    # Sent once more when its death is noticed late.
    assert history.sums("jobs.durable.poison")[:4] in [(0, 0, 2, 0), (0, 0, 3, 0)]


def test_messages_of_unknown_tasks_and_routing_keys_make_one_row(worker, history, send):
    service = worker("prefork", 1).ready()
    for number in range(30):
        send(f"no.such.task{number}", queue="default")
    wait_for(lambda: history.sums("(unknown)")[3] == 30, 20, "thirty rejections")
    assert history.query("SELECT DISTINCT task, queue FROM celeriac_minute") == [
        ("(unknown)", "default")
    ]
    service.kill()


@POOLS
def test_latency_counts_from_when_a_task_was_published_or_due(worker, history, pool):
    """What waited three seconds is late; what was meant for later is not."""
    history.run(
        "t.work.delay(1); d.add.delay(1, 1)\nenqueue_many(d.quick, [('q',)])\ntime.sleep(3)"
    )
    worker(pool, 1 if pool == "solo" else 2).ready()
    history.run(
        "t.tick.apply_async(countdown=3)\n"
        "d.work.apply_async(('w',), countdown=3)\n"
        "d.flaky.apply_async(('f', 1), eta=timezone.now() + timedelta(seconds=3))"
    )
    wait_for(lambda: history.sums("jobs.durable.flaky")[0], 30)
    wait_for(lambda: history.sums("jobs.durable.work")[0], 30)
    for late in ("jobs.tasks.work", "jobs.durable.add", "jobs.durable.quick"):
        assert 3 < history.latency(late) < 20, late
    for prompt in ("jobs.tasks.tick", "jobs.durable.work", "jobs.durable.flaky"):
        assert history.latency(prompt) < 1.5, prompt


def test_a_task_that_is_sent_again_is_as_late_as_it_is_and_a_replayed_one_is_not(
    worker, history, broker
):
    history.run("d.add.delay(1, 1)")
    broker.client.flushall()
    time.sleep(2)
    worker("prefork", 1).ready()
    wait_for(lambda: history.sums("jobs.durable.add")[0], 30)
    assert history.latency("jobs.durable.add") > 2
    history.run("d.fail.delay('f')")
    wait_for(lambda: history.sums("jobs.durable.fail")[1] == 1, 30)
    first = history.latency("jobs.durable.fail")
    time.sleep(3)
    history.run("assert replay(Dead.objects.all()) == 1")
    wait_for(lambda: history.sums("jobs.durable.fail")[1] == 2, 30)
    assert 2 * history.latency("jobs.durable.fail") - first < 2


@POOLS
def test_a_worker_says_what_it_runs_and_what_it_is(worker, history, pool):
    service = worker(pool, 1 if pool == "solo" else 3, CELERIAC_RELEASE="1f2e3d").ready()
    history.run("t.work.delay(5, seconds=4)")
    running, tasks = wait_for(lambda: history.running()[0] and history.running(), 15)
    assert (running, tasks[0]["task"]) == (1, "jobs.tasks.work")
    assert "5" in tasks[0]["arguments"] and abs(tasks[0]["since"] - time.time()) < 10
    row = history.query("SELECT pool, concurrency, queues, release FROM celeriac_worker")[0]
    wanted = {"gevent": "gevent", "prefork": "prefork", "threads": "thread", "solo": "solo"}[pool]
    assert row == (wanted, 1 if pool == "solo" else 3, ["default"], "1f2e3d")
    wait_for(lambda: history.running() == (0, []), 15)
    service.kill()


def test_long_arguments_and_many_tasks_are_shortened(worker, history):
    service = worker("gevent", 150).ready()
    history.run("for n in range(120): t.work.delay('y' * 400, seconds=6)")
    running, tasks = wait_for(lambda: history.running()[0] >= 120 and history.running(), 20)
    assert len(tasks) == 100
    assert len(tasks[0]["arguments"]) == 120
    service.kill()


def test_the_leader_notes_depths_and_forgets_old_minutes_but_not_the_sums(worker, history, send):
    old = "clock_timestamp() - interval '49 hours'"
    for minute in (old, "clock_timestamp() - interval '47 hours'", "'epoch'"):
        history.server.execute(
            "INSERT INTO celeriac_minute (minute, task, queue, succeeded, failed, retried,"
            " rejected, runtime_sum, latency_sum, runtime, latency) VALUES"
            f" ({minute}, 'old', 'default', 1, 0, 0, 0, 0, 0, '{{1}}', '{{1}}')"
        )
    send("jobs.tasks.work", queue="elsewhere")
    history.run("t.work.apply_async((1,), queue='elsewhere')")
    settings = {"CELERY_TASK_ROUTES": {"jobs.tasks.tick": {"queue": "elsewhere"}}}
    worker("prefork", 1, settings=settings).ready()

    def depth():
        return history.query(
            "SELECT depth, oldest IS NOT NULL FROM celeriac_depth WHERE queue = 'elsewhere'"
        )

    wait_for(lambda: depth() == [(2, False)] or depth() == [(2, True)], 30)
    assert history.sums("old") == (1, 0, 0, 0, 1, 1)
    assert history.sums("old", "= 'epoch'") == (1, 0, 0, 0, 1, 1)


def test_depths_are_over_all_priorities_and_found_behind_a_key_prefix(history, broker):
    options = {"visibility_timeout": 600, "global_keyprefix": "ours:"}
    out = history.run(
        "for priority in (0, 3, 9): t.work.apply_async((1,), queue='q', priority=priority)\n"
        "time.sleep(1)\n"
        "(queue, other) = figures.queues(app, ['q', 'r'])\n"
        "print(json.dumps([queue.depth, queue.priorities, queue.oldest > 0.9, other.depth]))",
        PROJECT_SETTINGS=json.dumps({"CELERY_BROKER_TRANSPORT_OPTIONS": options}),
    )
    assert json.loads(out) == [3, {"0": 1, "3": 1, "9": 1}, True, 0]
    assert broker.client.llen("ours:q") == 1


def test_nothing_is_stamped_or_counted_without_the_app(broker):
    code = (
        "import os, sys, django; django.setup()\n"
        "from config import celery_app; from jobs.tasks import tick; tick.delay()\n"
        "import redis; broker = redis.Redis.from_url(os.environ['CELERY_BROKER_URL'])\n"
        "stamped = b'celeriac_due' in broker.lindex('default', 0)\n"
        "print(stamped, 'celeriac.history' in sys.modules)"
    )
    without = ["django.contrib.contenttypes", "jobs"]
    for installed, wanted in ((without, "False False"), ([*without, "celeriac"], "True True")):
        broker.client.flushall()
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=PROJECT,
            env=environment(
                DATABASE_URL=os.environ["DATABASE_URL"],
                CELERY_BROKER_URL=broker.url,
                PROJECT_SETTINGS=json.dumps({"INSTALLED_APPS": installed}),
            ),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.stdout.strip() == wanted, done.stderr


def test_beats_leader_says_when_it_ticked(start, history):
    def ticks():
        return history.query("SELECT app, leader, ticked_at FROM celeriac_tick")

    beats = [
        start("celery", "-A", "config", "beat", "--scheduler", "celeriac.beat:LeaderScheduler")
        for _ in range(2)
    ]
    for beat in beats:
        beat.ready()
    ((app, leader, first),) = wait_for(ticks, 15)
    assert app == "project" and leader.startswith("celeriac-beat ")
    wait_for(lambda: ticks()[0][2] > first, 15, "a second tick")
    out = history.run(
        "found = figures.beat(connection, app)\n"
        "print(json.dumps([found.leaders, found.standbys, found.ticked < 8]))"
    )
    assert json.loads(out) == [[leader.removeprefix("celeriac-beat ")], 1, True]
