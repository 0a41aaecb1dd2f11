"""Two Beats on one database: exactly one of them ticks, whatever happens to it."""

import json
import os
import random
import signal
import time
from ast import literal_eval
from collections import Counter
from datetime import UTC, datetime, timedelta

import celery.schedules
import psycopg
import pytest
from celery import Celery
from celery.beat import Scheduler, event_t
from celery.exceptions import ImproperlyConfigured
from conftest import wait_for

from celeriac.beat import LeaderScheduler, due_times, scheduler_class

EVERY_HALF_SECOND = {"tick": {"task": "jobs.tasks.tick", "schedule": 0.5}}


@pytest.fixture
def beat(start, database):
    """Start a Beat with the lease around Celery's plain in-memory scheduler."""
    with psycopg.connect(database, autocommit=True) as server:
        server.execute("TRUNCATE django_celery_beat_periodictask CASCADE")

    def run(scheduler="celery.beat:Scheduler", schedule=EVERY_HALF_SECOND, settings=None, **env):
        return start(
            *["celery", "-A", "config", "beat", "--scheduler", "celeriac.beat:LeaderScheduler"],
            settings={"CELERY_BEAT_SCHEDULE": schedule} | (settings or {}),
            CELERIAC_BEAT_SCHEDULER=scheduler,
            **env,
        )

    return run


def ticks(broker, service=None):
    """The messages in the queue, of one Beat or of all."""
    messages = [json.loads(m)["headers"] for m in broker.client.lrange("default", 0, -1)]
    return [m for m in messages if service is None or m["origin"].startswith(f"gen{service.pid}@")]


def terminate_leases(database):
    with psycopg.connect(database, autocommit=True) as server:
        server.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name LIKE 'celeriac-beat%'"
        )


@pytest.mark.spec("D6.2.1", "D6.2.3", "D7.1.2", "D7.1.6", "G2.7")
def test_of_two_only_the_leader_ticks_and_the_standby_takes_over_after_a_kill(beat, broker):
    leader = beat().ready()
    wait_for(lambda: ticks(broker), 10)
    standby = beat(WATCHDOG_USEC="2000000").ready()
    assert "STATUS=leading: Scheduler is ticking" in leader.manager.all("STATUS")
    assert any(
        line.startswith("STATUS=standby: waiting for the lease held by ")
        and line.endswith(f":{leader.pid}")
        for line in standby.manager.all("STATUS")
    )
    time.sleep(2)
    assert standby.manager.all("WATCHDOG")
    assert ticks(broker, standby) == []
    assert len(ticks(broker, leader)) >= 4
    leader.process.kill()
    killed = time.monotonic()
    wait_for(lambda: ticks(broker, standby), 5)
    assert time.monotonic() - killed < 5
    assert standby.manager.since(killed, "STATUS=leading")
    standby.term()
    assert standby.wait(5) == 0
    assert standby.manager.all("STOPPING")


@pytest.mark.spec("D6.2.3")
def test_a_beat_that_lost_its_lease_exits_and_never_ticks_again(beat, broker, database):
    leader, standby = beat().ready(), beat().ready()
    wait_for(lambda: ticks(broker, leader), 10)
    standby.term()
    assert standby.wait(5) == 0, "a standby leaves at once"
    terminate_leases(database)
    assert leader.wait(5) == 1
    sent = len(ticks(broker))
    assert any("lost the lease" in line for line in leader.manager.all("STATUS"))
    time.sleep(1)
    assert len(ticks(broker)) == sent


def test_the_lease_belongs_to_the_database_not_to_the_server(beat, database):
    beat().ready()
    other = psycopg.conninfo.conninfo_to_dict(database)
    url = os.environ["DATABASE_URL"]
    assert other["dbname"] not in url
    second = beat(DATABASE_URL=url).ready()
    assert "STATUS=leading: Scheduler is ticking" in second.manager.all("STATUS")


