"""The e-mail task. It runs on gevent, where soft limits do not exist: EMAIL_TIMEOUT ends it.

It waits for a mail server, so no transaction is open meanwhile (atomic=False).
"""

from celery import shared_task

from orders.models import Step
from orders.tasks import StepTask

from . import services


@shared_task(name="emails.confirm", bind=True, base=StepTask, step=Step.EMAIL, atomic=False)
def confirm(self: StepTask, order_id: int) -> None:
    """Send the order's confirmation. Safe to run again: a mail that went out is not sent again."""
    services.confirm(order_id, self.tries)
