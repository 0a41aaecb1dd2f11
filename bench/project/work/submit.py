"""Submit tasks: python -m work.submit MODE COUNT [--first N] [--seconds S] [--singly].

Durable tasks go half in bulk, so that the workers are saturated at once, and half call by call,
each in a transaction of its own; with --singly all of them. Prints one line of JSON:
how many transactions succeeded, and their median and longest milliseconds.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Callable
from statistics import median

import django


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode", choices=["durable", "early-ack", "acks-late", "relier"])
    parser.add_argument("count", type=int)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=0.02)
    parser.add_argument("--singly", action="store_true")
    return parser.parse_args()


def one_by_one(call: Callable[[int], object], numbers: range) -> list[float]:
    """Make each call in a transaction; returns the milliseconds that each took."""
    from django.db import transaction

    took = []
    for number in numbers:
        started = time.perf_counter()
        with transaction.atomic():
            call(number)
        took.append((time.perf_counter() - started) * 1000)
    return took


def with_relier(numbers: range, seconds: float) -> list[float]:
    """As relier's documentation has it for scripts: one event loop for all calls."""
    from work.relier_tasks import effect

    async def all_of_them() -> list[float]:
        took = []
        for number in numbers:
            started = time.perf_counter()
            await effect.apush(number, seconds)
            took.append((time.perf_counter() - started) * 1000)
        return took

    return asyncio.run(all_of_them())


def submit(arguments: argparse.Namespace) -> list[float]:
    numbers = range(arguments.first, arguments.first + arguments.count)
    if arguments.mode == "relier":
        return with_relier(numbers, arguments.seconds)
    from work import tasks

    if arguments.mode == "durable" and not arguments.singly:
        from celeriac import enqueue_many

        bulk = numbers[: len(numbers) // 2]
        enqueue_many(tasks.durable, [(number, arguments.seconds) for number in bulk])
        numbers = numbers[len(bulk) :]
    task = {"durable": tasks.durable, "early-ack": tasks.early, "acks-late": tasks.late}
    return one_by_one(lambda number: task[arguments.mode].delay(number, arguments.seconds), numbers)


def main() -> None:
    arguments = options()
    django.setup()
    took = submit(arguments)
    print(json.dumps({"committed": len(took), "median_ms": median(took), "max_ms": max(took)}))


if __name__ == "__main__":
    main()
