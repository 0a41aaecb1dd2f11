"""Call durable tasks at an even pace until SIGTERM: python -m work.call QUEUE… [--pace N].

Each call is a transaction with a row of its own, whose number the task gets; the queues take
turns. Prints a line for each transaction: its number and its milliseconds once it is committed,
or "refused" and why. Most tasks take some hundredths of a second, one in twenty takes a whole one.
"""

import argparse
import random
import signal
import time
from itertools import cycle

import django
from django.db import Error, connection, transaction

PAUSE_SECONDS = 0.2
SHORT_SECONDS = (0.01, 0.05)
LONG_SECONDS = 1.0
LONG_SHARE = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("queues", nargs="+")
    parser.add_argument("--pace", type=float, default=20, help="calls a second")
    arguments = parser.parse_args()
    django.setup()
    from work.models import Call
    from work.tasks import durable

    def call(queue: str) -> int:
        seconds = random.uniform(*SHORT_SECONDS)
        if random.random() < LONG_SHARE:
            seconds = LONG_SECONDS
        with transaction.atomic():
            number = Call.objects.create().pk
            durable.apply_async((number, seconds), queue=queue)
        return number

    stopping = []
    signal.signal(signal.SIGTERM, lambda *_: stopping.append(True))
    due = time.monotonic()
    for queue in cycle(arguments.queues):
        if stopping:
            break
        began = time.perf_counter()
        try:
            number = call(queue)
        except Error as error:
            connection.close()
            print("refused", type(error).__name__, flush=True)
            time.sleep(PAUSE_SECONDS)
        else:
            print(number, f"{(time.perf_counter() - began) * 1000:.1f}", flush=True)
        # What an outage has held up is not made up for.
        due = max(due + 1 / arguments.pace, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))


if __name__ == "__main__":
    main()
