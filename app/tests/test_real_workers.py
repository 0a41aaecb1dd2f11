"""The shop with real workers, Beat, broker and mail server."""

import os
import signal
from datetime import timedelta

import psutil
import pytest
from django.utils import timezone
from django_celery_beat.models import PeriodicTask
from django_celery_results.models import TaskResult

from emails.models import Mail
from maintenance import schedule
from maintenance.tasks import cleanup
from orders.models import Crate, Invoice, Notice, Order, OrderStep, Step
from orders.tasks import resume_stalled
from payments.models import BankEntry, Payment

from .conftest import until


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


@pytest.mark.spec(
    *["D4.2.3", "G4.1", "G4.6", "D6.1.1", "D6.1.4", "D7.1.1", "D7.1.2", "D7.1.4", "D7.1.5"],
    *["D7.1.6", "D7.2.1", "D7.2.2", "G5.3", "D6.2.1", "G4.2", "G4.5"],
)
def test_orders_go_through_and_beat_keeps_time(fleet, place, sink):
    schedule.sync()
    PeriodicTask.objects.filter(task="orders.count_today").update(
        crontab=None, interval=PeriodicTask.objects.get(task="orders.resume_stalled").interval
    )
    fleet.start("cpu", "io", "beat")

    orders = [place(email=f"{n}@example.org") for n in range(4)] + [place(card="flaky")]
    declined = place(card="declined")
    for order in orders:
        wait_for(order, Step.DONE, 30)
        assert_everything_once(order, sink)
    wait_for(declined, Step.FAILED)
    assert not Payment.objects.filter(order=declined).exists()
    assert attempts(orders[-1])["payment"] == 3
    assert f"order={orders[0].pk} task=emails.confirm" in fleet.log("io")

    # An order whose message was lost: Beat's sweep brings it back.
    Order.objects.filter(pk=orders[0].pk).update(
        step=Step.EMAIL, resume_at=timezone.now() - timedelta(seconds=1)
    )
    wait_for(orders[0], Step.DONE)
    assert_everything_once(orders[0], sink)
    until(lambda: Notice.objects.filter(orders_today__gte=5).exists(), 10, "orders are counted")

    # An audited task keeps its result, the others do not.
    cleanup.apply_async(task_id="audited")
    until(lambda: TaskResult.objects.filter(task_id="audited", status="SUCCESS"), 10, "a result")
    assert set(TaskResult.objects.values_list("task_name", flat=True)) == {"maintenance.cleanup"}


def children(fleet, name: str) -> list[psutil.Process]:
    return psutil.Process(fleet.running[name].pid).children()


@pytest.mark.spec("G3.4", "D1.2.5")
def test_a_worker_killed_in_the_middle_of_an_order_ends_it_once(fleet, place, sink):
    fleet.start("cpu", "io", SHOP_BANK_SECONDS="1.5")

    # A killed child: Celery sees it and tries again at once.
    order = place()
    until(lambda: attempts(order), 10, "payment has begun")
    for child in children(fleet, "cpu"):
        os.kill(child.pid, signal.SIGKILL)
    wait_for(order, Step.DONE)
    assert attempts(order) == {"payment": 2, "packing": 1, "invoice": 1, "email": 1}
    assert_everything_once(order, sink)

    # The whole unit: nobody is left to see it, so the lease runs out and the sweep sends it again.
    order = place()
    until(lambda: attempts(order), 10, "payment has begun")
    fleet.kill("cpu")
    fleet.start("cpu2")
    past = timezone.now() - timedelta(seconds=1)
    assert Order.objects.filter(pk=order.pk, step=Step.PAYMENT, claimed_until__gt=past).exists()
    Order.objects.filter(pk=order.pk).update(claimed_until=past, resume_at=past)
    resume_stalled.delay()
    wait_for(order, Step.DONE)
    assert attempts(order)["payment"] == 2
    assert_everything_once(order, sink)
