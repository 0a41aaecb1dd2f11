"""The shop with real workers, Beat, broker and mail server."""

import json
import os
import signal
import time
from pathlib import Path

import psutil
import pytest
from django.core.management import call_command
from django.db import connection
from django.test import Client
from django_celery_beat.models import IntervalSchedule, PeriodicTask
from django_celery_results.models import TaskResult

from celeriac import ledger
from celeriac.models import Dead, Outbox
from emails.models import Mail
from maintenance import schedule
from maintenance.tasks import cleanup
from orders.models import Crate, Invoice, Notice, Order, OrderStep, Step
from payments.models import BankEntry, Payment

from . import poison
from .fixtures import until


def wait_for(order: Order, step: str, seconds: float = 20) -> None:
    def there() -> bool:
        order.refresh_from_db()
        return order.step == step

    until(there, seconds, f"{order} is {step}, not {order.step}")


def assert_everything_once(order: Order, sink) -> None:
    assert Payment.objects.filter(order=order).count() == 1
    assert BankEntry.objects.get(key=f"order-{order.public_id}").reference
    assert Crate.objects.filter(order=order).count() == 1
    assert Invoice.objects.filter(order=order).count() == 1
    assert Mail.objects.filter(order=order).count() == 1
    assert len([mail for mail in sink.mails if str(order.public_id).encode() in mail.content]) == 1


def attempts(order: Order) -> dict[str, int]:
    return dict(OrderStep.objects.filter(order=order).values_list("step", "attempts"))


@pytest.mark.spec("D4.2.3", "G4.1", "G4.2", "G4.5", "G4.6", "G5.3", "D6.1.1", "D6.1.4", "D6.2.1")
@pytest.mark.spec("D7.1.1", "D7.1.2", "D7.1.4", "D7.1.5", "D7.1.6", "D7.2.1", "D7.2.2", "G5.4")
def test_orders_go_through_and_beat_keeps_time(fleet, place, sink):
    schedule.sync()
    IntervalSchedule.objects.update(every=2)
    fleet.start("cpu", "io", "beat")

    orders = [place(email=f"{n}@example.org") for n in range(4)] + [place(card="flaky")]
    declined = place(card="declined")
    for order in orders:
        wait_for(order, Step.DONE, 30)
        assert_everything_once(order, sink)
    wait_for(declined, Step.FAILED)
    assert not Payment.objects.filter(order=declined).exists()
    assert attempts(orders[-1])["payment"] == 3
    lines = [json.loads(line) for line in fleet.log("io").splitlines() if line.startswith("{")]
    mailed = [
        line["order"] for line in lines if line.get("task") == "emails.confirm" and "order" in line
    ]
    assert orders[0].pk in mailed

    until(lambda: Notice.objects.filter(orders_today__gte=5).exists(), 10, "orders are counted")
    entry = PeriodicTask.objects.get(name="Count the orders of today")
    assert entry.total_run_count > 0
    assert entry.last_run_at > orders[0].created_at

    # An audited task keeps its result, the others do not.
    cleanup.apply_async(task_id="audited")
    until(lambda: TaskResult.objects.filter(task_id="audited", status="SUCCESS"), 10, "a result")
    assert set(TaskResult.objects.values_list("task_name", flat=True)) == {"maintenance.cleanup"}


def children(fleet, name: str) -> list[psutil.Process]:
    return psutil.Process(fleet.running[name].pid).children()


def in_the_middle(order: Order) -> bool:
    """Whether a worker is at the order's task: it holds the lock of the row, or has deleted it."""
    order.refresh_from_db()
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT 1 FROM celeriac_outbox o, pg_locks l WHERE task_id = %s AND granted AND"
            " ((l.locktype = 'advisory' AND l.objsubid = 1"
            "   AND (l.classid::bigint << 32) + l.objid::bigint = %s + o.seq)"
            "  OR (l.locktype = 'transactionid' AND l.transactionid = o.xmax))",
            [order.task_id, ledger.TASK_LOCKS],
        )
        return cursor.fetchone() is not None


