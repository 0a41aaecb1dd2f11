"""A worker is killed in the middle of an order: the order still ends, all of it once."""

import time

import pytest

from support.hosts import show

testinfra_hosts = ["ansible://web"]
JOURNAL = ("*-worker-*", "*-beat@*")
pytestmark = pytest.mark.usefixtures("reference_project")

# The lease of the step, the pause before a lost message is sent again, and the rest of the order.
ENDS_WITHIN = 90
BACK_WITHIN = 30


@pytest.fixture
def unit(host, release, variables, app_name):
    """The worker that takes payments; its count of restarts begins anew afterwards."""
    name = next(pool["name"] for pool in variables["celery_pools"] if "default" in pool["queues"])
    found = f"{app_name}-worker-{name}@{release.id}.service"
    yield found
    host.run(f"systemctl reset-failed {found}")


KILL = {
    "the main process": "kill -KILL $(systemctl show --value -p MainPID {unit})",
    "one child": "kill -KILL $(pgrep -P $(systemctl show --value -p MainPID {unit}) | tail -1)",
}


@pytest.mark.spec("G3.4", "D1.2.5", "D6.3.4", "G8.4")
@pytest.mark.parametrize("what", KILL)
def test_the_order_ends_once(host, sql, site, unit, effects, what):
    order = site.place_order()
    identity = order.strip("/").split("/")[-1]
    end = time.monotonic() + 20
    while sql(f"select claimed_by <> '' from orders_order where public_id = '{identity}'") != ["t"]:
        assert time.monotonic() < end, "no worker took the order"
    host.check_output(KILL[what].format(unit=unit))

    assert site.finish(order, ENDS_WITHIN)["step"] == "done"
    assert set(effects(order).values()) == {1}, effects(order)


@pytest.mark.spec("D6.3.4", "G7.6")
@pytest.mark.parametrize("kind", ["worker-", "beat@", "web@", "flower"])
def test_a_killed_process_comes_back(host, variables, app_name, kind):
    pattern = f"{app_name}-{kind}*"
    before = show(host, pattern)
    alive = {name: unit for name, unit in before.items() if unit["ActiveState"] == "active"}
    assert alive
    host.check_output(f"kill -KILL {' '.join(unit['MainPID'] for unit in alive.values())}")
    end = time.monotonic() + BACK_WITHIN
    while True:
        after = show(host, *alive)
        if all(
            unit["ActiveState"] == "active" and unit["MainPID"] != alive[name]["MainPID"]
            for name, unit in after.items()
        ):
            break
        assert time.monotonic() < end, {name: unit["StatusText"] for name, unit in after.items()}
        time.sleep(0.3)
    host.run(f"systemctl reset-failed {' '.join(alive)}")


def test_then_an_order_goes_through_as_ever(site, effects):
    order = site.place_order()
    assert site.finish(order, 60)["step"] == "done"
    assert set(effects(order).values()) == {1}, effects(order)
