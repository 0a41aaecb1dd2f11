"""The project that bench/lossless runs: settings, Celery app and tasks in one module.

A task's effect is a row in bench_effect. Every process appends what it received and
started to $BENCH_TRACE/<pid>, which a SIGKILL cannot take back.
"""

import os
import time
from urllib.parse import urlparse

from celery import Celery, signals
from django.conf import settings

MODE = os.environ.get("BENCH_MODE", "durable")
URL = urlparse(os.environ["DATABASE_URL"])

if not settings.configured:
    settings.configure(
        SECRET_KEY="only for the benchmark",  # noqa: S106
        USE_TZ=True,
        INSTALLED_APPS=["celeriac"],
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

from celeriac import Task  # noqa: E402

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "django.conf.global_settings")
app = Celery("lossless", broker=os.environ["CELERY_BROKER_URL"])
app.conf.update(
    task_ignore_result=True,
    task_default_queue="work",
    task_acks_late=MODE != "early-ack",
    task_reject_on_worker_lost=MODE == "acks-late",
    worker_prefetch_multiplier=4 if MODE == "early-ack" else 1,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_transport_options={"visibility_timeout": 3600},
)


def trace(event: str, number: int) -> None:
    path = os.path.join(os.environ["BENCH_TRACE"], str(os.getpid()))
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{event} {number} {time.time():.4f}\n".encode())
    os.close(descriptor)


@signals.task_received.connect
def received(request, **_):
    trace("received", int(request.argsrepr.strip("(),")))


def effect(number: int) -> None:
    from django.db import connection

    trace("started", number)
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO bench_effect (number) VALUES (%s)", [number])


@app.task(name="durable", base=Task)
def durable(number):
    effect(number)


@app.task(name="plain")
def plain(number):
    effect(number)


work = durable if MODE == "durable" else plain
