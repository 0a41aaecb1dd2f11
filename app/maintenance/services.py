"""Housekeeping: nothing is kept longer than it is needed."""

from datetime import timedelta

from django.conf import settings
from django.contrib.sessions.models import Session
from django.utils import timezone

from emails.models import Mail
from orders.models import Order

FORGOTTEN, NOBODY = "forgotten", "nobody@invalid.invalid"


def cleanup() -> dict[str, int]:
    """Remove expired sessions, and forget who placed old orders. Returns the counts.

    Celery's own nightly task removes expired results; invoices stay, as the law wants.
    """
    now = timezone.now()
    sessions, _ = Session.objects.filter(expire_date__lt=now).delete()
    old = now - timedelta(days=settings.SHOP_KEEP_PERSONAL_DATA_DAYS)
    orders = (
        Order.objects.filter(finished_at__lt=old)
        .exclude(name=FORGOTTEN)
        .update(name=FORGOTTEN, email=NOBODY)
    )
    Mail.objects.filter(order__email=NOBODY).exclude(to=NOBODY).update(to=NOBODY)
    return {"sessions": sessions, "orders": orders}
