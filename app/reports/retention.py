"""What the reports forget. The figures of the days stay: they name nobody."""

from datetime import datetime

from orders.retention import before

from .models import Report


def forget(now: datetime) -> dict[str, int]:
    """Remove old reports; whoever asks again gets them from the days in a moment."""
    reports, _ = Report.objects.filter(asked_at__lt=before(now)).delete()
    return {"reports": reports}
