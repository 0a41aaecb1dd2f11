"""The preflight: each mistake in app or topology is named, with what to write instead."""

import json
import subprocess
import sys

import psycopg
import pytest
from celery import Celery
from conftest import PROJECT, environment

from celeriac.check import Pool, Topology, check, check_pooled

CPU = {"name": "cpu", "queues": ["default"], "pool": "prefork", "concurrency": 2}


@pytest.fixture
def app(monkeypatch):
    """A sound app with one task; a test breaks it."""
    monkeypatch.delenv("CELERY_BROKER_URL", raising=False)
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE", raising=False)
    app = Celery("shop", set_as_current=False)
    app.conf.update(
        broker_url="redis://127.0.0.1:1/0",
        task_default_queue="default",
        task_time_limit=60,
        accept_content=["json"],
    )

    @app.task(name="shop.order", shared=False)
    def order():
        pass

    app.finalize()
    return app


def add_task(app, name, **options):
    @app.task(name=name, shared=False, **options)
    def extra():
        pass


def run(app, *workers, **topology):
    pools = tuple(Pool(**{**CPU, **w, "queues": tuple(w["queues"])}) for w in workers or (CPU,))
    return check(app, Topology(workers=pools, **topology))


def only(findings, level):
    """The single finding, which must be of `level`."""
    assert len(findings) == 1, findings
    assert findings[0].startswith(f"{level}: ")
    return findings[0]


def test_a_sound_app_has_no_findings(app):
    assert run(app, postgresql_max_connections=100, web_connections=8) == []


@pytest.mark.spec("D2.2.1", "G2.6", "D6.1.4")
@pytest.mark.parametrize(
    "routes",
    [
        {"shop.report": {"queue": "reports"}},
        {"shop.rep*": "reports"},
        [[("shop.*port", {"queue": "reports"})]],
        lambda name, *_, **__: {"queue": "reports"} if name == "shop.report" else None,
    ],
    ids=["dict", "glob", "list", "callable"],
)
def test_a_routed_queue_needs_a_consumer(app, routes):
    add_task(app, "shop.report")
    app.conf.task_routes = routes
    message = only(run(app), "error")
    assert "queue 'reports' has no consumer" in message
    assert "shop.report" in message
    assert "celery_workers" in message
    assert run(app, {"queues": ["default", "reports"]}) == []


def test_a_tasks_own_queue_needs_a_consumer(app):
    add_task(app, "shop.mail", queue="mail")
    assert "queue 'mail' has no consumer, but shop.mail" in only(run(app), "error")


def test_the_default_queue_needs_a_consumer(app):
    message = only([f for f in run(app, {"queues": ["orders"]}) if "error" in f], "error")
    assert "queue 'default' has no consumer, but shop.order" in message


def test_a_router_that_cannot_be_followed_is_a_warning(app):
    app.conf.task_routes = [lambda name, args, *_, **__: {"queue": args[0]}]
    assert any("the queue of task shop.order cannot be told" in f for f in run(app))


def test_a_queue_nobody_routes_to_is_a_warning(app):
    message = only(run(app, {"queues": ["default", "ordres"]}), "warning")
    assert "celery_workers item cpu consumes 'ordres'" in message


def test_schedule_entries_are_followed_and_must_be_registered(app):
    app.conf.beat_schedule = {
        "nightly": {"task": "shop.order", "schedule": 60, "options": {"queue": "night"}},
        "typo": {"task": "shop.ordr", "schedule": 60},
    }
    findings = run(app)
    assert len(findings) == 2
    assert "beat_schedule entry 'typo' runs 'shop.ordr', which is not registered" in findings[0]
    assert "shop.order" in findings[0]
    assert "queue 'night' has no consumer, but beat_schedule entry 'nightly'" in findings[1]


@pytest.mark.spec("G3.6", "D2.1.5")
def test_a_task_longer_than_the_visibility_timeout(app):
    add_task(app, "shop.export", time_limit=7200)
    message = only(run(app), "error")
    assert "shop.export may run 7200 s" in message
    assert "visibility_timeout of 3600 s" in message
    app.conf.broker_transport_options = {"visibility_timeout": 9000}
    assert run(app) == []


