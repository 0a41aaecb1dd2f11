"""Attached to the workers of the tests: orders that cannot be packed, until a file is there."""

import os
import signal
import time
from pathlib import Path

from celery import signals

from orders import services
from orders.models import Order
from orders.tasks import pack

POISON, BUG = "Mr Poison", "Ms Bug"
# Takes long enough to be found at it, on a busy machine too.
SLOW, SLOW_SECONDS = "Mx Slow", 3

find_crate = services._find_crate


def find_crate_or_die(order: Order, effort: float) -> tuple[int, str]:
    if not Path(os.environ["POISON"]).exists():
        if order.name == POISON:
            os.kill(os.getpid(), signal.SIGKILL)
        if order.name == BUG:
            raise ZeroDivisionError("a bug")
    if order.name == SLOW:
        time.sleep(SLOW_SECONDS)
    return find_crate(order, effort)


@signals.worker_init.connect
def attach(**_: object) -> None:
    if "POISON" not in os.environ:
        return  # a worker inside the tests, not one of the fleet
    services._find_crate = find_crate_or_die
    pack.max_sends = 2
