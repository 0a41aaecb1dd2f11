"""A worker is killed in the middle of an order: the order still ends, all of it once."""

import time

import pytest

from support.hosts import show

testinfra_hosts = ["ansible://web"]
JOURNAL = ("*-worker-*", "*-beat@*")
pytestmark = pytest.mark.usefixtures("reference_project")

# The start of a worker on a busy machine, two seconds to notice, and the rest of the orders.
ENDS_WITHIN = 40
BACK_WITHIN = 30


# The queue of each step that a worker is killed in.
QUEUES = {"payment": "payments", "packing": "orders"}


@pytest.fixture
def unit(host, release, variables, app_name, step):
    """The worker that does this step; its count of restarts begins anew afterwards."""
    queue = QUEUES[step]
    name = next(pool["name"] for pool in variables["celery_pools"] if queue in pool["queues"])
    found = f"{app_name}-worker-{name}@{release.id}.service"
    yield found
    host.run(f"systemctl reset-failed {found}")


KILL = {
    "the main process": "kill -KILL $(systemctl show --value -p MainPID {unit})",
    "one child": "kill -KILL $(pgrep -P $(systemctl show --value -p MainPID {unit}) | tail -1)",
    "the whole unit": "systemctl kill --signal=KILL {unit}",
}


@pytest.mark.spec("G3.4", "D1.2.5", "D6.3.4", "G8.4")
@pytest.mark.parametrize(
    ("step", "what"), [("payment", "the whole unit"), *(("packing", what) for what in KILL)]
)
def test_all_orders_end_once(host, site, unit, effects, in_the_middle, step, what):
    """Within seconds, though the broker would give their messages back after ten minutes."""
    orders = [site.place_order() for _ in range(4)]
    in_the_middle(step, *orders)
    host.check_output(KILL[what].format(unit=unit))

    start = time.monotonic()
    for order in orders:
        assert site.finish(order, ENDS_WITHIN)["step"] == "done"
    print(f"the orders had ended after {time.monotonic() - start:.1f} s")
    found = {order: effects(order) for order in orders}
    assert {number for counts in found.values() for number in counts.values()} == {1}, found


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
