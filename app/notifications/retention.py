"""What the notifications forget."""

from datetime import datetime

from orders.retention import before

from .models import Alert, Message


def forget(now: datetime) -> dict[str, int]:
    """Remove what was said long ago. Returns the counts."""
    old = before(now)
    messages, _ = Message.objects.filter(created_at__lt=old).delete()
    alerts, _ = Alert.objects.filter(created_at__lt=old).delete()
    return {"messages": messages, "alerts": alerts}
