"""The project that bench/throughput runs: settings, Celery app and tasks in one module.

With BENCH_MODE=stock nothing of celeriac is imported, so that memory compares too.
"""

import os
from urllib.parse import urlparse

from celery import Celery
from django.conf import settings

MODE = os.environ["BENCH_MODE"]
URL = urlparse(os.environ["DATABASE_URL"])

if not settings.configured:
    settings.configure(
        SECRET_KEY="only for the benchmark",  # noqa: S106
        USE_TZ=True,
        INSTALLED_APPS=["celeriac"] if MODE == "celeriac" else [],
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.postgresql",
                "HOST": URL.hostname,
                "PORT": URL.port,
                "USER": URL.username,
                "PASSWORD": URL.password,
                "NAME": URL.path.lstrip("/"),
            }
        },
    )

import django  # noqa: E402

django.setup()
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "django.conf.global_settings")
app = Celery("throughput", broker=os.environ["CELERY_BROKER_URL"])
app.conf.update(
    task_ignore_result=True,
    task_acks_late=True,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
    broker_transport_options={"visibility_timeout": 3600},
)


def read() -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT name FROM bench_product WHERE id = 7")
        cursor.fetchone()


@app.task
def noop() -> None:
    pass


@app.task
def query() -> None:
    read()


if MODE == "celeriac":
    from celeriac import Task

    @app.task(base=Task)
    def durable() -> None:
        read()
