"""Durable tasks whose effect is a row: how many rows there are tells how often they ran."""

import os
import resource
import signal
import sys
import time

from celery import shared_task
from django.db import connection
from django.db.models import F

from celeriac import Task

from .models import Batch, Effect
from .tasks import marks


def effect(name: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO jobs_effect (name, pid) VALUES (%s, %s)", [name, os.getpid()])


@shared_task(base=Task, bind=True)
def work(self, name, seconds=0.0):
    first = marks().rpush(f"starts:{name}", os.getpid()) == 1
    effect(name)
    if first:  # the next ones need not take so long
        time.sleep(seconds)
    return name


@shared_task(base=Task, bind=True, atomic=False)
def long(self, name, seconds=0.0):
    if marks().rpush(f"starts:{name}", os.getpid()) == 1:
        time.sleep(seconds)
    effect(name)


@shared_task(base=Task, bind=True, max_retries=3, default_retry_delay=0.2)
def flaky(self, name, failures):
    effect(f"{name}:{self.request.retries}")
    if self.request.retries < failures:
        raise self.retry(exc=ValueError(f"attempt {self.request.retries}"))
    effect(name)


@shared_task(base=Task)
def fail(name):
    effect(name)
    raise ValueError(f"{name} is not for sale")


@shared_task(base=Task, max_sends=2)
def poison(name):
    marks().rpush(f"starts:{name}", os.getpid())
    os.kill(os.getpid(), signal.SIGKILL)


@shared_task(base=Task)
def slow(name, seconds):
    marks().rpush(f"starts:{name}", os.getpid())
    effect(name)
    time.sleep(seconds)


@shared_task(base=Task)
def asks(name, seconds):
    """Waits inside a query, the first time."""
    effect(name)
    if marks().rpush(f"starts:{name}", os.getpid()) == 1:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(%s)", [seconds])


@shared_task(base=Task)
def endures(name, times):
    effect(name)
    if marks().rpush(f"starts:{name}", os.getpid()) <= times:
        time.sleep(100)


@shared_task(base=Task, max_sends=2)
def leaves(name):
    effect(name)
    sys.exit(f"{name} has had enough")


@shared_task(base=Task)
def gluttonous(name):
    effect(name)
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (2 << 30, before[1]))
    try:
        bytearray(4 << 30)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@shared_task(base=Task)
def locks(name):
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL lock_timeout = 100")
        cursor.execute("LOCK TABLE django_migrations")
    effect(name)


@shared_task(base=Task, time_limit=1)
def stuck(name):
    effect(name)
    time.sleep(30)


@shared_task(base=Task)
def add(x, y):
    effect(f"{x}+{y}")
    return x + y


@shared_task(base=Task)
def part(batch, name):
    effect(name)
    marks().rpush("starts:part", os.getpid())
    time.sleep(0.2)
    mine = Batch.objects.filter(pk=batch)
    mine.update(left=F("left") - 1)
    if mine.get().left == 0:
        whole.delay(batch)


@shared_task(base=Task)
def whole(batch):
    effect(f"whole of {Effect.objects.filter(name__startswith='part').count()}")


@shared_task(base=Task, async_commit=True)
def quick(name):
    with connection.cursor() as cursor:
        cursor.execute("SHOW synchronous_commit")
        effect(f"{name}: {cursor.fetchone()[0]}")


@shared_task
def plain_failure(name):
    raise KeyError(name)


@shared_task
def plain(result):
    marks().rpush("plain", str(result))


@shared_task(base=Task, bind=True)
def scheduled(self, name):
    effect(f"{name} {self.request.id}")


@shared_task(base=Task)
def closes(name):
    effect(name)
    connection.close()


@shared_task(base=Task, atomic=False)
def closes_long(name, seconds):
    marks().rpush(f"starts:{name}", os.getpid())
    connection.close()
    time.sleep(seconds)
    effect(name)


@shared_task(base=Task, bind=True)
def replaced(self, name):
    effect(f"{name} was replaced")
    raise self.replace(add.s(7, 7))


@shared_task(base=Task, bind=True, max_retries=3)
def at_once(self, name):
    if self.request.retries < 2:
        raise self.retry(countdown=0)
    effect(f"{name} {self.request.retries}")


@shared_task(base=Task)
def errback(request, error, traceback):
    effect(f"errback of {request.task}: {error}")


@shared_task(base=Task)
def outer(name):
    effect(f"outer {name}")
    work.delay(f"inner {name}")


@shared_task(base=Task)
def total(results):
    effect(f"total {results}")
    return sum(results)


@shared_task(base=Task)
def moody(number):
    if not marks().exists("good mood"):
        raise ValueError("not today")
    effect(f"moody {number}")
    return number


@shared_task(base=Task)
def unspeakable(number):
    return object()
