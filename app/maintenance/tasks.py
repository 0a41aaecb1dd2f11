"""Housekeeping that nobody waits for."""

import logging

from celery import Task, shared_task
from django.db import InterfaceError, OperationalError

from . import services

logger = logging.getLogger(__name__)


@shared_task(
    name="maintenance.cleanup",
    bind=True,
    autoretry_for=(OperationalError, InterfaceError),
    max_retries=3,
    retry_backoff=5,
    retry_backoff_max=60,
    soft_time_limit=120,
    time_limit=150,
    # Audited: the admin shows what each night removed.
    ignore_result=False,
)
def cleanup(self: Task) -> dict[str, int]:
    """Remove what has expired. A second run finds nothing. Returns the counts."""
    removed = services.cleanup()
    logger.info("cleaned up: %s", ", ".join(f"{count} {what}" for what, count in removed.items()))
    return removed
