"""The exporter, as Prometheus sees it: real workers, and sources that go away."""

import json
import os
import signal
import socket
import time
import urllib.request

import pytest
from conftest import wait_for
from prometheus_client.parser import text_string_to_metric_families
from test_history import History


class Scrapes:
    """One exporter and what it says."""

    def __init__(self, service, port):
        self.service, self.url = service, f"http://127.0.0.1:{port}/metrics"

    def text(self):
        with urllib.request.urlopen(self.url, timeout=15) as answer:
            return answer.read().decode()

    def all(self):
        """Every sample, as name{label=value,...} with the labels in order."""
        return {
            sample.name
            + "".join(f" {name}={value}" for name, value in sorted(sample.labels.items())): (
                sample.value
            )
            for family in text_string_to_metric_families(self.text())
            for sample in family.samples
        }

    def has(self, name, value=1.0, seconds=15):
        wait_for(lambda: self.all().get(name) == value, seconds, f"{name} {value}")


@pytest.fixture
def history(database, broker):
    it = History(database, broker)
    yield it
    it.server.close()


@pytest.fixture
def exporter(start):
    def run(*arguments, port=0, **kwargs):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = port or probe.getsockname()[1]
        command = ["celeriac.metrics", "--app", "config", "--listen", f"127.0.0.1:{port}"]
        return Scrapes(start(*command, *arguments, **kwargs).ready(), port)

    return run


def test_tasks_are_counters_and_histograms_that_add_up(worker, exporter, history):
    worker("prefork", 2).ready()
    history.run(
        "for n in range(6): t.work.delay(n, seconds=0.06)\nd.fail.delay('f'); d.flaky.delay('x', 1)"
    )
    scrapes = exporter()
    label = " queue=default task=jobs.tasks.work"
    scrapes.has(f"celeriac_tasks_total outcome=succeeded{label}", 6)
    found = scrapes.all()
    assert found[f"celeriac_task_runtime_seconds_bucket le=0.05{label}"] == 0
    assert found[f"celeriac_task_runtime_seconds_bucket le=+Inf{label}"] == 6
    assert found[f"celeriac_task_runtime_seconds_count{label}"] == 6
    assert 0.36 <= found[f"celeriac_task_runtime_seconds_sum{label}"] < 6
    assert found[f"celeriac_task_latency_seconds_count{label}"] == 6
    flaky = " queue=default task=jobs.durable.flaky"
    scrapes.has(f"celeriac_tasks_total outcome=succeeded{flaky}")
    scrapes.has(f"celeriac_tasks_total outcome=retried{flaky}")
    scrapes.has("celeriac_tasks_total outcome=failed queue=default task=jobs.durable.fail")
    scrapes.has("celeriac_dead_letters reason=ValueError task=jobs.durable.fail")
    # An hour later it is the same counter.
    history.server.execute("DELETE FROM celeriac_minute WHERE minute > 'epoch'")
    assert scrapes.all()[f"celeriac_tasks_total outcome=succeeded{label}"] == 6


@pytest.mark.spec("G10.5", "G7.4")
def test_queues_workers_and_the_outbox(worker, exporter, history):
    service = worker("prefork", 2, CELERIAC_RELEASE="1f2e3d").ready()
    scrapes = exporter("--queues", "mail,reports")
    history.run(
        "for n in range(3): t.work.apply_async((n,), queue='mail', priority=n * 3)\n"
        "t.work.delay('long', seconds=100); d.add.apply_async((1, 1), countdown=500)"
    )
    name = f"prefork@{socket.gethostname()}"
    scrapes.has("celeriac_queue_messages queue=mail", 3)
    scrapes.has(f"celeriac_worker_running_tasks worker={name}")
    time.sleep(1)
    found = scrapes.all()
    assert 1 < found["celeriac_queue_oldest_message_age_seconds queue=mail"] < 60
    assert found["celeriac_queue_oldest_message_age_seconds queue=reports"] == 0
    assert found["celeriac_queue_consumers queue=default"] == 1
    assert found["celeriac_queue_consumers queue=mail"] == 0
    assert found["celeriac_unacked_messages"] == 1
    assert found["celeriac_workers"] == 1
    assert found[f"celeriac_worker_slots worker={name}"] == 2
    info = f"celeriac_worker_info pool=prefork queues=default release=1f2e3d worker={name}"
    assert found[info] == 1
    assert found["celeriac_outbox_rows state=waiting"] == 1
    assert found["celeriac_outbox_oldest_age_seconds state=due"] == 0
    os.killpg(service.pid, signal.SIGKILL)
    scrapes.has("celeriac_workers", 0)
    scrapes.has("celeriac_queue_consumers queue=default", 0)


