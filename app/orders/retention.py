"""What the orders forget. Invoices stay, as the law wants."""

from datetime import datetime, timedelta

from django.conf import settings

from .models import Order

FORGOTTEN, NOBODY = "forgotten", "nobody@invalid.invalid"


def forget(now: datetime) -> dict[str, int]:
    """Forget who placed old orders. Returns the counts."""
    old = Order.objects.filter(finished_at__lt=before(now)).exclude(name=FORGOTTEN)
    return {"orders": old.update(name=FORGOTTEN, email=NOBODY)}


def before(now: datetime) -> datetime:
    """Of orders that were finished before this nobody is remembered."""
    return now - timedelta(days=settings.SHOP_KEEP_PERSONAL_DATA_DAYS)
