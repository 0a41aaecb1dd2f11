"""The workers: each pool is what celery_workers says, and consumes its queues."""

import zlib

import pytest

testinfra_hosts = ["ansible://all"]
JOURNAL = ("*-worker-*",)

# After the first question it is known how many will answer the others.
INSPECT = """
from celery import current_app as app
everybody = app.control.inspect(timeout=2).stats() or {}
found = {name: {"stats": stats} for name, stats in everybody.items()}
for what in ("active_queues", "conf"):
    answers = getattr(app.control.inspect(timeout=5, limit=len(found)), what)() or {}
    for name, value in answers.items():
        found[name][what] = value
print(json.dumps(found, default=str))
"""


@pytest.fixture(scope="module", autouse=True)
def runs_workers(variables):
    """Skip on hosts of other parts."""
    if not variables["celery_pools"]:
        pytest.skip("no workers run here")


@pytest.fixture(scope="module")
def workers(release, variables):
    """What every worker says of itself, by its name."""
    if "worker" not in variables["release_roles"]:
        pytest.skip("workers are asked from where one may ask them: a host of workers")
    return release.django(INSPECT, "worker")


@pytest.fixture(scope="module")
def local_pool(pool, variables):
    """The pool, where this host runs it."""
    if pool not in variables["celery_pools"]:
        pytest.skip(f"{pool['name']} runs on {pool.get('hosts', 'workers')}")
    return {"pool": "prefork", "concurrency": 2, "max_tasks": 0, "prefetch": 1} | pool


@pytest.fixture(scope="module")
def worker(local_pool, workers, release, host):
    """What the pool's worker on this host says of itself."""
    name = f"{local_pool['name']}-{release.id}@{host.check_output('hostname')}"
    assert name in workers
    return workers[name]


@pytest.mark.spec("D7.2.1", "G11.1", "G7.6", "D6.4.5")
def test_the_worker_answers_over_the_broker(worker, variables):
    transport = "rediss" if variables["celeriac_many_hosts"] else "redis"
    assert worker["stats"]["broker"]["transport"] == transport


@pytest.mark.spec("D6.1.4", "G2.6", "G1.2", "D2.2.3")
def test_it_consumes_exactly_its_queues(worker, local_pool):
    assert {queue["name"] for queue in worker["active_queues"]} == set(local_pool["queues"])


@pytest.mark.spec("D6.1.1")
def test_it_has_the_pool_implementation_of_the_inventory(worker, local_pool):
    assert local_pool["pool"] in worker["stats"]["pool"]["implementation"]


@pytest.mark.spec("D6.1.2", "G10.1")
def test_it_has_the_concurrency_of_the_inventory(worker, local_pool):
    pool = worker["stats"]["pool"]
    # prefork lists its children; the others only count.
    found = int(len(pool.get("processes", [])) or pool.get("max-concurrency") or pool["limit"])
    most = local_pool["concurrency"]
    least = local_pool.get("min_concurrency", most)
    assert least <= found <= most
    # Nothing but where the pool grows and shrinks.
    scaler = worker["stats"].get("autoscaler", {"min": most, "max": most})
    assert (scaler["min"], scaler["max"]) == (least, most)


@pytest.mark.spec("D6.1.3")
def test_children_are_replaced_after_the_tasks_of_the_inventory(worker, local_pool):
    """Only prefork has children; the other pools have no such limit at all."""
    limit = str(local_pool["max_tasks"] or "N/A") if local_pool["pool"] == "prefork" else "None"
    assert str(worker["stats"]["pool"].get("max-tasks-per-child")) == limit


@pytest.mark.spec("G10.2")
def test_it_fetches_no_more_than_the_inventory_says(worker, local_pool):
    limit = local_pool["concurrency"] * local_pool["prefetch"]
    assert 0 < worker["stats"]["prefetch_count"] <= limit


@pytest.mark.spec("D7.3.5", "D1.2.4")
def test_nothing_is_unpickled(release, local_pool):
    accepted = release.django(
        "from celery import current_app as app\n"
        "print(json.dumps([*app.conf.accept_content, *(app.conf.result_accept_content or [])]))"
    )
    assert [kind for kind in accepted if "pickle" in kind or "python-serialize" in kind] == []


def test_every_worker_of_the_broker_is_of_the_current_release(workers, release):
    strangers = [name for name in workers if f"-{release.id}@" not in name]
    assert strangers == []


@pytest.mark.spec("D7.1.1")
def test_its_journal_names_no_error_since_it_started(host, local_pool, app_name, release):
    unit = f"{app_name}-worker-{local_pool['name']}@{release.id}.service"
    since = host.check_output(f"systemctl show --value -p InvocationID {unit}")
    said = host.check_output(
        f"journalctl --no-pager -o cat _SYSTEMD_INVOCATION_ID={since}"
        # A task that failed is no fault of the worker's: other tests make one fail.
        " | sed -nE '/celery.app.trace/d; /(CRITICAL|Traceback|Unrecoverable error)/p'"
    )
    assert said == ""


@pytest.fixture(scope="module")
def durable(sql):
    """Skip where the project has not opted in to durable tasks."""
    if sql("select to_regclass('celeriac_outbox') is not null") != ["t"]:
        pytest.skip("this project has no durable tasks")


@pytest.mark.spec("D1.2.5", "D7.2.1")
def test_it_looks_after_durable_tasks(sql, durable, worker, local_pool, release, host):
    """By one session of its own, from the main process."""
    name = f"celeriac-keeper {local_pool['name']}-{release.id}@{host.check_output('hostname')}"
    assert sql(f"select count(*) from pg_stat_activity where application_name = '{name[:63]}'") == [
        "1"
    ]


def test_exactly_one_worker_leads_in_that(sql, durable):
    key = (zlib.crc32(b"celeriac.keeper") - 2**31) & 0xFFFFFFFF
    assert sql(
        "select count(*) from pg_locks where locktype = 'advisory' and granted and objsubid = 2"
        f" and classid::bigint = {key} and objid = 0"
    ) == ["1"]


def test_nothing_is_owed_that_could_not_be_sent(sql, durable):
    assert (
        sql(
            "select task, error from celeriac_outbox where sent_at is null"
            " and due_at < now() - interval '30 s'"
        )
        == []
    )
