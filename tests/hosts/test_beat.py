"""Beat: exactly one holds the lease, and it ticks."""

import time

import pytest

testinfra_hosts = ["ansible://beat"]
JOURNAL = ("*-beat@*",)

TICKS_WITHIN = 15


@pytest.fixture(scope="module")
def schedule(sql):
    """Skip where the schedule is not in the database."""
    if sql("select to_regclass('django_celery_beat_periodictask') is not null") != ["t"]:
        pytest.skip("this project keeps its schedule elsewhere")


def test_the_unit_says_that_it_leads_or_waits(units, release, app_name):
    status = units[f"{app_name}-beat@{release.id}.service"]["StatusText"]
    assert status.startswith(("leading: ", "standby: "))


@pytest.mark.spec("D6.2.3", "D6.4.2")
def test_exactly_one_beat_holds_the_lease(sql, variables):
    if not variables["celery_beat_lease"]:
        pytest.skip("celery_beat_lease is off")
    holders = sql(
        "select activity.application_name from pg_locks join pg_stat_activity activity using (pid)"
        " where locktype = 'advisory' and granted and application_name like 'celeriac-beat%'"
    )
    assert len(holders) == 1


@pytest.mark.spec("D6.2.3")
def test_the_holder_is_the_main_process_of_a_unit(host, sql, units, release, app_name, inventory):
    if len(inventory.groups["beat"]) > 1:
        pytest.skip("the holder may be on another host")
    pid = units[f"{app_name}-beat@{release.id}.service"]["MainPID"]
    assert sql(
        "select application_name from pg_stat_activity where application_name like 'celeriac-beat%'"
    ) == [f"celeriac-beat {host.check_output('hostname')}:{pid}"]


@pytest.mark.spec("D6.2.1", "D6.4.2")
def test_no_worker_has_a_beat_inside(host, app_name):
    lines = host.check_output("ps -eo args --no-headers").splitlines()
    workers = [line for line in lines if f"/opt/{app_name}/" in line and " worker " in line]
    assert [line for line in workers if " -B" in line or "--beat" in line] == []


@pytest.mark.spec("D1.5.1", "D6.2.2")
def test_its_schedule_is_in_the_database(sql, schedule):
    assert int(sql("select count(*) from django_celery_beat_periodictask where enabled")[0]) > 0


@pytest.mark.spec("G2.7", "G5.3", "G5.4", "D7.1.2", "D7.1.6", "G11.2", "D3.2.3")
def test_it_ticks(sql, schedule):
    every = sql(
        "select min(every) from django_celery_beat_intervalschedule i"
        " join django_celery_beat_periodictask t on t.interval_id = i.id"
        " where t.enabled and i.period = 'seconds'"
    )
    if every in ([], [""]) or int(every[0]) > TICKS_WITHIN:
        pytest.skip(f"nothing is scheduled within {TICKS_WITHIN} s")
    total = "select coalesce(sum(total_run_count), 0) from django_celery_beat_periodictask"
    before = int(sql(total)[0])
    end = time.monotonic() + TICKS_WITHIN
    while int(sql(total)[0]) == before:
        assert time.monotonic() < end, f"no periodic task was sent within {TICKS_WITHIN} s"
        time.sleep(0.5)
