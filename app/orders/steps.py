"""How an order moves from step to step, whatever happens to the workers.

A step is one task. It claims the order in a short transaction (a lease), works without any lock
or transaction, then records its effect and moves the order on in a second short transaction, which
is refused if the lease has passed to somebody else. Messages may be lost or doubled: a lost one is
sent again by `resume_stalled`, a doubled one finds the order claimed or moved on, and ends.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from celery import Task, current_app
from celery.exceptions import SoftTimeLimitExceeded
from django.db import transaction
from django.db.models import F
from django.db.models.functions import Now
from django.utils import timezone
from kombu.exceptions import OperationalError

from config.log import about_order

from .models import OPEN_STEPS, Order, OrderStep, Step
from .problems import PermanentProblem, TemporaryProblem

logger = logging.getLogger(__name__)
Result = TypeVar("Result")


@dataclass(frozen=True)
class Plan:
    """A step's task, the step after it, and how long one attempt may hold the order."""

    task: str
    then: Step
    lease: timedelta


# A lease is longer than the task's hard limit, or than all network timeouts of a gevent task.
PLANS = {
    Step.PAYMENT: Plan("payments.charge", Step.PACKING, timedelta(seconds=25)),
    Step.PACKING: Plan("orders.pack", Step.INVOICE, timedelta(seconds=25)),
    Step.INVOICE: Plan("orders.invoice", Step.EMAIL, timedelta(seconds=25)),
    Step.EMAIL: Plan("emails.confirm", Step.DONE, timedelta(seconds=40)),
}
# A message that has not been picked up for so long may be lost; doubled with every re-send.
RESEND_AFTER = timedelta(seconds=15)
RESEND_AFTER_MOST = timedelta(minutes=5)
# After a failed publish this process does not try for so long.
BROKER_PAUSE = timedelta(seconds=5)
# The longest countdown of a retry.
RETRY_WITHIN = timedelta(seconds=30)
# A step that has killed its worker so often is not started again.
MOST_ATTEMPTS = 12

_broker_away_until = 0.0

SORRY = "Something went wrong on our side. We have been told and will look at your order."


@dataclass(frozen=True)
class Attempt:
    """Who is working: one attempt of one task."""

    task_id: str
    number: int

    @classmethod
    def of(cls, task: Task) -> "Attempt":
        return cls(task.request.id or "direct", task.request.retries)


def run(
    order_id: int,
    step: Step,
    attempt: Attempt,
    work: Callable[[Order], Result],
    record: Callable[[Order, Result], None],
) -> str:
    """Do one step of one order, and say what came of it.

    `work` is slow and may be interrupted; it holds no lock and must be safe to repeat. `record`
    writes the effect, in the transaction that moves the order on. Raises TemporaryProblem to be
    tried again.
    """
    with about_order(order_id):
        order = _claim(order_id, step, attempt)
        if order is None:
            logger.info("%s: nothing to do, the order is claimed or has moved on", step)
            return "skipped"
        try:
            result = work(order)
        except SoftTimeLimitExceeded as error:
            problem = TemporaryProblem("This takes longer than usual. We are trying again.")
            _release(order_id, attempt, str(problem))
            raise problem from error
        except TemporaryProblem as problem:
            _release(order_id, attempt, str(problem))
            raise
        except PermanentProblem as problem:
            logger.warning("%s: the order ends here: %s", step, problem)
            give_up(order_id, step, str(problem), attempt.task_id)
            return "failed"
        with transaction.atomic():
            order = _claimed(order_id, step, attempt)
            if order is None:
                logger.warning("%s: another attempt has taken over, result dropped", step)
                return "superseded"
            record(order, result)
            _move(order, PLANS[step].then)
        logger.info("%s: done", step)
        return "done"


def start(order: Order) -> None:
    """Send a new order on its way, as soon as the caller's transaction is committed."""
    _send_on_commit(order.pk, Step(order.step))


def first_resume() -> datetime:
    """When a step that is sent now counts as stalled."""
    return timezone.now() + RESEND_AFTER


def give_up(order_id: int, step: Step, words: str, task_id: str) -> bool:
    """End an order whose step cannot be done; `words` are shown to the customer.

    Does nothing while another task holds the order. An e-mail that cannot be sent does not undo an
    order that is paid and packed.
    """
    with transaction.atomic():
        order = Order.objects.select_for_update().filter(pk=order_id, step=step).first()
        if order is None or order.claimed_by not in ("", task_id):
            return False
        _end(order, step, words)
    return True


def reopen(order: Order) -> bool:
    """Try the failed step of an order again (staff). False when it has none."""
    with transaction.atomic():
        order = Order.objects.select_for_update().get(pk=order.pk)
        if not order.failed_step:
            return False
        OrderStep.objects.filter(order=order, step=order.failed_step).update(attempts=0)
        step, order.failed_step = Step(order.failed_step), ""
        order.finished_at = None
        _move(order, step)
    return True


