"""Attached to the workers of a test: days that take their time to count."""

import os
import time
from datetime import date

from celery import signals

from . import services

figures = services._figures


def slow_figures(day: date) -> dict[str, object]:
    time.sleep(float(os.environ["SLOW_SECONDS"]))
    return figures(day)


@signals.worker_init.connect
def attach(**_: object) -> None:
    services._figures = slow_figures
