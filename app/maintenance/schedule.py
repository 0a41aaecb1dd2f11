"""The periodic tasks of all domains, in the database, where staff may change them in the admin.

Every domain lists its own in `<domain>/schedule.py` as SCHEDULE: the entry's name and an Every or
an At. `sync` makes what is missing at each release and keeps what staff changed; the `create_…`
helpers are for code that decides by itself, such as "tonight, once".
"""

import json
import logging
from dataclasses import dataclass
from datetime import datetime, timedelta

from celery import current_app
from django.db import models, transaction
from django.utils import timezone
from django_celery_beat.models import (
    ClockedSchedule,
    CrontabSchedule,
    IntervalSchedule,
    PeriodicTask,
)

from config import domains

logger = logging.getLogger(__name__)

# Marks the rows made here, so that only those are ever switched off.
MARK = "From the code: see schedule.py. Changes made here are kept."
# An entry has one kind of schedule; the others are emptied when it gets another.
NO_SCHEDULE = {"interval": None, "crontab": None, "clocked": None, "one_off": False}


@dataclass(frozen=True)
class Every:
    task: str
    seconds: int

    def fields(self) -> dict[str, object]:
        interval = _row(IntervalSchedule, every=self.seconds, period=IntervalSchedule.SECONDS)
        # A run that waited longer than this in the queue would only repeat the next one.
        return {"interval": interval, "expire_seconds": self.seconds * 3}


@dataclass(frozen=True)
class At:
    """A crontab in UTC. The task must not depend on a run that was missed."""

    task: str
    minute: str = "*"
    hour: str = "*"
    day_of_week: str = "*"
    day_of_month: str = "*"
    expire_seconds: int = 3600

    def fields(self) -> dict[str, object]:
        crontab = _row(
            CrontabSchedule,
            minute=self.minute,
            hour=self.hour,
            day_of_week=self.day_of_week,
            day_of_month=self.day_of_month,
            month_of_year="*",
            timezone="UTC",
        )
        return {"crontab": crontab, "expire_seconds": self.expire_seconds}


@dataclass(frozen=True)
class Once:
    """At one moment, and never again: what a long ETA should be.

    It waits where staff can see, move and stop it. Raises ValueError for a moment without a zone.
    """

    task: str
    moment: datetime

    def fields(self) -> dict[str, object]:
        if timezone.is_naive(self.moment):
            raise ValueError(f"{self.moment} has no time zone")
        clocked = _row(ClockedSchedule, clocked_time=self.moment)
        # Still done by a Beat that was away; too late after a day.
        return {"clocked": clocked, "one_off": True, "expires": self.moment + timedelta(days=1)}


def _row(model: type[models.Model], **fields: object) -> models.Model:
    # get_or_create would fail for good once staff have made the same schedule a second time.
    return model.objects.filter(**fields).first() or model.objects.create(**fields)


def create_periodic_task(
    name: str, task: str, minutes: int = 10, kwargs: dict[str, object] | None = None
) -> PeriodicTask:
    """Run the task every so many minutes; a second call changes the entry of that name."""
    return _put(name, Every(task, seconds=minutes * 60), kwargs)


def create_crontab_task(
    name: str,
    task: str,
    hour: str = "6",
    minute: str = "0",
    day_of_week: str = "*",
    kwargs: dict[str, object] | None = None,
) -> PeriodicTask:
    """Run the task at fixed times (UTC); a second call changes the entry of that name."""
    return _put(name, At(task, minute=minute, hour=hour, day_of_week=day_of_week), kwargs)


def create_clocked_task(
    name: str, task: str, moment: datetime, kwargs: dict[str, object] | None = None
) -> PeriodicTask:
    """Run the task once, at an aware time; a second call moves the entry of that name."""
    return _put(name, Once(task, moment), kwargs)


def _put(
    name: str, entry: Every | At | Once, kwargs: dict[str, object] | None = None, mark: str = ""
) -> PeriodicTask:
    """Create or renew the entry of that name, switched on.

    Raises LookupError for a task that does not exist.
    """
    current_app.loader.import_default_modules()
    if entry.task not in current_app.tasks:
        raise LookupError(f"{name!r} is to run {entry.task!r}, which no app defines")
    with transaction.atomic():
        row, _ = PeriodicTask.objects.update_or_create(
            name=name,
            defaults={
                **NO_SCHEDULE,
                "task": entry.task,
                "kwargs": json.dumps(kwargs or {}),
                "description": mark,
                "enabled": True,
                "expires": None,
                "expire_seconds": None,
                **entry.fields(),
            },
        )
    return row


def collect() -> dict[str, Every | At]:
    """The SCHEDULE of every domain."""
    found: dict[str, Every | At] = {}
    for module in domains.modules("schedule"):
        found |= module.SCHEDULE
    return found


@transaction.atomic
def sync(reset: bool = False) -> dict[str, list[str]]:
    """Create the missing entries, and switch off those that the code no longer has.

    Existing entries stay as staff left them, unless `reset`. Raises LookupError for an entry whose
    task does not exist.
    """
    done: dict[str, list[str]] = {"created": [], "reset": [], "switched off": []}
    wanted = collect()
    for name, entry in wanted.items():
        known = PeriodicTask.objects.filter(name=name).exists()
        if reset or not known:
            _put(name, entry, mark=MARK)
            done["reset" if known else "created"].append(name)
    for row in PeriodicTask.objects.filter(description=MARK, enabled=True).exclude(name__in=wanted):
        row.enabled = False
        row.save()
        done["switched off"].append(row.name)
    return done


SCHEDULE = {"Nightly clean-up": At("maintenance.cleanup", minute="17", hour="3")}