def wait_until_all_are_at(step: Step, orders: list[Order]) -> None:
    until(
        lambda: all(in_the_middle(order) and order.step == step for order in orders),
        20,
        f"{len(orders)} orders are in the middle of {step}",
    )


@pytest.mark.spec("G3.4", "D1.2.5")
def test_a_worker_killed_in_the_middle_of_packing_ends_the_order_once(fleet, place, sink):
    fleet.start("cpu", "cpu2", "io")

    # Some child.
    order = place(name=poison.SLOW)
    wait_until_all_are_at(Step.PACKING, [order])
    for child in children(fleet, "cpu") + children(fleet, "cpu2"):
        os.kill(child.pid, signal.SIGKILL)
    wait_for(order, Step.DONE, 20)
    assert_everything_once(order, sink)

    # A whole unit: nobody of it is left to tell.
    orders = [place(name=poison.SLOW) for _ in range(4)]
    wait_until_all_are_at(Step.PACKING, orders)
    fleet.kill("cpu")
    for order in orders:
        wait_for(order, Step.DONE, 30)
        assert_everything_once(order, sink)
    assert not Outbox.objects.exists()
    assert not Dead.objects.exists()


@pytest.mark.spec("G3.4", "D1.2.5")
def test_a_worker_killed_in_the_middle_of_payments_charges_each_once(fleet, place, sink):
    fleet.start("cpu", "io", "io2", SHOP_BANK_SECONDS="3")
    orders = [place() for _ in range(6)]
    wait_until_all_are_at(Step.PAYMENT, orders)
    fleet.kill("io")
    for order in orders:
        wait_for(order, Step.DONE, 30)
        assert_everything_once(order, sink)
    assert not Outbox.objects.exists()
    assert not Dead.objects.exists()


@pytest.mark.spec("G8.6")
def test_a_rush_of_orders_ends_each_of_them_once(fleet, place, sink):
    """More than all pools together can do at once."""
    fleet.start("cpu", "io", SHOP_PACKING_EFFORT="0")
    orders = [place(email=f"{n}@example.org") for n in range(80)]
    for order in orders:
        wait_for(order, Step.DONE, 60)
        assert_everything_once(order, sink)
    assert len(sink.mails) == len(orders)
    assert not Outbox.objects.exists()
    assert not Dead.objects.exists()


@pytest.mark.spec("G6.1", "D1.2.5")
def test_orders_outlive_their_broker(fleet, place, sink, own_broker):
    fleet.env["CELERY_BROKER_URL"] = own_broker.url
    fleet.start("cpu", "io")

    # Away at checkout: the customer sees an accepted order, which goes on when Redis is back.
    own_broker.stop()
    order = place()
    page = Client().get(order.get_absolute_url(), secure=True).content.decode()
    assert "We have your order" in page
    assert "We are on it." in page
    own_broker.start()
    wait_for(order, Step.DONE, 30)
    assert_everything_once(order, sink)

    # All its messages gone, again and again, in the middle of the work.
    orders = [place() for _ in range(10)]
    for _ in range(5):
        own_broker.client().flushall()
        time.sleep(0.3)  # between two floods, not for something to happen
    for order in orders:
        wait_for(order, Step.DONE, 40)
        assert_everything_once(order, sink)


@pytest.mark.spec("G6.4", "G6.5")
@pytest.mark.parametrize(
    ("name", "reason"), [(poison.POISON, "max_sends"), (poison.BUG, "ZeroDivisionError")]
)
def test_what_cannot_be_done_is_a_dead_letter_that_staff_replay(fleet, place, sink, name, reason):
    fleet.start("cpu", "io")
    order, good = place(name=name), place()
    wait_for(good, Step.DONE)
    letter = until(lambda: Dead.objects.first(), 20, "there is a dead letter")
    assert (letter.task, letter.reason) == ("orders.pack", reason)
    order.refresh_from_db()
    page = Client().get(order.get_absolute_url(), secure=True).content.decode()
    assert "This needs a hand from us." in page
    assert not order.is_finished

    Path(fleet.env["POISON"]).touch()
    call_command("celeriac", "replay", letter.task_id)
    wait_for(order, Step.DONE)
    assert_everything_once(order, sink)
    assert not Dead.objects.exists()
