"""The bench host's database and broker, as the driver of a benchmark sees them."""

import base64
import json
import os
from typing import Any

import psycopg
import redis

# The benchmarks' own, and those that relier insists on.
QUEUES = ("work", "default", "re-queue")


class Database:
    """PostgreSQL, one statement at a time."""

    def __init__(self) -> None:
        self.connection = psycopg.connect(os.environ["DATABASE_URL"], autocommit=True)

    def fetch(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return self.connection.execute(sql, parameters).fetchall()

    def value(self, sql: str, *parameters: Any) -> Any:
        return self.fetch(sql, *parameters)[0][0]

    def clear(self) -> None:
        """Forget all effects, and what is owed and dead."""
        self.connection.execute("TRUNCATE work_effect, celeriac_outbox, celeriac_dead")


class Broker:
    """Redis: the queues, and what workers have taken and not acknowledged."""

    def __init__(self) -> None:
        self.client = redis.Redis.from_url(os.environ["CELERY_BROKER_URL"])

    def clear(self) -> None:
        self.client.flushdb()

    def answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False

    def waiting(self) -> set[int]:
        """Numbers of tasks that are still in a queue."""
        taken = [message for queue in QUEUES for message in self.client.lrange(queue, 0, -1)]
        return {number_of(json.loads(message)) for message in taken}

    def parked(self) -> set[int]:
        """Numbers of tasks that only the visibility timeout, an hour, gives back."""
        taken = self.client.hvals("unacked")
        return {number_of(json.loads(message)[0]) for message in taken}


def number_of(message: dict[str, Any]) -> int:
    """The first argument of a task's message; relier wraps its arguments."""
    (first, *_), *_ = json.loads(base64.b64decode(message["body"]))
    return first["payload"]["args"][0] if isinstance(first, dict) else first
