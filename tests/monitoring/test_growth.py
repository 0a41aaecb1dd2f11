"""A pool with a lower bound grows when there is much to do, and shrinks when there is not."""

from contextlib import contextmanager

import pytest

from support.hosts import show, until

testinfra_hosts = ["ansible://web"]
JOURNAL = ("*-worker-cpu@*",)

# When no task has come for 5 s; Beat sends some all the time.
SHRINKS_WITHIN = 120
TASKS = 3000


@pytest.fixture
def size(host, variables, release):
    """Return a function that counts the processes of the pool that grows."""
    (pool,) = (found for found in variables["celery_workers"] if "min_concurrency" in found)
    unit = f"{variables['app_name']}-worker-{pool['name']}@{release.id}.service"

    def count() -> int:
        main = show(host, unit)[unit]["MainPID"]
        return len(host.run(f"pgrep --parent {main}").stdout.split())

    count.pool = pool
    return count


@pytest.fixture
def done(release):
    """Return a function that counts the tasks of this kind that have succeeded, ever."""
    return lambda: release.django(
        "from celeriac import figures\n"
        "from django.db import connections\n"
        "print(json.dumps(sum(found.outcomes['succeeded']"
        " for found in figures.totals(connections['default'])"
        " if found.task == 'celery.backend_cleanup')))"
    )


@pytest.fixture
def hosts_wanted(prometheus, size):
    """Return a function that works out the rule over half a minute, not a quarter of an hour."""
    rules = [rule for group in prometheus.api("rules")["groups"] for rule in group["rules"]]
    (rule,) = (rule for rule in rules if rule["name"] == "celeriac:pool_hosts_wanted")
    assert "[15m]" in rule["query"]
    question = rule["query"].replace("[15m]", "[30s]")

    def value() -> float:
        found = {row["metric"]["pool"]: row["value"][1] for row in prometheus.query(question)}
        return float(found.get(size.pool["name"], 0))

    return value


@pytest.fixture
def held(host, app_name):
    """Return a context in which such tasks wait for a table, each in its slot."""

    @contextmanager
    def hold():
        host.check_output(
            "systemd-run --quiet --collect --unit=held --uid=postgres"
            " psql --quiet --dbname %s --command %s",
            app_name,
            "begin; lock table django_celery_results_taskresult; select pg_sleep(120)",
        )
        try:
            yield
        finally:
            host.check_output("systemctl stop held")

    return hold


@pytest.mark.spec("G11.3")
def test_it_grows_with_the_load_and_shrinks_after_it(
    size, release, prometheus, done, hosts_wanted, held, figure
):
    before = done()
    least, most = size.pool["min_concurrency"], size.pool["concurrency"]
    until(SHRINKS_WITHIN, lambda: size() == least, "it does not begin small")
    queue = size.pool["queues"][0]
    with held():
        release.django(
            "from celery import current_app as app\n"
            f"[app.send_task('celery.backend_cleanup', queue={queue!r}) for _ in range({TASKS})]\n"
            "print(json.dumps(1))"
        )
        until(30, lambda: size() == most, "it does not grow")
        until(60, lambda: hosts_wanted() > 1, "nobody says that more hosts would help")
    waits = f'celeriac:queue_messages{{queue="{queue}"}}'
    until(120, lambda: prometheus.value(waits) == 0, "its queue does not get empty")
    until(SHRINKS_WITHIN, lambda: size() == least, "it does not shrink")
    until(30, lambda: done() - before == TASKS, f"{done() - before} of {TASKS} tasks were done")
    figure(f"The pool grew from {least} to {most} processes and shrank again")
