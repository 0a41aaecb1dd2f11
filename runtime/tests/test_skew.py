"""What a release knows, and what it would meet and not know."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from conftest import PROJECT, SOURCE, environment


@pytest.fixture
def server(database):
    """A session of the test's own, which leaves nothing behind."""
    with psycopg.connect(database, autocommit=True) as session:
        yield session
        session.execute("DELETE FROM celeriac_outbox")
        session.execute("DELETE FROM django_celery_beat_periodictask")
        session.execute("DELETE FROM django_migrations WHERE name LIKE '9%'")


@pytest.fixture
def ask(database, broker):
    """Return a function that asks as the playbooks do: piped into the release's Python."""

    def run(*arguments, **env):
        done = subprocess.run(
            [sys.executable, "-", "--app", "config", *arguments],
            input=(SOURCE / "celeriac/skew.py").read_text(),
            cwd=PROJECT,
            env=environment(**{"DATABASE_URL": database, "CELERY_BROKER_URL": broker.url} | env),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture
def call(database, broker):
    """Return a function that calls a task by name, as an older release would."""

    def run(name, **options):
        code = (
            "import json, sys; from config.celery import app;"
            "app.send_task(sys.argv[1], **json.loads(sys.argv[2]))"
        )
        subprocess.run(
            [sys.executable, "-c", code, name, json.dumps(options)],
            cwd=PROJECT,
            env=environment(DATABASE_URL=database, CELERY_BROKER_URL=broker.url),
            check=True,
        )

    return run


def test_it_tells_its_tasks_and_migrations_and_nothing_is_left_over(ask, server):
    found = ask()
    assert "jobs.tasks.work" in found["tasks"]
    assert ["celeriac", "0001_initial"] in found["migrations"]
    for nothing in ("unapplied", "beyond", "queued", "owed", "scheduled", "unseen"):
        assert not found[nothing], nothing


def test_tasks_that_wait_in_any_queue_are_counted_by_name(ask, call, broker):
    for _ in range(3):
        call("jobs.dropped")
    call("jobs.urgent", queue="elsewhere", priority=9)
    call("jobs.tasks.work", args=[1])
    assert ask()["queued"] == {"jobs.dropped": 3, "jobs.urgent": 1}


def test_a_delayed_task_in_a_workers_hands_counts_and_a_running_one_does_not(ask, broker):
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    for tag, eta in (("a", soon), ("b", None)):
        message = {"headers": {"task": f"jobs.{tag}", "eta": eta}}
        broker.client.hset("unacked", tag, json.dumps([message, "", "default"]))
    assert ask()["queued"] == {"jobs.a": 1}


def test_at_most_so_many_messages_are_read(ask, call):
    for _ in range(2):
        call("jobs.dropped")
    assert ask("--messages", "0")["queued"] == {}


def test_the_outbox_and_the_schedule_are_asked_too(ask, server):
    server.execute(
        "INSERT INTO celeriac_outbox (task_id, task, queue, message, error, due_at, sends, strikes,"
        " created_at) VALUES ('1', 'jobs.owed', 'default', '{}', '', now(), 0, 0, now())"
    )
    columns = (
        "name, task, args, kwargs, headers, one_off, enabled, total_run_count, date_changed,"
        " description"
    )
    for name, task, enabled in (("nightly", "jobs.night", True), ("old", "jobs.off", False)):
        server.execute(
            f"INSERT INTO django_celery_beat_periodictask ({columns})"
            " VALUES (%s, %s, '[]', '{}', '{}', false, %s, 0, now(), '')",
            [name, task, enabled],
        )
    found = ask()
    assert found["owed"] == {"jobs.owed": 1}
    assert found["scheduled"] == {"jobs.night": ["nightly"]}


def test_a_schema_that_has_moved_past_the_release_is_told(ask, server):
    server.execute(
        "INSERT INTO django_migrations (app, name, applied) VALUES ('jobs', '9999_next', now())"
    )
    assert ask()["beyond"] == [["jobs", "9999_next"]]


def test_without_the_broker_the_rest_is_told(ask):
    found = ask(CELERY_BROKER_URL="redis://127.0.0.1:1/0")
    assert "jobs.tasks.work" in found["tasks"]
    assert "the queues" in found["unseen"][0]


def test_the_check_says_the_same_of_the_release_itself(ask, database):
    """So that a deploy need not ask a release that knows what the running one knows."""
    topology = {"workers": [], "postgresql_max_connections": 100, "web_connections": 1}
    done = subprocess.run(
        [sys.executable, "-m", "celeriac.check", "--app", "config", "--facts"],
        input=json.dumps(topology),
        cwd=PROJECT,
        env=environment(DATABASE_URL="postgres://nobody@127.0.0.1:1/nothing"),
        capture_output=True,
        text=True,
    )
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("facts: ")]
    said, asked = json.loads(line.removeprefix("facts: ")), ask()
    assert len(said["tasks"]) > 10
    assert len(said["migrations"]) > 10
    assert said == {name: asked[name] for name in ("tasks", "migrations")}
