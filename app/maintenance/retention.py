"""What nobody's domain is: sessions, and schedule entries that have had their one run."""

from datetime import datetime, timedelta

from django.contrib.sessions.models import Session
from django_celery_beat.models import ClockedSchedule, PeriodicTask

# Staff may look for a while at what ran.
KEEP_RUNS = timedelta(days=7)


def forget(now: datetime) -> dict[str, int]:
    """Remove expired sessions, one-off entries that ran, and moments nobody waits for."""
    sessions, _ = Session.objects.filter(expire_date__lt=now).delete()
    ran = PeriodicTask.objects.filter(
        one_off=True, enabled=False, clocked__clocked_time__lt=now - KEEP_RUNS
    )
    runs = ran.count()
    ran.delete()
    ClockedSchedule.objects.filter(periodictask=None, clocked_time__lt=now).delete()
    return {"sessions": sessions, "runs": runs}
