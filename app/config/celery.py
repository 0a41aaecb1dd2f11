"""The Celery application: `celery -A config worker`."""

import logging.config
import os

from celery import Celery
from celery.signals import setup_logging

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

# Every task of the project is durable unless it says otherwise.
app = Celery("shop", task_cls="celeriac.Task")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@setup_logging.connect
def use_django_logging(**_: object) -> None:
    """Workers and Beat log as the web does; without a receiver Celery sets up its own handlers."""
    from django.conf import settings

    logging.config.dictConfig(settings.LOGGING)