def test_the_visibility_timeout_does_not_concern_rabbitmq(app):
    app.conf.broker_url = "amqp://127.0.0.1:1//"
    add_task(app, "shop.export", time_limit=7200)
    assert run(app) == []


def test_no_limit_at_all_is_a_warning(app):
    app.conf.task_time_limit = app.tasks["shop.order"].time_limit = None
    assert "shop.order has no hard time limit" in only(run(app), "warning")


def test_a_stop_timeout_shorter_than_a_task_of_that_pool(app):
    add_task(app, "shop.export", time_limit=600, queue="slow")
    fast = {"name": "fast", "queues": ["default"], "stop_timeout": 60}
    slow = {"name": "slow", "queues": ["slow"], "stop_timeout": 300}
    message = only(run(app, fast, slow), "error")
    assert "celery_workers item slow: stop_timeout is 300, but shop.export may run 600 s" in message
    assert "stop_timeout: 600" in message
    assert run(app, fast, {**slow, "stop_timeout": 600}) == []


@pytest.mark.spec("D6.1.1", "D6.1.2")
def test_gevent_needs_broker_connections_above_its_concurrency(app):
    io = {"name": "io", "queues": ["default"], "pool": "gevent", "concurrency": 10}
    message = only(run(app, io), "error")
    assert "celery_workers item io: concurrency is 10 with pool gevent" in message
    assert "max_connections of 10" in message
    assert run(app, {**io, "concurrency": 9}) == []
    app.conf.broker_transport_options = {"max_connections": 100}
    assert run(app, io) == []


def test_connections_beyond_postgresqls_limit(app):
    many = {"name": "cpu", "queues": ["default"], "concurrency": 20, "hosts": 2}
    message = only(run(app, many, postgresql_max_connections=100, web_connections=8), "error")
    assert "max_connections of 100, but up to 109 may be open: 40 by tasks, 2 by workers" in message
    assert "Write max_connections: 109 in postgresql_config" in message
    assert run(app, many, postgresql_max_connections=109, web_connections=8) == []

    # The lock of a durable task without a transaction is a session of its own.
    add_task(app, "shop.long", durable=True, atomic=False)
    message = only(run(app, many, postgresql_max_connections=109, web_connections=8), "error")
    assert "up to 189 may be open: 80 by tasks, 2 by workers" in message


def test_a_pool_behind_pgbouncer_counts_as_pgbouncers_sessions(app):
    io = {"name": "io", "queues": ["default"], "pool": "gevent", "concurrency": 9}
    assert "up to 29 may be open: 9 by tasks" in only(
        run(app, io, postgresql_max_connections=10), "error"
    )
    io["pgbouncer"] = True
    message = only(run(app, io, postgresql_max_connections=10, pgbouncer_connections=4), "error")
    assert "up to 15 may be open: 0 by tasks, 1 by workers" in message
    assert "4 by PgBouncer, and 5 kept free" in message
    add_task(app, "shop.long", durable=True, atomic=False)
    message = only(run(app, io, postgresql_max_connections=10, pgbouncer_connections=4), "error")
    assert "9 by tasks" in message, "their locks go round it"


SUITS = {"default": {"DISABLE_SERVER_SIDE_CURSORS": True}, "celeriac": {}}


@pytest.mark.parametrize(
    ("default", "rest", "named"),
    [
        ({}, {"celeriac": {}}, "allows server-side cursors"),
        (SUITS["default"], {}, "DATABASES has no 'celeriac'"),
        (SUITS["default"] | {"OPTIONS": {"pool": True}}, {"celeriac": {}}, "has 'pool'"),
        (SUITS["default"] | {"OPTIONS": {"prepare_threshold": 0}}, {"celeriac": {}}, "'prepare_th"),
        (SUITS["default"] | {"OPTIONS": {"options": "-c x=1"}}, {"celeriac": {}}, "has 'options'"),
    ],
)
def test_settings_that_do_not_suit_pgbouncer(default, rest, named):
    assert list(check_pooled(SUITS, durable=True)) == []
    message = only(list(check_pooled({"default": default} | rest, durable=True)), "error")
    assert named in message
    assert "Where DATABASE_DIRECT_URL is set, " in message


