"""Telling customers and staff what they should know, once, and many things in one go."""

import logging
from datetime import datetime, timedelta

from celery import group
from django.conf import settings
from django.core.mail import mail_admins
from django.db import transaction
from django.urls import reverse
from django.utils import timezone

from celeriac.logs import about
from celeriac.models import Dead
from config.http import post_json
from orders.models import Order, Step

from .models import Alert, Message

logger = logging.getLogger(__name__)

LATE, THANKS = "late", "thanks"
TEXTS = {
    LATE: "This takes longer than it should. Your order is safe and goes on by itself: you need not"
    " wait here.",
    THANKS: "Your crate leaves us tomorrow morning. Thank you for eating crooked roots.",
}
# Orders whose customers are thanked by one task, and alerts in one e-mail.
BATCH = 100
# Redis knows four priorities: 0, the default and first, 3, 6 and 9.
PATIENT = 6
WEBHOOK_SECONDS = 5


# -- customers


def order_delayed(*, order_id: int, tries: int, **_: object) -> None:
    """A step is tried again: look in some minutes whether the customer should hear of it.

    A short ETA, and aware. A long one would be a row of the schedule (create_clocked_task).
    """
    from . import tasks

    if tries == 1:
        moment = timezone.now() + timedelta(seconds=settings.SHOP_LATE_SECONDS)
        # Not needed any more when it could only start an hour late.
        tasks.tell_if_late.apply_async(
            (order_id,), eta=moment, expires=moment + timedelta(hours=1), priority=PATIENT
        )


def tell_if_late(order_id: int) -> bool:
    """Tell the customer of an order that is still on its way. False if there is nothing to tell."""
    with about(order=order_id):
        order = Order.objects.filter(pk=order_id).first()
        if order is None or order.is_finished:
            return False
        Message.objects.get_or_create(order=order, kind=LATE, defaults={"text": TEXTS[LATE]})
        logger.info("the customer is told that it takes longer")
        return True


def owe_thanks() -> int:
    """Owe the thanks for the orders of the last hour that lack them, a batch a task; how many."""
    from . import tasks

    since = timezone.now() - timedelta(hours=1)
    done = Order.objects.filter(step=Step.DONE, created_at__gte=since, finished_at__gte=since)
    lacking = done.exclude(messages__kind=THANKS).order_by("pk").values_list("pk", flat=True)
    ids = list(lacking)
    for start in range(0, len(ids), BATCH):
        tasks.thank.apply_async((ids[start : start + BATCH],), priority=PATIENT)
    return len(ids)


def thank(order_ids: list[int]) -> None:
    """Thank the customers of these orders, in one statement. Those thanked before stay so."""
    there = Order.objects.filter(pk__in=order_ids)
    Message.objects.bulk_create(
        (Message(order=order, kind=THANKS, text=TEXTS[THANKS]) for order in there),
        ignore_conflicts=True,
    )


def words_for(*, order: Order, **_: object) -> list[tuple[datetime, str]]:
    """What the page of the order shows, oldest first."""
    return [(message.created_at, message.text) for message in order.messages.all()]


# -- staff


def watch() -> int:
    """Make an alert of each new dead letter, and owe its digest; returns how many are new.

    The letters are read from their table, so none is missed: neither those that the keeper writes
    for killed workers nor those that came while nobody looked. Letters of our own make none.
    """
    from . import tasks

    letters = Dead.objects.exclude(task__startswith="notifications.")
    known = Alert.objects.values_list("task_id", "deaths")
    recent = letters.filter(died_at__gte=timezone.now() - timedelta(days=1)).order_by("died_at")
    seen = set(known.filter(task_id__in=recent.values("task_id")))
    Alert.objects.bulk_create(
        (
            Alert(task_id=dead.task_id, deaths=dead.deaths, task=dead.task, reason=dead.reason)
            for dead in recent
            if (dead.task_id, dead.deaths) not in seen
        ),
        ignore_conflicts=True,
    )
    with transaction.atomic():
        # Of two that watch at once, each takes what the other has not.
        new = list(Alert.objects.select_for_update(skip_locked=True).filter(owed_at=None))
        Alert.objects.filter(pk__in=[alert.pk for alert in new]).update(owed_at=timezone.now())
        ids = sorted(alert.pk for alert in new)
        for start in range(0, len(ids), BATCH):
            digest = ids[start : start + BATCH]
            channels = [tasks.mail_staff.si(digest)] if settings.ADMINS else []
            channels += [tasks.post_to_webhook.si(digest)] if settings.SHOP_ALERT_WEBHOOK else []
            # In a moment: whoever replays or discards the letter at once wakes nobody.
            group(channels).apply_async(countdown=settings.SHOP_ALERT_SECONDS)
    return len(ids)


def mail_staff(alert_ids: list[int]) -> int:
    """Send one e-mail about these alerts to ADMINS; returns how many it names.

    Raises OSError (smtplib's errors are some) when the mail server does not take it.
    """
    alerts = _still_dead(alert_ids, mailed_at=None)
    if alerts:
        mail_admins(_subject(alerts), "\n".join([*map(_line, alerts), "", _where()]))
        Alert.objects.filter(pk__in=[alert.pk for alert in alerts]).update(mailed_at=timezone.now())
    return len(alerts)


def post_to_webhook(alert_ids: list[int]) -> int:
    """Post these alerts to the webhook in one request, as chats understand it; returns how many.

    Raises OSError when it is not accepted.
    """
    alerts = _still_dead(alert_ids, posted_at=None)
    if alerts:
        text = "\n".join([_subject(alerts), *map(_line, alerts), _where()])
        told = [{"task": each.task, "id": each.task_id, "reason": each.reason} for each in alerts]
        status, _ = post_json(
            settings.SHOP_ALERT_WEBHOOK, {"text": text, "alerts": told}, timeout=WEBHOOK_SECONDS
        )
        if status >= 300:
            raise OSError(f"the webhook answers {status}")
        Alert.objects.filter(pk__in=[alert.pk for alert in alerts]).update(posted_at=timezone.now())
    return len(alerts)


def _still_dead(alert_ids: list[int], **unsent: None) -> list[Alert]:
    dead = Dead.objects.values("task_id")
    return list(Alert.objects.filter(pk__in=alert_ids, task_id__in=dead, **unsent).order_by("pk"))


def _subject(alerts: list[Alert]) -> str:
    if len(alerts) == 1:
        return "1 task of the shop needs a hand"
    return f"{len(alerts)} tasks of the shop need a hand"


def _line(alert: Alert) -> str:
    return f"{alert.created_at:%H:%M:%S} {alert.task} {alert.reason} {alert.task_id}"


def _where() -> str:
    return (
        f"Look, replay or discard: {settings.SHOP_URL}{reverse('admin:celeriac_dead_changelist')}"
    )
