"""The payment task. It runs on gevent, where soft limits do not exist: the bank's timeout ends it.

It waits for a bank, so no transaction is open meanwhile (atomic=False).
"""

from celery import shared_task

from orders.models import Step
from orders.tasks import StepTask

from . import services


@shared_task(name="payments.charge", bind=True, base=StepTask, step=Step.PAYMENT, atomic=False)
def charge(self: StepTask, order_id: int) -> None:
    """Charge the order. Safe to run again: the bank knows the order's key and charges once."""
    services.charge(order_id, self.tries)