def resume_stalled(most: int = 500) -> int:
    """Send again the step of orders that nobody has worked on for too long. Returns how many."""
    with transaction.atomic():
        stalled = list(
            Order.objects.select_for_update(skip_locked=True)
            .filter(step__in=OPEN_STEPS, resume_at__lte=Now())
            .order_by("resume_at")[:most]
        )
        for order in stalled:
            pause = min(RESEND_AFTER * 2 ** (order.resends + 1), RESEND_AFTER_MOST)
            Order.objects.filter(pk=order.pk).update(
                resume_at=Now() + pause, resends=F("resends") + 1
            )
    for order in stalled:
        with about_order(order.pk):
            logger.warning("%s: stalled, sending its task again", order.step)
            if not _send(order.pk, Step(order.step)):
                break
    return len(stalled)


def _claim(order_id: int, step: Step, attempt: Attempt) -> Order | None:
    with transaction.atomic():
        order = (
            Order.objects.select_for_update(skip_locked=True)
            .annotate(db_now=Now())
            .filter(pk=order_id, step=step)
            .first()
        )
        if order is None:
            return None
        held = order.claimed_until is not None and order.claimed_until > order.db_now
        # A later attempt of the same task takes over at once: the earlier one is known to be over.
        same_task = order.claimed_by == attempt.task_id and order.claimed_attempt < attempt.number
        if held and not same_task:
            return None
        log, _ = OrderStep.objects.get_or_create(order=order, step=step)
        if log.attempts >= MOST_ATTEMPTS:
            logger.error("%s: given up after %s attempts", step, log.attempts)
            _end(order, step, SORRY)
            return None
        log.attempts += 1
        log.save(update_fields=["attempts"])
        order.claimed_by = attempt.task_id
        order.claimed_attempt = attempt.number
        order.claimed_until = order.resume_at = order.db_now + PLANS[step].lease
        order.save(update_fields=["claimed_by", "claimed_attempt", "claimed_until", "resume_at"])
        return order


def _is_held(order: Order, attempt: Attempt) -> bool:
    return order.claimed_by == attempt.task_id and order.claimed_attempt == attempt.number


def _claimed(order_id: int, step: Step, attempt: Attempt) -> Order | None:
    """The order, locked, if this attempt still holds it."""
    order = Order.objects.select_for_update().get(pk=order_id)
    return order if order.step == step and _is_held(order, attempt) else None


def _release(order_id: int, attempt: Attempt, note: str) -> None:
    """Let go for the retry, which comes within RETRY_WITHIN; the sweep waits a little longer."""
    Order.objects.filter(
        pk=order_id, claimed_by=attempt.task_id, claimed_attempt=attempt.number
    ).update(
        claimed_by="", claimed_until=None, note=note, resume_at=Now() + RETRY_WITHIN + RESEND_AFTER
    )


def _move(order: Order, step: Step) -> None:
    """Set the next step of a locked order and send its task after the commit."""
    if order.step in OPEN_STEPS:
        OrderStep.objects.filter(order=order, step=order.step).update(finished_at=Now())
    order.step = step
    order.claimed_by, order.claimed_attempt, order.claimed_until = "", 0, None
    order.resends = 0
    order.resume_at = first_resume()
    order.note = ""
    if step == Step.DONE:
        order.finished_at = timezone.now()
    order.save()
    if step in PLANS:
        _send_on_commit(order.pk, step)


def _end(order: Order, step: Step, words: str) -> None:
    """End a locked order at a step that cannot be done."""
    order.note = words[:200]
    order.failed_step = step
    order.finished_at = timezone.now()
    order.step = Step.DONE if step == Step.EMAIL else Step.FAILED
    order.claimed_by, order.claimed_attempt, order.claimed_until = "", 0, None
    order.save()


def _send_on_commit(order_id: int, step: Step) -> None:
    # Not delay_on_commit: with the broker down that would fail a request whose order is saved.
    transaction.on_commit(lambda: _send(order_id, step), robust=True)


def _send(order_id: int, step: Step) -> bool:
    """Publish the step's task. False when there is no broker: the sweep sends it later."""
    global _broker_away_until
    if time.monotonic() < _broker_away_until:
        logger.warning("%s of order %s not sent, will be resumed: no broker", step, order_id)
        return False
    try:
        # By name: the orders know nothing of the apps that do their steps. Without retry: a frozen
        # broker costs a request one socket_timeout, and the next ones nothing.
        current_app.send_task(PLANS[step].task, [order_id], ignore_result=True, retry=False)
    except OperationalError as error:
        _broker_away_until = time.monotonic() + BROKER_PAUSE.total_seconds()
        logger.error("%s of order %s not sent, will be resumed: %s", step, order_id, error)
        return False
    return True
