"""How an order moves from step to step, whatever happens to workers, broker and database.

A step is one durable task. It works without a lock on the order; then one short transaction records
its effect, moves the order on and owes the task of the next step. So an open order always has its
task: waiting, running, or a dead letter that staff replay. A task that comes a second time finds
that the order has moved on, and ends.
"""

import logging
from collections.abc import Callable
from typing import TypeVar

from django.db import transaction
from django.utils import timezone
from django.utils.module_loading import import_string

from celeriac import deadletters
from celeriac.logs import about
from celeriac.models import Dead, Outbox

from .models import Order, OrderStep, Step
from .problems import PermanentProblem
from .signals import order_delayed

logger = logging.getLogger(__name__)
Result = TypeVar("Result")

# In this order. By path: the orders know nothing of the apps that do their steps.
TASKS = {
    Step.PAYMENT: "payments.tasks.charge",
    Step.PACKING: "orders.tasks.pack",
    Step.INVOICE: "orders.tasks.invoice",
    Step.EMAIL: "emails.tasks.confirm",
}


def run(
    order_id: int,
    step: Step,
    work: Callable[[Order], Result],
    record: Callable[[Order, Result], None],
    tries: int = 1,
) -> str:
    """Do one step of one order, and say what came of it.

    `work` is slow and may be interrupted; it must be safe to repeat. `record` writes the effect, in
    the transaction that moves the order on. Raises TemporaryProblem to be tried again.
    """
    with about(order=order_id):
        order = Order.objects.filter(pk=order_id, step=step).first()
        if order is None:
            logger.info("%s: nothing to do, the order has moved on", step)
            return "skipped"
        began = timezone.now()
        problem = None
        try:
            result = work(order)
        except PermanentProblem as error:
            logger.warning("%s: the order ends here: %s", step, error)
            problem = error
        with transaction.atomic():
            order = Order.objects.select_for_update().filter(pk=order_id, step=step).first()
            if order is None:
                logger.warning("%s: the order has moved on meanwhile, result dropped", step)
                return "superseded"
            if problem:
                _end(order, step, str(problem))
                return "failed"
            record(order, result)
            OrderStep.objects.update_or_create(
                order=order,
                step=step,
                defaults={"attempts": tries, "started_at": began, "finished_at": timezone.now()},
            )
            _move(order, _following(step))
        logger.info("%s: done", step)
        return "done"


def start(order: Order) -> None:
    """Send a new order on its way, as a part of the caller's transaction."""
    _owe(order)


def tell(order_id: int, step: Step, words: str, tries: int = 1) -> None:
    """Let the customer read why a step takes longer."""
    with transaction.atomic():
        if Order.objects.filter(pk=order_id, step=step).update(note=words[:200]):
            order_delayed.send(Order, order_id=order_id, step=step, tries=tries)


def try_again(order: Order) -> bool:
    """Send an order on its way again (staff). False when it is finished or on its way already.

    From the step that failed; or by a replay of its dead letter, with all tries; or anew, if its
    task was discarded.
    """
    with transaction.atomic():
        order = Order.objects.select_for_update().get(pk=order.pk)
        if order.failed_step:
            step, order.failed_step, order.finished_at = Step(order.failed_step), "", None
            _move(order, step)
            return True
        if order.is_finished or Outbox.objects.filter(task_id=order.task_id).exists():
            return False
        if not deadletters.replay(Dead.objects.filter(task_id=order.task_id)):
            _owe(order)
        return True


def _following(step: Step) -> Step:
    steps = [*TASKS, Step.DONE]
    return steps[steps.index(step) + 1]


def _move(order: Order, step: Step) -> None:
    """Set the next step of a locked order, and owe its task."""
    order.step, order.note, order.task_id = step, "", ""
    if step == Step.DONE:
        order.finished_at = timezone.now()
    order.save()
    if step in TASKS:
        _owe(order)


def _owe(order: Order) -> None:
    """Owe the task of the order's step: it is there if the transaction is, broker or not."""
    order.task_id = import_string(TASKS[Step(order.step)]).delay(order.pk).id
    order.save(update_fields=["task_id"])


def _end(order: Order, step: Step, words: str) -> None:
    """End a locked order at a step that cannot be done; `words` are shown to the customer.

    An e-mail that cannot be sent does not undo an order that is paid and packed.
    """
    order.note, order.task_id = words[:200], ""
    order.failed_step = step
    order.finished_at = timezone.now()
    order.step = Step.DONE if step == Step.EMAIL else Step.FAILED
    order.save()