@pytest.mark.spec("D6.2.2", "D3.1.1")
def test_the_database_scheduler_is_chosen_and_read_only_with_the_lease(beat, broker, database):
    first = beat(scheduler="").ready()
    assert "STATUS=leading: DatabaseScheduler is ticking" in first.manager.all("STATUS")
    wait_for(lambda: ticks(broker, first), 10)
    second = beat(scheduler="").ready()
    with psycopg.connect(database, autocommit=True) as server:
        runs = "SELECT total_run_count FROM django_celery_beat_periodictask WHERE name = 'tick'"
        assert server.execute(runs).fetchone()[0] > 0, "a run is saved as soon as it is sent"
        # Behind the scheduler's back, so that only a fresh read can see it.
        server.execute("UPDATE django_celery_beat_periodictask SET enabled = false")
    first.process.kill()
    wait_for(lambda: any("leading" in x for x in second.manager.all("STATUS")), 5)
    time.sleep(1)
    assert ticks(broker, second) == []


def test_a_run_that_is_due_waits_for_a_broker_that_is_not_there_yet(beat, broker):
    broker.stop()
    leader = beat(WATCHDOG_USEC="4000000").ready()
    wait_for(lambda: "STATUS=leading: waiting for the broker" in leader.manager.all(), 10)
    waiting = time.monotonic()
    time.sleep(2)
    assert leader.manager.since(waiting, "WATCHDOG")
    broker.start()
    wait_for(lambda: ticks(broker, leader), 10)


def every(seconds, *names):
    """A schedule of one entry for each name, which is also its argument."""
    return {
        name: {"task": "jobs.tasks.work", "schedule": seconds, "args": [name]} for name in names
    }


def names_in_order(broker):
    return [literal_eval(m["argsrepr"])[0] for m in reversed(ticks(broker))]


def test_runs_that_fall_due_while_the_broker_is_down_are_sent_once_and_in_order(beat, broker):
    leader = beat(schedule=every(4, "a") | every(4.3, "b"), WATCHDOG_USEC="4000000").ready()
    wait_for(lambda: len(ticks(broker)) == 2, 10)
    first = time.monotonic()
    broker.stop()
    wait_for(lambda: "Keeping the due run of a" in leader.log(), 10)
    waiting = time.monotonic()
    wait_for(lambda: leader.manager.since(waiting, "WATCHDOG"), 3)
    broker.start()
    wait_for(lambda: len(ticks(broker)) == 4, 3)
    assert time.monotonic() - first < 7.2, "sent when the broker was back, before the next run"
    assert names_in_order(broker) == ["a", "b", "a", "b"]
    wait_for(lambda: len(ticks(broker)) == 5, 5)
    assert names_in_order(broker)[4] == "a"
    assert 7.2 < time.monotonic() - first < 9, "a's schedule goes on from when its run was due"
    assert len({m["id"] for m in ticks(broker)}) == 5


def test_a_run_waits_for_a_broker_that_is_full(beat, broker):
    leader = beat(schedule=every(2, "a")).ready()
    wait_for(lambda: len(ticks(broker)) == 1, 10)
    broker.client.config_set("maxmemory", 1)
    wait_for(lambda: "Keeping the due run of a" in leader.log(), 10)
    assert len(ticks(broker)) == 1
    broker.client.config_set("maxmemory", 0)
    wait_for(lambda: len(ticks(broker)) >= 2, 3)


@pytest.mark.parametrize("options", [{"serializer": "nonsense"}, {"queue": "forbidden"}])
def test_a_run_that_can_never_be_sent_does_not_stop_the_others(beat, broker, options):
    schedule = every(0.5, "a", "b")
    schedule["a"]["options"] = options
    limit = ["ACL", "SETUSER", "default", "resetkeys"]
    broker.client.execute_command(*limit, "~default*", "~_kombu*")
    try:
        leader = beat(schedule=schedule).ready()
        wait_for(lambda: names_in_order(broker)[:3] == ["b", "b", "b"], 20)
        assert "Couldn't apply scheduled task a" in leader.log()
        assert "Keeping the due run" not in leader.log()
    finally:
        broker.client.execute_command(*limit, "~*")


