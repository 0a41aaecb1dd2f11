"""manage.py celeriac status|outbox|dead|replay|discard"""

import json
import re
from argparse import ArgumentParser, ArgumentTypeError
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db.models import QuerySet
from django.utils import timezone

from celeriac import deadletters, status
from celeriac.models import Dead, Outbox

UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def age(text: str) -> timedelta:
    """A number and a unit: 90m, 12h, 30d or 8w."""
    found = re.fullmatch(r"(\d{1,5})([mhdw])", text)
    if found is None:
        raise ArgumentTypeError(f"{text!r} is no age. Write for example 90m, 12h, 30d or 8w.")
    return timedelta(**{UNITS[found[2]]: int(found[1])})


class Command(BaseCommand):
    help = "Look at queues, outbox and dead letters; replay or discard dead letters."

    def add_arguments(self, parser: ArgumentParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        verbs.add_parser("status", help="queues, workers, Beat, outbox and dead letters")
        for verb, text in (
            ("outbox", "list tasks that are owed, oldest first"),
            ("dead", "list dead letters, newest first"),
            ("replay", "send dead letters again"),
            ("discard", "delete dead letters"),
        ):
            sub = verbs.add_parser(verb, help=text)
            sub.add_argument("--task", help="only this task, by its full name")
            if verb != "outbox":
                older = "only what died longer ago than this: 90m, 12h, 30d, 8w"
                sub.add_argument("--older-than", type=age, metavar="AGE", help=older)
            if verb in ("outbox", "dead"):
                sub.add_argument("--limit", type=int, default=50)
                sub.add_argument("--json", action="store_true", help="one JSON object a line")
                sub.add_argument("--count", action="store_true", help="only how many")
            else:
                sub.add_argument("ids", nargs="*", metavar="task-id")
                sub.add_argument("--all", action="store_true", help="all that match")

    def handle(self, *args: Any, verb: str, task: str | None = None, **options: Any) -> None:
        if verb == "status":
            for line in status.lines():
                self.stdout.write(line)
            return
        rows = Outbox.objects.order_by("seq") if verb == "outbox" else Dead.objects.order_by("-pk")
        if task:
            rows = rows.filter(task=task)
        older = options.pop("older_than", None)
        if older is not None:
            rows = rows.filter(died_at__lt=timezone.now() - older)
        if verb in ("outbox", "dead"):
            self.show(rows, **options)
        else:
            self.end(verb, rows, every=options["all"] or older is not None, **options)

    def show(self, rows: QuerySet, limit: int, count: bool, **options: Any) -> None:
        if count:
            self.stdout.write(str(rows.count()))
            return
        for row in rows[:limit]:
            if options["json"]:
                names = [field.name for field in row._meta.fields if field.name != "message"]
                facts = {name: getattr(row, name) for name in names} | {"chord": row.chord()}
                self.stdout.write(json.dumps(facts | {"arguments": row.arguments()}, default=str))
                continue
            if isinstance(row, Dead):
                state = f"{row.died_at:%Y-%m-%d %H:%M:%S} {row.reason}"
            else:
                state = f"sent {row.sends}x" if row.sent_at else f"due {row.due_at:%F %T}"
            if chord := row.chord():
                state += f"  chord {chord} waits for it"
            last = row.error.strip().splitlines()[-1:] or [""]
            self.stdout.write(f"{row.task_id}  {row.task}  {row.arguments()}  {state}  {last[0]}")

    def end(self, verb: str, rows: QuerySet, ids: list[str], every: bool, **_: Any) -> None:
        if bool(ids) == every:
            raise CommandError(
                f"Say which: {verb} TASK-ID …, or {verb} --all [--task NAME] [--older-than 30d]."
            )
        if ids:
            rows = rows.filter(task_id__in=ids)
            if missing := set(ids) - set(rows.values_list("task_id", flat=True)):
                raise CommandError(f"No dead letter of {', '.join(sorted(missing))}.")
        count = deadletters.replay(rows) if verb == "replay" else rows.delete()[0]
        self.stdout.write(f"{count} {'sent again' if verb == 'replay' else 'discarded'}")
