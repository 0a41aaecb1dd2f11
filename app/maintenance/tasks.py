"""Housekeeping that nobody waits for."""

import logging

from celery import shared_task

from . import services

logger = logging.getLogger(__name__)


@shared_task(
    name="maintenance.cleanup",
    soft_time_limit=120,
    time_limit=150,
    # Audited: the admin shows what each night removed.
    ignore_result=False,
)
def cleanup() -> dict[str, int]:
    """Remove what has expired, all or nothing. A second run finds nothing. Returns the counts."""
    removed = services.cleanup()
    logger.info("cleaned up: %s", ", ".join(f"{count} {what}" for what, count in removed.items()))
    return removed
