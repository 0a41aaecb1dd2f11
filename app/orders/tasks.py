"""The tasks that move an order on processor cores (prefork), and the count for the front page.

Thin and durable: what they do is in services.py, and a killed worker, a lost broker or a database
that restarts costs them time only.
"""

from celery import shared_task
from celery.exceptions import SoftTimeLimitExceeded

import celeriac

from . import services, steps
from .models import Step
from .problems import TemporaryProblem

TAKES_LONGER = "This takes longer than usual. We are trying again."


class StepTask(celeriac.Task):
    """One step of one order; the only argument is the order's id.

    A problem that may pass is tried again with growing, random pauses, for about ten minutes. When
    the tries are used up, or on a bug, the task is a dead letter and the order waits for staff.
    """

    abstract = True
    step: Step

    autoretry_for = (TemporaryProblem, SoftTimeLimitExceeded)
    max_retries = 10
    retry_backoff = 2
    retry_backoff_max = 300
    retry_jitter = True

    @property
    def tries(self) -> int:
        return self.request.retries + 1

    def on_retry(self, exc, task_id, args, kwargs, einfo) -> None:
        # After the attempt was rolled back, which would take the note with it.
        late = isinstance(exc, SoftTimeLimitExceeded)
        steps.tell(args[0], self.step, TAKES_LONGER if late else str(exc), self.tries)


# Names are written out: messages of an older release must find their task after a move of the code.
# Soft limit: the step stops in order and is tried again. Hard limit: a dead letter.


@shared_task(
    name="orders.pack",
    bind=True,
    base=StepTask,
    step=Step.PACKING,
    soft_time_limit=15,
    time_limit=20,
)
def pack(self: StepTask, order_id: int) -> None:
    """Find the smallest crate for the order and draw it. Safe to run again: it draws the same."""
    services.pack(order_id, self.tries)


@shared_task(
    name="orders.invoice",
    bind=True,
    base=StepTask,
    step=Step.INVOICE,
    soft_time_limit=15,
    time_limit=20,
)
def invoice(self: StepTask, order_id: int) -> None:
    """Write the order's invoice. Safe to run again: it writes the same file."""
    services.invoice(order_id, self.tries)


@shared_task(name="orders.count_today", soft_time_limit=20, time_limit=30)
def count_today() -> None:
    """Renew the front page's count of today's orders. Safe to run again: it counts anew."""
    services.count_today()


@shared_task(name="orders.resume_stalled", durable=False, soft_time_limit=5, time_limit=10)
def resume_stalled() -> None:
    """Nothing any more, so it may run again: for the last messages of the release before."""