@pytest.mark.parametrize(("end", "status"), [(signal.SIGTERM, 0), (signal.SIGKILL, -9)])
def test_a_beat_that_ends_while_it_waits_leaves_the_run_due(beat, broker, database, end, status):
    row = "SELECT total_run_count FROM django_celery_beat_periodictask WHERE name = 'a'"
    with psycopg.connect(database, autocommit=True) as server:
        first = beat(scheduler="", schedule=every(8, "a")).ready()
        wait_for(lambda: len(ticks(broker)) == 1, 10)
        broker.stop()
        wait_for(lambda: "Keeping the due run of a" in first.log(), 15)
        first.process.send_signal(end)
        assert first.wait(5) == status
        assert server.execute(row).fetchone() == (1,)
        broker.start()
        beat(scheduler="", schedule=every(8, "a")).ready()
        wait_for(lambda: len(ticks(broker)) == 2, 6, "the run that was due, before the next one is")


def test_a_run_that_was_sent_but_not_saved_is_sent_again_with_the_same_id(beat, broker, database):
    table = "django_celery_beat_periodictask"
    read = f"SELECT last_run_at, total_run_count FROM {table} WHERE name = 'a'"
    with psycopg.connect(database, autocommit=True) as server:
        first = beat(scheduler="", schedule=every(2, "a")).ready()
        wait_for(lambda: (server.execute(read).fetchone() or (0, 0))[1] == 1, 10)
        saved = server.execute(read).fetchone()
        wait_for(lambda: len(ticks(broker)) == 2, 5)
        first.process.kill()
        # As if the kill had come before the second save.
        server.execute(
            f"UPDATE {table} SET last_run_at = %s, total_run_count = %s WHERE name = 'a'", saved
        )
        beat(scheduler="", schedule=every(2, "a")).ready()
        wait_for(lambda: len(ticks(broker)) >= 3, 3)
        ids = [m["id"] for m in reversed(ticks(broker))]
        assert ids[0] != ids[1] == ids[2]


DURABLE = {
    name: {"task": "jobs.durable.scheduled", "schedule": 1.0, "args": [name]} for name in "ab"
}


@pytest.fixture
def durable_runs(database, broker):
    """Check that each recorded run of DURABLE took place once; gives how many there were."""
    with psycopg.connect(database, autocommit=True) as server:
        server.execute("TRUNCATE jobs_effect, celeriac_outbox, celeriac_dead")

        def check():
            def owed():
                return server.execute("SELECT count(*) FROM celeriac_outbox").fetchone()[0]

            wait_for(lambda: owed() == 0, 20, "an empty outbox")
            recorded = server.execute(
                "SELECT name, total_run_count FROM django_celery_beat_periodictask"
                " WHERE name IN ('a', 'b')"
            )
            ran = [name for (name,) in server.execute("SELECT name FROM jobs_effect")]
            assert len(set(ran)) == len(ran), "a run took place twice"
            assert Counter(name[0] for name in ran) == dict(recorded.fetchall())
            return len(ran)

        yield check


@pytest.mark.faults
@pytest.mark.parametrize("point", ["due", "owed", "saved", "committed", "published"])
def test_a_durable_run_takes_place_once_wherever_beat_is_killed(
    beat, worker, broker, durable_runs, point
):
    kill = {"PROJECT_KILL_AT": point}
    settings = {"CELERY_INCLUDE": ["jobs.kill_beat"]}
    first = beat(scheduler="", schedule=DURABLE, settings=settings, **kill).ready()
    assert first.wait(20) == -signal.SIGKILL
    second = beat(scheduler="", schedule=DURABLE).ready()
    worker().ready()
    seen = int(broker.marks.get("reached"))
    assert seen == 3
    time.sleep(3)
    second.term()
    assert second.wait(5) == 0
    assert durable_runs() >= 6


@pytest.mark.faults
def test_durable_runs_take_place_once_through_many_kills_at_random(beat, worker, durable_runs):
    worker().ready()
    leader = beat(scheduler="", schedule=DURABLE).ready()
    for _ in range(15):
        standby = beat(scheduler="", schedule=DURABLE).ready()
        time.sleep(random.uniform(0.5, 2))
        leader.process.kill()
        wait_for(lambda service=standby: "STATUS=leading" in str(service.manager.all()), 15)
        leader = standby
    time.sleep(1)
    leader.term()
    assert leader.wait(5) == 0
    assert durable_runs() >= 15


