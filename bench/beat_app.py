"""The project that bench/beat runs: three entries that are due every second."""

import os
from urllib.parse import urlparse

from celery import Celery
from django.conf import settings

URL = urlparse(os.environ["DATABASE_URL"])
ENTRIES = ["a", "b", "c"]

if not settings.configured:
    settings.configure(
        SECRET_KEY="only for the benchmark",  # noqa: S106
        USE_TZ=True,
        INSTALLED_APPS=["django.contrib.contenttypes", "django_celery_beat"],
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.postgresql",
                "HOST": URL.hostname,
                "PORT": URL.port,
                "USER": URL.username,
                "PASSWORD": URL.password,
                "NAME": URL.path.lstrip("/"),
                # As in the reference app; otherwise the scheduler connects for every save.
                "CONN_MAX_AGE": 60,
            }
        },
    )

import django  # noqa: E402

django.setup()
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "django.conf.global_settings")
app = Celery("beat_app", broker=os.environ["CELERY_BROKER_URL"])
app.conf.update(
    task_ignore_result=True,
    task_default_queue="runs",
    beat_schedule={
        name: {"task": "beat_app.run", "schedule": 1.0, "args": [name]} for name in ENTRIES
    },
)


@app.task
def run(name: str) -> None:
    """Only ever scheduled."""
