"""Housekeeping: nothing is kept longer than it is needed."""

from django.utils import timezone

from config import domains


def cleanup() -> dict[str, int]:
    """Let every domain forget what it no longer needs (`<domain>/retention.py`); the counts.

    Celery's own nightly task removes expired results.
    """
    now = timezone.now()
    removed: dict[str, int] = {}
    for retention in domains.modules("retention"):
        removed |= retention.forget(now)
    return removed