def test_durable_runs_do_not_wait_for_the_broker(beat, worker, broker, database, durable_runs):
    broker.stop()
    leader = beat(scheduler="", schedule=DURABLE).ready()
    with psycopg.connect(database, autocommit=True) as server:
        rows = "SELECT count(DISTINCT task_id) FROM celeriac_outbox"
        wait_for(lambda: server.execute(rows).fetchone()[0] >= 4, 10)
    assert "waiting for the broker" not in str(leader.manager.all())
    broker.start()
    worker().ready()
    leader.term()
    assert leader.wait(5) == 0
    assert durable_runs() >= 4


def test_a_durable_run_that_cannot_be_saved_stays_due(beat, broker, database):
    """PostgreSQL gives up on the transaction: nobody knows, so Beat leaves and looks again."""
    with psycopg.connect(database, autocommit=True) as server:
        server.execute("TRUNCATE celeriac_outbox")
        limit = {"OPTIONS": {"options": "-c lock_timeout=500"}}
        leader = beat(scheduler="", schedule=DURABLE, PROJECT_DATABASE=json.dumps(limit)).ready()
        wait_for(lambda: ticks(broker), 10)
        with server.transaction():
            server.execute("LOCK TABLE django_celery_beat_periodictask IN SHARE MODE")
            assert leader.wait(10) == 1
            recorded = server.execute(
                "SELECT sum(total_run_count) FROM django_celery_beat_periodictask"
            ).fetchone()
            owed = server.execute("SELECT count(*) FROM celeriac_outbox").fetchone()
            assert owed == recorded
    assert any("could not save the run of" in x for x in leader.manager.all("STATUS"))


def test_the_leader_says_which_runs_were_missed_in_a_pause(beat, broker):
    leader = beat(schedule=every(1, "a") | every(3600, "b")).ready()
    wait_for(lambda: len(ticks(broker)) >= 2, 10)
    leader.process.send_signal(signal.SIGSTOP)
    time.sleep(8)
    leader.process.send_signal(signal.SIGCONT)
    wait_for(lambda: "a missed " in leader.log(), 5)
    wait_for(lambda: leader.manager.all("STATUS=leading: Scheduler is ticking; runs missed"), 5)
    assert "b missed" not in leader.log()


def test_an_entry_that_ran_by_a_clock_that_was_ahead_does_not_wait_for_it(beat, broker, database):
    first = beat(scheduler="", schedule=every(1, "a")).ready()
    wait_for(lambda: ticks(broker, first), 10)
    first.process.kill()
    first.wait(5)
    with psycopg.connect(database, autocommit=True) as server:
        server.execute(
            "UPDATE django_celery_beat_periodictask SET last_run_at = now() + interval '1 hour'"
        )
    second = beat(scheduler="", schedule=every(1, "a")).ready()
    wait_for(lambda: ticks(broker, second), 10)
    assert "a ran last at " in second.log()
    wait_for(lambda: len(ticks(broker, second)) >= 3, 10)
    identities = [message["id"] for message in ticks(broker)]
    assert len(set(identities)) == len(identities)


@pytest.mark.parametrize(("back", "left"), [(3600, 0), (1, 1)])
@pytest.mark.parametrize("kept", ["schedule", "heap"])
def test_a_clock_that_is_set_back_under_beat_is_noticed(monkeypatch, kept, back, left):
    """DatabaseScheduler keeps an entry that has run in its heap alone."""
    app = Celery(set_as_current=False)
    scheduler = LeaderScheduler.__new__(LeaderScheduler)
    scheduler.inner = Scheduler(app, lazy=True)
    scheduler.clock = float("inf")
    scheduler.count_from_now()
    now = datetime.now(UTC)
    entry = scheduler.inner.Entry(name="a", schedule=5, app=app, last_run_at=now)
    entry.last_run_at += timedelta(seconds=back)
    if kept == "schedule":
        scheduler.inner.data = {"a": entry}
    else:
        later = time.time() + back
        scheduler.inner._heap = [event_t(later, 5, entry), event_t(later, 5, entry)]
    scheduler.count_from_now()
    assert entry.last_run_at - now == timedelta(seconds=back), "the clock goes as ever"
    moment = time.time()
    monkeypatch.setattr(time, "time", lambda: moment - back)
    scheduler.count_from_now()
    assert round((entry.last_run_at - now).total_seconds()) == left
    if kept == "heap" and back == 3600:
        assert all(event.time - moment < 10 for event in scheduler.inner._heap)


