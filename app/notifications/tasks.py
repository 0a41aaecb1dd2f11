"""Notifications. They run on gevent, where soft limits do not exist: network timeouts end them."""

import smtplib

from celery import shared_task

import celeriac

from . import services


class Digest(celeriac.Task):
    """Tells staff of many alerts at once; tried once and three times more, then a dead letter.

    It waits for a server, so no transaction is open meanwhile. A crash between the server's
    "accepted" and our next statement tells staff twice.
    """

    abstract = True
    atomic = False
    autoretry_for = (OSError, smtplib.SMTPException)
    max_retries = 3
    retry_backoff = 5
    retry_backoff_max = 60
    retry_jitter = True
    # Per worker, and those that wait for their turn fill its prefetch: only for tasks that are few.
    rate_limit = "30/m"


@shared_task(name="notifications.tell_if_late")
def tell_if_late(order_id: int) -> None:
    """Tell the customer if the order is still not done. A second run says nothing new."""
    services.tell_if_late(order_id)


@shared_task(name="notifications.owe_thanks")
def owe_thanks() -> None:
    """Owe the thanks of new finished orders, many to a task. Periodic; a second run finds none."""
    services.owe_thanks()


@shared_task(name="notifications.thank")
def thank(order_ids: list[int]) -> None:
    """Thank the customers of up to a hundred orders. Safe to run again: each is thanked once."""
    services.thank(order_ids)


@shared_task(name="notifications.watch")
def watch() -> None:
    """Turn new dead letters into alerts for staff. Periodic; a second run makes no second alert."""
    services.watch()


@shared_task(name="notifications.mail_staff", base=Digest)
def mail_staff(alert_ids: list[int]) -> None:
    """Send staff one e-mail about these alerts; a second run only about those not sent yet."""
    services.mail_staff(alert_ids)


@shared_task(name="notifications.post_to_webhook", base=Digest)
def post_to_webhook(alert_ids: list[int]) -> None:
    """Post these alerts to the webhook; a second run only those that are not posted yet."""
    services.post_to_webhook(alert_ids)
