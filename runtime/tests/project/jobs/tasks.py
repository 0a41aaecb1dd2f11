"""Tasks that leave a mark in Redis when they start and when they are done."""

import os
import time

import redis
from celery import shared_task


def marks() -> redis.Redis:
    return redis.Redis.from_url(os.environ["MARKS_URL"])


@shared_task
def work(number: int, seconds: float = 0.0) -> None:
    marks().hincrby("started", str(number), 1)
    time.sleep(seconds)
    marks().hincrby("done", str(number), 1)


@shared_task
def spin(seconds: float) -> None:
    """Hold the processor, and under gevent the whole loop."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


@shared_task
def tick() -> None:
    """Only ever scheduled."""
