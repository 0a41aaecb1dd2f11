"""The Celery application: `celery -A config worker`."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

# Every task of the project is durable unless it says otherwise.
app = Celery("shop", task_cls="celeriac.Task")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
