"""The tasks that move an order on processor cores (prefork), and the sweep over all orders."""

import logging

from celery import Task, shared_task
from celery.contrib.django.task import DjangoTask
from celery.exceptions import TimeLimitExceeded
from django.db import InterfaceError, OperationalError

from . import services, steps
from .models import Step
from .problems import Problem, TemporaryProblem

logger = logging.getLogger(__name__)


class StepTask(DjangoTask):
    """One step of one order; the only argument is the order's id.

    A problem that may pass is tried again with growing, random pauses. When the tries are used up,
    or on a bug, the order ends with a sentence for the customer.
    """

    step: Step

    autoretry_for = (TemporaryProblem, OperationalError, InterfaceError)
    max_retries = 5
    retry_backoff = 2
    retry_backoff_max = int(steps.RETRY_WITHIN.total_seconds())
    retry_jitter = True
    # Also the pause after a lost worker.
    default_retry_delay = 1

    def on_failure(self, exc, task_id, args, kwargs, einfo) -> None:
        if isinstance(exc, TimeLimitExceeded | OperationalError | InterfaceError):
            # Told by the main process, or no database to write to: the sweep tries again later.
            return
        words = str(exc) if isinstance(exc, Problem) else steps.SORRY
        steps.give_up(args[0], self.step, words, task_id)


# Names are written out: messages of an older release must find their task after a move of the code.
# Soft limit: the step stops in order and is tried again. Hard limit: below the step's lease.


@shared_task(
    name="orders.pack",
    bind=True,
    base=StepTask,
    step=Step.PACKING,
    soft_time_limit=15,
    time_limit=20,
)
def pack(self: Task, order_id: int) -> None:
    """Find the smallest crate for the order and draw it. The same order gives the same crate."""
    services.pack(order_id, steps.Attempt.of(self))


@shared_task(
    name="orders.invoice",
    bind=True,
    base=StepTask,
    step=Step.INVOICE,
    soft_time_limit=15,
    time_limit=20,
)
def invoice(self: Task, order_id: int) -> None:
    """Write the order's invoice. Safe to run again: it writes the same file."""
    services.invoice(order_id, steps.Attempt.of(self))


@shared_task(
    name="orders.resume_stalled", soft_time_limit=20, time_limit=30, acks_late=False, max_retries=0
)
def resume_stalled() -> None:
    """Send lost steps again. Runs every few seconds, so it is never retried itself."""
    steps.resume_stalled()


@shared_task(
    name="orders.count_today", soft_time_limit=20, time_limit=30, acks_late=False, max_retries=0
)
def count_today() -> None:
    """Renew the line on the front page that says how many orders came in today."""
    services.count_today()