def test_a_project_without_durable_tasks_needs_no_way_round_pgbouncer():
    assert list(check_pooled({"default": SUITS["default"]}, durable=False)) == []


def test_command_looks_at_the_settings_of_a_pool_behind_pgbouncer(database):
    result = command(database, "--pooled")
    assert result.returncode == 1
    assert "DATABASES has no 'celeriac'" in result.stdout
    settings = {"DATABASES": {"default": SUITS["default"], "celeriac": {}}}
    assert command(database, "--pooled", settings=settings).returncode == 0


@pytest.mark.spec("G2.3", "D1.2.2")
def test_a_missing_broker_url(app):
    app.conf.broker_url = None
    assert "the app has no broker_url" in only(run(app), "error")


def test_an_unknown_kind_of_broker(app):
    app.conf.broker_url = "reddis://127.0.0.1:1/0"
    assert "broker_url cannot be used" in only(run(app), "error")


@pytest.mark.spec("D7.3.5", "D1.2.4")
@pytest.mark.parametrize("setting", ["accept_content", "result_accept_content"])
def test_pickle(app, setting):
    app.conf[setting] = ["json", "pickle"]
    message = only(run(app), "error")
    assert f"{setting} allows pickle" in message
    assert f"CELERY_{setting.upper()} = ['json']" in message


def command(database, *options, stdin=None, settings=None, **env):
    return subprocess.run(
        [sys.executable, "-m", "celeriac.check", "--app", "config", *options],
        cwd=PROJECT,
        env=environment(DATABASE_URL=database, PROJECT_SETTINGS=json.dumps(settings or {}), **env),
        input=stdin if stdin is not None else json.dumps({"workers": [CPU]}),
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_command_with_a_sound_project(database):
    result = command(database, "--database")
    assert (result.returncode, result.stdout) == (0, ""), result.stderr


def test_command_with_an_app_that_cannot_be_imported(database):
    result = command(database, settings={"INSTALLED_APPS": ["nowhere"]})
    assert result.returncode == 1
    assert result.stdout.startswith("error: the Celery app 'config' cannot be loaded: ModuleNotF")
    assert "Traceback" in result.stdout


@pytest.mark.parametrize(
    ("stdin", "named"),
    [
        ("", "JSONDecodeError"),
        ('{"workers": [{"name": "cpu", "concurency": 2}]}', "concurency"),
        ('{"workers": [], "web_conections": 2}', "web_conections"),
        ("{}", "workers"),
    ],
)
def test_a_bad_topology_is_refused_by_name(database, stdin, named):
    with pytest.raises((ValueError, TypeError, KeyError), match=named if "{" in stdin else None):
        Topology.read(stdin)


@pytest.mark.spec("D3.2.2")
def test_command_follows_periodic_tasks_in_the_database(database):
    with psycopg.connect(database, autocommit=True) as server:
        every = server.execute(
            "INSERT INTO django_celery_beat_intervalschedule (every, period) "
            "VALUES (1, 'days') RETURNING id"
        ).fetchone()[0]
        server.execute(
            "INSERT INTO django_celery_beat_periodictask (name, task, interval_id, args, kwargs,"
            " queue, enabled, total_run_count, date_changed, description, one_off, headers) "
            "VALUES ('mine', 'jobs.tasks.tick', %s, '[]', '{}', 'night', true, 0, now(), '',"
            " false, '{}')",
            [every],
        )
    try:
        result = command(database, "--database")
        assert result.returncode == 1, result.stdout
        assert "queue 'night' has no consumer, but periodic task 'mine'" in result.stdout
        assert command(database).returncode == 0, "only with --database"
    finally:
        with psycopg.connect(database, autocommit=True) as server:
            server.execute("TRUNCATE django_celery_beat_periodictask CASCADE")


def test_command_without_a_database_warns(database):
    result = command("postgres://nobody:x@127.0.0.1:1/none", "--database")
    assert result.returncode == 0
    assert "warning: periodic tasks in the database were not checked" in result.stdout
