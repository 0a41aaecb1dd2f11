"""The periodic tasks of all apps, kept in the database, where staff may change them in the admin.

Every app lists its own in `<app>/schedule.py` as SCHEDULE: the entry's name and an Every or an At.
"""

import importlib
import importlib.util
import logging
from dataclasses import dataclass

from celery import current_app
from django.apps import apps
from django.db import transaction
from django_celery_beat.models import CrontabSchedule, IntervalSchedule, PeriodicTask

logger = logging.getLogger(__name__)

# Marks the rows made here, so that only those are ever switched off.
MARK = "From the code: see schedule.py. Changes made here are kept."


@dataclass(frozen=True)
class Every:
    task: str
    seconds: int

    def fields(self) -> dict[str, object]:
        interval, _ = IntervalSchedule.objects.get_or_create(
            every=self.seconds, period=IntervalSchedule.SECONDS
        )
        # A run that waited longer than this in the queue would only repeat the next one.
        return {"interval": interval, "crontab": None, "expire_seconds": self.seconds * 3}


@dataclass(frozen=True)
class At:
    """A crontab in UTC. The task must not depend on a run that was missed."""

    task: str
    minute: str = "*"
    hour: str = "*"
    day_of_week: str = "*"
    expire_seconds: int = 3600

    def fields(self) -> dict[str, object]:
        crontab, _ = CrontabSchedule.objects.get_or_create(
            minute=self.minute,
            hour=self.hour,
            day_of_week=self.day_of_week,
            day_of_month="*",
            month_of_year="*",
            timezone="UTC",
        )
        return {"crontab": crontab, "interval": None, "expire_seconds": self.expire_seconds}


def collect() -> dict[str, Every | At]:
    """The SCHEDULE of every installed app."""
    found: dict[str, Every | At] = {}
    for app in apps.get_app_configs():
        module = f"{app.name}.schedule"
        if importlib.util.find_spec(module):
            found |= getattr(importlib.import_module(module), "SCHEDULE", {})
    return found


@transaction.atomic
def sync(reset: bool = False) -> dict[str, list[str]]:
    """Create the missing entries, and switch off those whose task the code no longer has.

    Existing entries stay as staff left them, unless `reset`. Raises LookupError for an entry whose
    task does not exist.
    """
    current_app.loader.import_default_modules()
    done: dict[str, list[str]] = {"created": [], "reset": [], "switched off": []}
    wanted = collect()
    for name, entry in wanted.items():
        if entry.task not in current_app.tasks:
            raise LookupError(f"{name!r} is to run {entry.task!r}, which no app defines")
        if reset or not PeriodicTask.objects.filter(name=name).exists():
            _, created = PeriodicTask.objects.update_or_create(
                name=name,
                defaults={
                    "task": entry.task,
                    "description": MARK,
                    "enabled": True,
                    **entry.fields(),
                },
            )
            done["created" if created else "reset"].append(name)
    for row in PeriodicTask.objects.filter(description=MARK, enabled=True).exclude(name__in=wanted):
        row.enabled = False
        row.save()
        done["switched off"].append(row.name)
    return done


SCHEDULE = {"Nightly clean-up": At("maintenance.cleanup", minute="17", hour="3")}
