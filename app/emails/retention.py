"""What the mails forget."""

from datetime import datetime

from orders.retention import NOBODY, before

from .models import Mail


def forget(now: datetime) -> dict[str, int]:
    """Forget whom old mails went to. Returns the counts."""
    old = Mail.objects.filter(order__finished_at__lt=before(now)).exclude(to=NOBODY)
    return {"mails": old.update(to=NOBODY)}
