"""A host is gone from one moment to the next: the others go on."""

import time

import pytest

from support.hosts import until
from support.load import visited

testinfra_hosts = ["ansible://postgresql"]

LEADER = (
    "select application_name from pg_locks join pg_stat_activity using (pid)"
    " where locktype = 'advisory' and granted and application_name like 'celeriac-beat%'"
)
RUNS = "select coalesce(sum(total_run_count), 0) from django_celery_beat_periodictask"


def leading(sql):
    """The hosts whose Beat holds the lease."""
    return [line.split()[1].rsplit(":", 1)[0] for line in sql(LEADER)]


@pytest.mark.spec("D6.2.3", "D6.4.2")
def test_the_standby_ticks_when_the_host_of_the_active_beat_is_gone(sql, power, figure, inventory):
    (active,) = leading(sql)
    started = time.monotonic()
    power(active)
    until(30, lambda: leading(sql) not in ([active], []), "the standby does not lead")
    before = sql(RUNS)
    until(20, lambda: sql(RUNS) != before, "the standby does not tick")
    took = time.monotonic() - started
    figure(f"beat: {active} lost its power; the standby ticked after {took:.1f} s")
    assert leading(sql) == [name for name in inventory.groups["beat"] if name != active]


@pytest.mark.spec("D6.2.3")
def test_after_its_return_there_is_still_one(sql, reach, inventory, app_name):
    """The host is back; its Beat waits."""
    (active,) = leading(sql)
    for name in inventory.groups["beat"]:
        wanted = "leading: " if name == active else "standby: "
        status = f"systemctl show --value --property=StatusText '{app_name}-beat@*'"
        until(
            30,
            lambda name=name, wanted=wanted, status=status: (
                reach(name).check_output(status).startswith(wanted)
            ),
            f"{name} is not {wanted}",
        )
    assert leading(sql) == [active]


def test_visitors_notice_nothing_when_a_web_server_is_gone(inventory, power, figure):
    lost = inventory.first("web")
    with visited(inventory) as load:
        time.sleep(2)  # visitors are on both
        power(lost)
        time.sleep(12)  # past the pause after which the proxy tries the lost one again
    figure(
        f"web: {lost} lost its power under {load.served} requests in {load.seconds:.0f} s, "
        f"{len(load.refused)} of them failed"
    )
    assert load.refused == []
    assert load.served > 50
