"""The payment task."""

from celery import Task, shared_task

from orders.models import Step
from orders.steps import Attempt
from orders.tasks import StepTask

from . import services


@shared_task(
    name="payments.charge",
    bind=True,
    base=StepTask,
    step=Step.PAYMENT,
    soft_time_limit=15,
    time_limit=20,
)
def charge(self: Task, order_id: int) -> None:
    """Charge the order. Safe to run again: the bank knows the order's key and charges once."""
    services.charge(order_id, Attempt.of(self))
