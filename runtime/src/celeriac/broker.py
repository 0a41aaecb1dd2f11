"""Messages as Celery would send them: caught, kept as text, and pushed later.

A plain Redis client is used, made from the app's own broker settings (TLS, Sentinel, key
prefix), because kombu's channel waits while it reconnects. A command is tried twice and
ends within twice `TIMEOUT` seconds.
"""

import base64
import bisect
import json
import os
import time
import uuid
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from typing import Any, NamedTuple

from celery import Celery
from celery.exceptions import ImproperlyConfigured
from kombu.compression import compress
from kombu.serialization import dumps

HEADER = "celeriac_seq"
DUE = "celeriac_due"
"""When the task was published or may start, in seconds since the epoch; for latencies."""
STRIKES = "celeriac_strikes"
"""In what is sent again: the row's strikes (see quarantine.py)."""
TIMEOUT = 1.0
BREAK_SECONDS = 2.0

_clients: dict[tuple[int, int], Any] = {}
_is_redis: dict[int, bool] = {}
_broken_until = 0.0


class Message(NamedTuple):
    """A task's message and the Redis list it belongs into."""

    queue: str
    text: str


class Capture:
    """Stands in for a kombu producer and keeps the first message."""

    serializer = None

    def __init__(self, app: Celery, due_at: datetime | None = None) -> None:
        self.app, self.due_at = app, due_at
        self.connection = self
        self.message: Message | None = None

    def _reraise_as_library_errors(self) -> AbstractContextManager[None]:
        return nullcontext()

    def publish(
        self,
        body: Any,
        exchange: Any = "",
        routing_key: str = "",
        serializer: str | None = None,
        compression: str | None = None,
        headers: dict[str, Any] | None = None,
        declare: Any = None,
        **properties: Any,
    ) -> None:
        if self.message is not None:
            return  # the task-sent event
        if not exchange:
            queue = routing_key
        elif declare:
            queue = declare[0].name
        else:
            raise ImproperlyConfigured(
                f"A durable task goes to one queue, but exchange {exchange!r} was given. "
                "Write queue='…', or durable=False for this call."
            )
        for name in ("retry", "retry_policy", "timeout", "confirm_timeout", "expiration"):
            properties.pop(name, None)
        if self.due_at:
            headers = (headers or {}) | {DUE: self.due_at.timestamp()}
        self.message = compose(
            self.app, queue, body, headers or {}, properties, serializer or "json", compression
        )


def compose(
    app: Celery,
    queue: str,
    body: Any,
    headers: dict[str, Any],
    properties: dict[str, Any],
    serializer: str,
    compression: str | None = None,
) -> Message:
    """The message as kombu's Redis transport would push it, and where."""
    content_type, encoding, data = dumps(body, serializer=serializer)
    if isinstance(data, str):
        data = data.encode()
    if compression:
        data, headers["compression"] = compress(data, compression)
    priority = max(0, min(int(properties.get("priority") or 0), 9))
    text = json.dumps(
        {
            "body": base64.b64encode(data).decode(),
            "content-encoding": encoding,
            "content-type": content_type,
            "headers": headers,
            "properties": properties
            | {
                "priority": priority,
                "body_encoding": "base64",
                "delivery_info": {"exchange": "", "routing_key": queue},
            },
        }
    )
    return Message(list_name(app, queue, priority), text)


def list_name(app: Celery, queue: str, priority: int) -> str:
    """The Redis list that kombu uses for this queue and priority."""
    options = app.conf.broker_transport_options or {}
    steps = list(options.get("priority_steps") or (0, 3, 6, 9))
    step = steps[bisect.bisect(steps, priority) - 1]
    return f"{queue}{options.get('sep') or chr(6) + chr(22)}{step}" if step else queue


def unprefixed(app: Celery, name: str) -> str:
    """The key for a command that kombu's client sends without the key prefix: LRANGE."""
    from kombu.transport.redis import GlobalKeyPrefixMixin

    options = app.conf.broker_transport_options or {}
    known = "LRANGE" in GlobalKeyPrefixMixin.PREFIXED_SIMPLE_COMMANDS
    return name if known else (options.get("global_keyprefix") or "") + name


def stamped(text: str, seq: int | None, strikes: int | None = None) -> str:
    """The message with its place in the outbox and a delivery tag of its own."""
    message = json.loads(text)
    message["properties"]["delivery_tag"] = str(uuid.uuid4())
    for header, value in ((HEADER, seq), (STRIKES, strikes)):
        message["headers"].pop(header, None)
        if value is not None:
            message["headers"][header] = value
    return json.dumps(message)


def is_redis(app: Celery) -> bool:
    """Whether the app's broker is Redis; does not connect."""
    if id(app) not in _is_redis:
        _is_redis[id(app)] = app.connection_for_write().transport.driver_type == "redis"
    return _is_redis[id(app)]


def require_redis(app: Celery) -> None:
    """Refuse another broker by name."""
    if not is_redis(app):
        raise ImproperlyConfigured(
            "Durable tasks and the replay of dead letters need Redis as the broker, but broker_url "
            f"is {app.connection_for_write().as_uri()}. Write CELERY_BROKER_URL = 'redis://…', or "
            "set durable=False on the tasks."
        )


def client(app: Celery) -> Any:
    """This process's Redis client for the app's broker; raises redis errors."""
    key = (os.getpid(), id(app))
    if key not in _clients:
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        require_redis(app)
        limits = {"socket_timeout": TIMEOUT, "socket_connect_timeout": TIMEOUT}
        connection = app.connection_for_write(transport_options=limits)
        transport = connection.transport
        transport.establish_connection()
        channel = transport.create_channel(transport)
        redis = channel._create_client()
        # Once, for a connection that the server has closed meanwhile.
        redis.set_retry(Retry(NoBackoff(), 1))
        _clients[key] = redis, connection
    return _clients[key][0]


def push(app: Celery, messages: Iterable[tuple[Any, ...]], front: bool = False) -> None:
    """Push (list, message, seq[, strikes]) in one round trip, to the end of the queue or its
    front."""
    pipe = client(app).pipeline(transaction=False)
    add = pipe.rpush if front else pipe.lpush  # workers pop on the right
    for name, *message in messages:
        add(name, stamped(*message))
    pipe.execute()


def reachable() -> bool:
    """Whether no publish failed within the last BREAK_SECONDS; so an outage costs few waits."""
    return time.monotonic() >= _broken_until


def publish(app: Celery, message: Message, seq: int) -> str:
    """Push one message; returns "" or why not."""
    global _broken_until
    if not reachable():
        return "the broker did not answer a moment ago"
    try:
        push(app, [(*message, seq)])
    except ImproperlyConfigured:
        raise
    except Exception as error:
        _broken_until = time.monotonic() + BREAK_SECONDS
        return f"{type(error).__name__}: {error}"
    return ""