@pytest.mark.parametrize(
    ("schedule", "hours", "missed"),
    [
        (celery.schedules.schedule(3600), 5.1, 5),
        (celery.schedules.crontab(minute=30), 5.1, 5),
        (celery.schedules.crontab(minute=30, hour=3), 5.1, 0),
        (celery.schedules.BaseSchedule(), 5.1, 0),
        (celery.schedules.schedule(0.001), 5.1, 1000),
    ],
)
def test_due_times_since_the_last_run(schedule, hours, missed):
    last = datetime(2026, 3, 2, 12, 0, 1, tzinfo=UTC)
    assert len(due_times(schedule, last, last + timedelta(hours=hours))) == missed


def test_another_database_is_refused_by_name(beat):
    sqlite = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
    service = beat(settings={"DATABASES": {"default": sqlite}})
    assert service.wait() != 0
    assert "needs PostgreSQL as the `default` database" in service.log()
    assert service.manager.all("READY") == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere:Scheduler", "'nowhere:Scheduler' cannot be imported"),
        ("celeriac.beat:LeaderScheduler", "names the lease itself"),
    ],
)
def test_a_bad_scheduler_is_refused_by_name(monkeypatch, name, message):
    monkeypatch.setenv("CELERIAC_BEAT_SCHEDULER", name)
    with pytest.raises(ImproperlyConfigured, match=message):
        scheduler_class(Celery(set_as_current=False))


def test_the_apps_own_scheduler_is_led(monkeypatch):
    monkeypatch.delenv("CELERIAC_BEAT_SCHEDULER", raising=False)
    app = Celery(set_as_current=False)
    app.conf.beat_scheduler = "celery.beat:Scheduler"
    assert scheduler_class(app) is Scheduler


def test_sigterm_does_not_interrupt_a_tick(monkeypatch):
    """A run is sent and saved, or neither."""
    from celery import Celery

    monkeypatch.setenv("CELERIAC_BEAT_SCHEDULER", "celery.beat:Scheduler")
    scheduler = LeaderScheduler(app=Celery(set_as_current=False), lazy=True)
    monkeypatch.setattr(scheduler, "verify", lambda: None)
    monkeypatch.setattr(scheduler, "report", lambda: None)
    before = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)}
    steps = []

    def tick():
        steps.append("send")
        os.kill(os.getpid(), signal.SIGTERM)
        steps.append("save")
        return 1.0

    try:
        scheduler.take_signals()
        scheduler.longest_sleep = 5
        scheduler.inner.tick = tick
        with pytest.raises(SystemExit):
            scheduler.tick()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert steps == ["send", "save"]


@pytest.fixture
def rivals(database):
    """Return a function that counts the Beats that send in turns, as the metrics do."""
    from celeriac.rivals import RIVALS

    with psycopg.connect(database, autocommit=True) as server:
        server.execute("TRUNCATE celeriac_beat")
        yield lambda: server.execute(RIVALS, ["project"]).fetchone()[0]


def test_a_beat_outside_of_the_lease_is_noticed(beat, start, broker, rivals, tmp_path):
    leader = beat(schedule={"tick": {"task": "jobs.tasks.tick", "schedule": 2}}).ready()
    wait_for(lambda: ticks(broker, leader), 10)
    assert rivals() == 0
    stranger = start(
        *["celery", "-A", "config", "beat", "--schedule", str(tmp_path / "schedule")],
        settings={"CELERY_BEAT_SCHEDULE": EVERY_HALF_SECOND},
    )
    wait_for(lambda: ticks(broker, stranger), 60)
    wait_for(lambda: rivals() == 2, 30, "nobody notices the second Beat")


def test_one_beat_after_another_is_no_rival(beat, broker, rivals):
    leader = beat().ready()
    standby = beat().ready()
    wait_for(lambda: ticks(broker, leader), 10)
    leader.process.kill()
    wait_for(lambda: ticks(broker, standby), 10)
    time.sleep(11)  # both have noted themselves
    assert rivals() == 0
