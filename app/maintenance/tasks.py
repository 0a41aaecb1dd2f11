"""Housekeeping that nobody waits for."""

import logging

from celery import shared_task

logger = logging.getLogger(__name__)


@shared_task(name="maintenance.cleanup", soft_time_limit=120, time_limit=150)
def cleanup() -> None:
    """Remove what is no longer needed."""
    logger.info("nothing to clean up")