def test_beats_lease_and_ticks(start, exporter, history):
    command = ["celery", "-A", "config", "beat", "--scheduler", "celeriac.beat:LeaderScheduler"]
    beats = [start(*command) for _ in range(2)]
    for beat in beats:
        beat.ready()
    scrapes = exporter()
    scrapes.has("celeriac_beat_leaders")
    scrapes.has("celeriac_beat_standbys")
    wait_for(lambda: scrapes.all().get("celeriac_beat_last_tick_age_seconds", 99) < 7, 15)
    leader = next(key for key in scrapes.all() if key.startswith("celeriac_beat_leader_info"))
    pid = int(leader.rpartition(":")[2])
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: scrapes.all()["celeriac_beat_last_tick_age_seconds"] > 8, 20)
    for beat in beats:
        os.killpg(beat.pid, signal.SIGKILL)
    scrapes.has("celeriac_beat_leaders", 0)


def test_a_dead_redis_does_not_take_the_other_figures_and_both_come_back(
    worker, exporter, history, broker
):
    scrapes = exporter()
    for source in ("redis", "postgresql"):
        scrapes.has(f"celeriac_source_up source={source}")
    broker.stop()
    found = scrapes.all()
    assert found["celeriac_source_up source=redis"] == 0
    assert found["celeriac_source_up source=postgresql"] == 1
    assert "celeriac_workers" in found and "celeriac_unacked_messages" not in found
    broker.start()
    scrapes.has("celeriac_source_up source=redis")
    # The tables are away, as for a release that is not migrated yet.
    history.server.execute("ALTER TABLE celeriac_outbox RENAME TO elsewhere")
    try:
        found = scrapes.all()
    finally:
        history.server.execute("ALTER TABLE elsewhere RENAME TO celeriac_outbox")
    assert found["celeriac_source_up source=postgresql"] == 0
    assert found["celeriac_queue_messages queue=default"] == 0
    scrapes.has("celeriac_source_up source=postgresql")
    assert scrapes.service.process.poll() is None


def test_it_starts_without_any_source_and_ends_cleanly(start, exporter):
    away = {"DATABASE_URL": "postgres://a:b@127.0.0.1:1/none"}
    scrapes = exporter(CELERY_BROKER_URL="redis://127.0.0.1:1/0", **away)
    found = scrapes.all()
    assert found["celeriac_source_up source=redis"] == 0
    assert found["celeriac_source_up source=postgresql"] == 0
    scrapes.service.term()
    assert scrapes.service.wait(10) == 0
    assert "STOPPING=1" in scrapes.service.manager.all()


def test_the_next_release_listens_before_the_last_one_stops(exporter):
    last = exporter()
    port = int(last.url.rpartition(":")[2].partition("/")[0])
    following = exporter(port=port)
    assert last.service.process.poll() is None
    last.service.term()
    assert last.service.wait(10) == 0
    for _ in range(5):
        assert following.all()["celeriac_source_up source=redis"] == 1


def test_a_project_without_the_tables_gets_its_queues(exporter, send, broker):
    scrapes = exporter(settings={"INSTALLED_APPS": ["django.contrib.contenttypes", "jobs"]})
    broker.client.lpush("default", json.dumps({"headers": {}}))
    found = scrapes.all()
    assert found["celeriac_queue_messages queue=default"] == 1
    assert "celeriac_source_up source=postgresql" not in found


def test_labels_are_bounded(exporter, history):
    history.server.execute(
        "INSERT INTO celeriac_dead (task_id, task, queue, message, durable, reason, error, deaths,"
        " died_at) SELECT 'id' || n, 'task' || n, 'q', '{}', false, 'KeyError', '', 1, now()"
        " FROM generate_series(1, 300) n"
    )
    found = exporter().all()
    letters = {key: value for key, value in found.items() if "celeriac_dead_letters" in key}
    assert len(letters) == 51
    assert letters["celeriac_dead_letters reason=(other) task=(other)"] == 250


def test_beyond_200_queues_those_of_the_topology_stay_and_the_others_are_counted(exporter, history):
    history.server.execute(
        "INSERT INTO celeriac_depth (minute, queue, depth)"
        " SELECT now(), 'a' || n, 1 FROM generate_series(1, 300) n"
    )
    found = exporter("--queues", "zebra,zulu").all()
    shown = {key for key in found if key.startswith("celeriac_queue_messages ")}
    assert len(shown) == 200
    assert {f"celeriac_queue_messages queue={name}" for name in ("zebra", "zulu")} <= shown
    assert found["celeriac_queues_left_out"] >= 102
