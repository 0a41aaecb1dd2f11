"""Redis or PostgreSQL goes away in the middle of orders: each is accepted, and ends once."""

import json

import pytest

from support.hosts import until

testinfra_hosts = ["ansible://web"]
JOURNAL = ("*-worker-*", "*-web@*", "redis-server@broker.service", "postgresql@*")
pytestmark = pytest.mark.usefixtures("reference_project")

ENDS_WITHIN = 60


@pytest.fixture
def end_once(site, effects):
    """Return a function that waits for orders and sees that everything of them is there once."""

    def wait(orders: list[str]) -> None:
        for order in orders:
            assert site.finish(order, ENDS_WITHIN)["step"] == "done"
        found = {order: effects(order) for order in orders}
        assert {number for counts in found.values() for number in counts.values()} == {1}, found

    return wait


@pytest.fixture
def no_broker(host):
    """Redis's broker is away, until it is called or the test ends."""
    host.check_output("systemctl stop redis-server@broker")

    def back() -> None:
        host.check_output("systemctl start redis-server@broker")

    yield back
    back()


@pytest.mark.spec("G6.1", "D1.2.5")
def test_an_order_without_a_broker_is_accepted_and_ends_when_it_is_back(site, no_broker, end_once):
    orders = [site.place_order(), site.place_order(card="flaky")]
    stages = site.progress(orders[0])["stages"]
    assert stages[0]["text"] == "We have your order"
    assert site.progress(orders[0])["headline"] == "We are on it."
    no_broker()
    end_once(orders)


@pytest.mark.spec("G6.1", "D1.2.5")
def test_a_broker_that_forgets_everything_costs_no_order(site, redis_admin, at_the_bank, end_once):
    orders = [site.place_order() for _ in range(4)]
    at_the_bank(*orders)
    assert redis_admin("flushall").strip() == "OK"
    end_once(orders)


@pytest.mark.spec("G9.2", "G9.5")
def test_a_restart_of_postgresql_costs_no_order(host, site, at_the_bank, end_once):
    orders = [site.place_order() for _ in range(4)]
    at_the_bank(*orders)
    host.check_output("systemctl restart 'postgresql@*'")
    until(30, lambda: site.request("/").status == 200, "the shop does not answer")
    end_once(orders)


@pytest.fixture
def no_invoices(sql):
    """No invoice can be written, until it is called or the test ends."""
    sql("alter table orders_invoice add constraint no_more check (false) not valid")

    def allow() -> None:
        sql("alter table orders_invoice drop constraint if exists no_more")

    yield allow
    allow()


@pytest.mark.spec("G6.4", "G6.5", "G11.6")
def test_what_cannot_be_done_waits_for_staff(host, site, sql, app_name, no_invoices, end_once):
    order = site.place_order()
    found = site.wait(order, lambda found: "hand" in json.dumps(found), ENDS_WITHIN)
    stuck = next(stage for stage in found["stages"] if stage["state"] == "trouble")
    assert stuck["text"].startswith("This needs a hand from us. We have been told")
    assert "IntegrityError" not in json.dumps(found)

    identity = order.strip("/").split("/")[-1]
    task = sql(f"select task_id from orders_order where public_id = '{identity}'")[0]
    listed = host.check_output(f"{app_name}-manage celeriac dead --json")
    letters = {letter["task_id"]: letter for letter in map(json.loads, listed.splitlines())}
    assert letters[task]["task"] == "orders.invoice"
    assert letters[task]["reason"] == "IntegrityError"

    no_invoices()
    assert host.check_output(f"{app_name}-manage celeriac replay {task}") == "1 sent again"
    end_once([order])
    assert task not in host.check_output(f"{app_name}-manage celeriac dead")
