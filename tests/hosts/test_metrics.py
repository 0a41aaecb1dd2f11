"""The exporter: it answers on loopback with figures of the app that runs here."""

import re

import pytest

testinfra_hosts = ["ansible://beat"]
JOURNAL = ("*-metrics@*",)


@pytest.fixture(scope="module")
def samples(host, variables, app_name, release):
    """Every sample that Prometheus would get, by its name and labels."""
    if not variables["metrics_enabled"]:
        pytest.skip("metrics_enabled is off")
    url = f"http://127.0.0.1:{variables['metrics_port']}/metrics"
    code = f"import urllib.request as r; print(r.urlopen('{url}', timeout=20).read().decode())"
    text = host.check_output("python3 -c %s", code)
    rows = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in rows if name}


def test_redis_answers(samples):
    assert samples['celeriac_source_up{source="redis"}'] == 1


@pytest.mark.spec("G7.4", "G10.5")
@pytest.mark.parametrize("figure", ["queue_messages", "queue_oldest_message_age_seconds"])
def test_every_queue_of_the_topology_is_watched(samples, variables, figure):
    queues = {queue for pool in variables["celery_workers"] for queue in pool["queues"]}
    found = {re.search('queue="([^"]+)"', name) for name in samples if f"{figure}{{" in name}
    assert queues <= {match[1] for match in found if match}


@pytest.fixture(scope="module")
def tables(samples):
    """Skip for an app without the tables of the runtime."""
    if 'celeriac_source_up{source="postgresql"}' not in samples:
        pytest.skip('"celeriac" is not in INSTALLED_APPS')


def test_every_worker_of_this_release_is_seen(samples, tables, variables, release):
    found = {
        match[1]
        for name in samples
        if (match := re.match(r'celeriac_worker_info\{.*worker="([^"@]+)@', name))
    }
    assert found == {f"{pool['name']}-{release.id}" for pool in variables["celery_workers"]}


def test_each_queue_has_a_consumer(samples, tables, variables):
    for pool in variables["celery_workers"]:
        for queue in pool["queues"]:
            assert samples[f'celeriac_queue_consumers{{queue="{queue}"}}'] >= 1


def test_one_beat_leads_and_ticks(samples, tables, variables):
    if not variables["celery_beat_lease"]:
        pytest.skip("celery_beat_lease is off")
    assert samples["celeriac_beat_leaders"] == 1
    assert samples["celeriac_beat_last_tick_age_seconds"] < 15
