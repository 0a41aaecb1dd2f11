"""The tables: tasks that are owed, tasks that died, workers, heads of queues, and history.

For people and the admin; the hot paths speak SQL (see ledger.py, keeper.py and history.py).
"""

import json
from typing import Any

from django.db import models
from django.db.models import Q


class Letter(models.Model):
    """A message as it goes to Redis, with what people want to know about it."""

    task_id = models.CharField(max_length=255)
    task = models.CharField(max_length=255)
    queue = models.CharField(max_length=255, help_text="The list in Redis: queue and priority.")
    message = models.TextField()
    error = models.TextField(blank=True)

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return f"{self.task}[{self.task_id}]"

    def header(self, name: str) -> Any:
        try:
            return json.loads(self.message)["headers"].get(name)
        except (ValueError, KeyError, AttributeError):
            return None

    def chord(self) -> int | None:
        """The chord that waits for this task, if it is a part of one."""
        part = self.header("celeriac_chord")
        return part[0] if part else None

    def arguments(self) -> str:
        """The arguments as Celery shows them, shortened by it."""
        return f"{self.header('argsrepr') or '()'} {self.header('kwargsrepr') or '{}'}"


class Outbox(Letter):
    """A task that is owed: its row goes in the same transaction as its effect comes.

    `seq` is the order of sending; a task that is sent anew from the end of the queue
    (after a retry, or when it came due) gets a new one, so that older copies are void.
    """

    seq = models.BigAutoField(primary_key=True)
    due_at = models.DateTimeField()
    sent_at = models.DateTimeField(null=True)
    sends = models.PositiveSmallIntegerField()
    strikes = models.PositiveSmallIntegerField(default=0)
    created_at = models.DateTimeField()

    class Meta:
        verbose_name = "task in the outbox"
        verbose_name_plural = "outbox"
        indexes = [
            models.Index(
                fields=["due_at"], name="celeriac_outbox_due", condition=Q(sent_at__isnull=True)
            ),
            models.Index(
                fields=["queue", "seq"],
                name="celeriac_outbox_sent",
                condition=Q(sent_at__isnull=False),
            ),
        ]


class Dead(Letter):
    """A task that will not run again by itself. Kept until it is replayed or discarded."""

    task_id = models.CharField(max_length=255, unique=True)
    durable = models.BooleanField()
    reason = models.CharField(max_length=32)
    deaths = models.PositiveIntegerField(default=1)
    died_at = models.DateTimeField(db_index=True)

    class Meta:
        verbose_name = "dead letter"


class Chord(models.Model):
    """A chord: how many of its parts are to end before its body is owed (see chord.py)."""

    waiting = models.PositiveIntegerField()
    body = models.TextField()
    created_at = models.DateTimeField()


class Part(models.Model):
    """The result of a part of a chord that has ended."""

    chord = models.ForeignKey(Chord, models.CASCADE)
    index = models.PositiveIntegerField()
    result = models.TextField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["chord", "index"], name="celeriac_part_of_chord")
        ]


class Worker(models.Model):
    """A worker: what it has taken from its queues but not started, and what it does.

    What came with the second migration may be NULL: a worker of the release before does not
    write it.
    """

    name = models.CharField(max_length=255)
    seen_at = models.DateTimeField()
    held = models.JSONField()
    pool = models.CharField(max_length=32, null=True)
    concurrency = models.PositiveIntegerField(null=True)
    queues = models.JSONField(null=True)
    release = models.CharField(max_length=64, null=True)
    running = models.PositiveIntegerField(null=True)
    tasks = models.JSONField(null=True, help_text="Some of the tasks that run, longest first.")


class Head(models.Model):
    """The lowest `seq` that was still waiting in a queue at a moment."""

    queue = models.CharField(max_length=255)
    at = models.DateTimeField()
    seq = models.BigIntegerField()

    class Meta:
        indexes = [models.Index(fields=["queue", "at"], name="celeriac_head_at")]


class Counts(models.Field):
    """An array of whole numbers; django.contrib.postgres is not needed for it."""

    def db_type(self, connection: Any) -> str:
        return "bigint[]"


class Minute(models.Model):
    """What a task did in a queue in one minute; the minute 1970-01-01 stands for all time."""

    minute = models.DateTimeField()
    task = models.CharField(max_length=255)
    queue = models.CharField(max_length=255)
    succeeded = models.BigIntegerField()
    failed = models.BigIntegerField()
    retried = models.BigIntegerField()
    rejected = models.BigIntegerField()
    runtime_sum = models.FloatField()
    latency_sum = models.FloatField()
    runtime = Counts(help_text="How many ran as long as each of history.BUCKETS.")
    latency = Counts(help_text="How many started as late as each of history.BUCKETS.")

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["task", "queue", "minute"], name="celeriac_minute_of_task"
            )
        ]
        indexes = [models.Index(fields=["minute"], name="celeriac_minute_at")]


class Depth(models.Model):
    """How many messages waited in a queue in one minute, and for how many seconds the first."""

    minute = models.DateTimeField()
    queue = models.CharField(max_length=255)
    depth = models.BigIntegerField()
    oldest = models.FloatField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["queue", "minute"], name="celeriac_depth_of_queue")
        ]


class Tick(models.Model):
    """When Beat last ticked."""

    app = models.CharField(max_length=255, unique=True)
    leader = models.CharField(max_length=255)
    ticked_at = models.DateTimeField()


class Beat(models.Model):
    """A process of Beat, and when it first and last sent a run; see rivals.py."""

    id = models.UUIDField(primary_key=True)
    app = models.CharField(max_length=255)
    name = models.CharField(max_length=255)
    first_at = models.DateTimeField()
    last_at = models.DateTimeField()


class StoredFile(models.Model):
    """A file of DatabaseStorage."""

    name = models.CharField(max_length=255, unique=True)
    content = models.BinaryField()
    size = models.PositiveBigIntegerField()
    written_at = models.DateTimeField()

    def __str__(self) -> str:
        return self.name
