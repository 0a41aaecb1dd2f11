"""The tasks of the benchmarks. Those that are counted leave one row each, as their last act."""

import os
import time

from celery import signals
from django.conf import settings
from django.db import connection

from config.celery import app
from config.version import VERSION
from work.models import Note
from work.trace import note

if settings.RUNTIME:
    from celeriac import Task
else:
    from celery import Task

# The first key of the locks by which processes are told.
HELD = 77


def effect(number: int, seconds: float, name: str = "") -> None:
    """Work for some seconds, then write the row."""
    note("started", number)
    time.sleep(seconds)
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO work_effect (number, name) VALUES (%s, %s)", [number, name])


@app.task(base=Task)
def durable(number: int, seconds: float) -> None:
    effect(number, seconds)


@app.task(base=Task)
def hungry(number: int, megabytes: int) -> None:
    """Hold so much memory for a moment."""
    held = b"\1" * (megabytes << 20)
    effect(number, 0.5)
    del held


@app.task(base=Task)
def clock(number: int) -> None:
    """Say what time it is, in the row's name."""
    effect(number, 0, str(int(time.time())))


@app.task(base=Task)
def held(number: int, seconds: float) -> None:
    """Say with a lock that everybody sees which process works on it."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s, %s)", [HELD, os.getpid()])
    effect(number, seconds)


@app.task(acks_late=True, reject_on_worker_lost=True)
def noted(seconds: float) -> None:
    """Work for some seconds, with a row before and one after."""
    Note.objects.create(name="began", version=VERSION)
    time.sleep(seconds)
    Note.objects.create(name="ended", version=VERSION)


@app.task(acks_late=False)
def early(number: int, seconds: float, name: str = "") -> None:
    effect(number, seconds, name)


@app.task(acks_late=True, reject_on_worker_lost=True)
def late(number: int, seconds: float, name: str = "") -> None:
    effect(number, seconds, name)


def read() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT name FROM work_product WHERE id = 7")
        cursor.fetchone()


@app.task(acks_late=True)
def noop() -> None:
    """Nothing, as fast as possible."""


@app.task(acks_late=True)
def query() -> None:
    read()


@app.task(base=Task)
def durable_query() -> None:
    read()


def note_tick(request, entry: str) -> None:
    """Write the run's row; Celery says who sent it as "gen<pid>@<host>"."""
    beat = int(request.origin.removeprefix("gen").partition("@")[0])
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO work_tick (run, entry, beat) VALUES (%s, %s, %s)",
            [request.id, entry, beat],
        )


@app.task(base=Task, bind=True)
def durable_tick(self, entry: str) -> None:
    note_tick(self.request, entry)


@app.task(acks_late=True, bind=True)
def plain_tick(self, entry: str) -> None:
    note_tick(self.request, entry)


@signals.task_received.connect
def received(request, **_: object) -> None:
    """Note what a worker's main process has taken; relier wraps its arguments."""
    arguments = request._payload[0]
    if arguments and isinstance(arguments[0], dict):
        arguments = arguments[0]["payload"]["args"]
    if arguments:
        note("received", arguments[0])
