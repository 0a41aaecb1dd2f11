"""The payment task. It waits for a bank, so no transaction is open meanwhile (atomic=False)."""

from celery import shared_task

from orders.models import Step
from orders.tasks import StepTask

from . import services


@shared_task(
    name="payments.charge",
    bind=True,
    base=StepTask,
    step=Step.PAYMENT,
    atomic=False,
    soft_time_limit=15,
    time_limit=20,
)
def charge(self: StepTask, order_id: int) -> None:
    """Charge the order. Safe to run again: the bank knows the order's key and charges once."""
    services.charge(order_id, self.tries)
