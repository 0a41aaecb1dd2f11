"""Keep queues full: python -m work.feed QUEUE… [--depth N] [--long SECONDS], until SIGTERM.

Plain tasks, every other one with acks_late; most take some hundredths of a second, one in
fifty takes one second, or --long seconds. Then prints one line of JSON: how many tasks went to
each queue, by kind. The even numbers are acknowledged early and the odd ones late.
"""

import argparse
import json
import random
import signal
import time
from itertools import count

import django
import redis
from django.conf import settings

PAUSE_SECONDS = 0.05
SHORT_SECONDS = (0.01, 0.06)
LONG_SECONDS = 1.0
LONG_SHARE = 0.02


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("queues", nargs="+")
    parser.add_argument("--depth", type=int, default=100)
    parser.add_argument("--long", type=float, default=LONG_SECONDS)
    parser.add_argument("--share", type=float, default=LONG_SHARE, help="of long tasks")
    arguments = parser.parse_args()
    django.setup()
    from work.tasks import early, late

    broker = redis.Redis.from_url(settings.CELERY_BROKER_URL)
    numbers = count()
    sent = {queue: {"early": 0, "late": 0} for queue in arguments.queues}
    stopping = []
    signal.signal(signal.SIGTERM, lambda *_: stopping.append(True))
    while not stopping:
        for queue in arguments.queues:
            for _ in range(arguments.depth - broker.llen(queue)):
                number = next(numbers)
                seconds = random.uniform(*SHORT_SECONDS)
                if random.random() < arguments.share:
                    seconds = arguments.long
                task = late if number % 2 else early
                task.apply_async((number, seconds, queue), queue=queue)
                sent[queue]["late" if number % 2 else "early"] += 1
        time.sleep(PAUSE_SECONDS)
    print(json.dumps(sent))


if __name__ == "__main__":
    main()
