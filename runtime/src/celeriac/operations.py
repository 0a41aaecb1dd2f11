"""A page for staff: what waits, runs, is owed and has died; replay and discard dead letters.

Any member of staff sees figures. Arguments and errors need the permission to view dead
letters (or workers, for what runs); replay and discard need the one to delete dead letters.
What does not answer, Redis or PostgreSQL, is named on the page.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from celery import current_app
from django.contrib import messages
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.db import DatabaseError, InterfaceError, connections
from django.db.models import Max, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_protect
from django.views.decorators.http import require_GET, require_POST

from celeriac import alerts, charts, deadletters, figures
from celeriac.ledger import DATABASE
from celeriac.models import Dead

PERIODS = {1: 60, 6: 300, 24: 900}
"""Hours that the charts can show, and the seconds of one point."""

DEPLOYS = 5
LETTERS = 50
AT_ONCE = 1000
GONE = (DatabaseError, InterfaceError)


def where(name: str) -> str:
    """The address of an admin page, or "" in a project without the admin."""
    try:
        return reverse(name)
    except NoReverseMatch:
        return ""


def for_staff(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """Ask others to log in; say so when the database that knows them is away."""

    @wraps(view)
    def wrapped(request: HttpRequest) -> HttpResponse:
        try:
            user = request.user
            known = user.is_active and user.is_staff
        except GONE as error:
            return away(request, error)
        if not known:
            return redirect_to_login(request.get_full_path(), where("admin:login") or None)
        try:
            return view(request)
        except GONE as error:
            return away(request, error)

    return wrapped


def away(request: HttpRequest, error: Exception) -> HttpResponse:
    return render(request, "celeriac/away.html", {"problem": first_line(error)}, status=503)


def first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


# -- looking ---------------------------------------------------------------------------------


@dataclass
class Filter:
    """Which dead letters: by reason, by task, and not newer than those that were shown."""

    reason: str = ""
    task: str = ""
    upto: int | None = None

    @classmethod
    def of(cls, values: Any) -> "Filter":
        upto = values.get("upto", "")
        number = int(upto) if upto.isascii() and upto.isdigit() and len(upto) < 19 else None
        return cls(values.get("reason", ""), values.get("task", ""), number)

    def letters(self) -> QuerySet[Dead]:
        found = Dead.objects.order_by("-died_at", "-pk")
        if self.reason:
            found = found.filter(reason=self.reason)
        if self.task:
            found = found.filter(task=self.task)
        return found if self.upto is None else found.filter(pk__lte=self.upto)

    def query(self, **more: Any) -> str:
        values = {"reason": self.reason, "task": self.task} | more
        return urlencode({name: value for name, value in values.items() if value})


@dataclass
class Tile:
    """One figure of the first row; `state` is "", "warn" or "bad"."""

    name: str
    figure: str
    about: str
    state: str = ""
    link: str = ""


@require_GET
@never_cache
@for_staff
def page(request: HttpRequest) -> HttpResponse:
    hours = request.GET.get("hours", "1")
    period = int(hours) if hours.isascii() and hours.isdigit() and int(hours) in PERIODS else 1
    chosen = Filter.of(request.GET)
    chosen.upto = None
    shown = look(request, period, chosen)
    return render(request, "celeriac/operations.html", shown)


def look(request: HttpRequest, period: int, chosen: Filter) -> dict[str, Any]:
    """All that the page shows; raises when PostgreSQL is away, says so when Redis is."""
    session, app = connections[DATABASE], current_app
    user = request.user
    workers = figures.workers(session)
    alive = [worker for worker in workers if worker.alive]
    owed = figures.owed(session)
    dead = figures.dead(session)
    beat = figures.beat(session, app)
    tasks = [
        task | {"worker": worker.name, "age": age(task.get("since"))}
        for worker in alive
        for task in worker.tasks
    ]
    consumed = {name for worker in alive for name in worker.queues}
    names, left_out = figures.chosen_queues(figures.queue_names(app, session), consumed)
    queues: list[Any] | None = None
    unacked: int | None = None
    problem = ""
    try:
        queues = figures.queues(app, names)
        unacked = figures.unacked(app)
    except Exception as error:  # of redis-py, of kombu, or a broker that is not Redis
        problem = first_line(error)
    firing: list[Any] | None = None
    alerts_problem = ""
    if alerts.wanted():
        try:
            firing = [(alert, age(alert.since)) for alert in alerts.firing()]
        except (OSError, ValueError, KeyError) as error:  # away, or no Alertmanager
            alerts_problem = first_line(error)
    consumers: dict[str, int] = {}
    for worker in alive:
        for name in worker.queues:
            consumers[name] = consumers.get(name, 0) + 1
    letters = chosen.letters()
    step = PERIODS[period]
    charted = request.GET.get("without") != "charts"
    shown = list(letters[:LETTERS]) if user.has_perm("celeriac.view_dead") else []
    return {
        "period": period,
        "periods": list(PERIODS),
        "chosen": chosen,
        "tiles": tiles(queues, consumers, workers, owed, dead, beat),
        "broker_problem": problem,
        "alerts": firing,
        "deploys": last_deploys(),
        "alerts_problem": alerts_problem,
        "queues": [(q, consumers.get(q.name, 0)) for q in queues or ()],
        "queues_left_out": left_out,
        "unacked": unacked,
        "workers": workers,
        "tasks": sorted(tasks, key=lambda task: -task["age"]),
        "tasks_running": sum(worker.running for worker in alive),
        "may_see_tasks": user.has_perm("celeriac.view_worker"),
        "owed": owed,
        "dead_count": sum(count for _, _, count in dead),
        "reasons": sorted({reason for reason, _, _ in dead} - {figures.OTHER}),
        "dead_tasks": sorted({task for _, task, _ in dead} - {figures.OTHER}),
        "letters": [(letter, age(letter.died_at.timestamp())) for letter in shown],
        "matching": letters.count(),
        "upto": letters.aggregate(Max("pk"))["pk__max"],
        "may_see_letters": user.has_perm("celeriac.view_dead"),
        "may_act": user.has_perm("celeriac.delete_dead"),
        "charted": charted,
        "charts": drawn(figures.series(session, period, step), step) if charted else [],
        "summary": figures.by_task(session, period) if charted else [],
        "messages": messages.get_messages(request),
        "admin": where("admin:index"),
        "outbox_admin": where("admin:celeriac_outbox_changelist"),
        "now": timezone.localtime() if timezone.is_aware(timezone.now()) else timezone.now(),
    }


def last_deploys() -> list[str]:
    """The newest lines of the file that CELERIAC_DEPLOYS names, newest first; none without it."""
    path = os.environ.get("CELERIAC_DEPLOYS")
    try:
        lines = Path(path).read_text(errors="replace").splitlines() if path else []
    except OSError:
        return []  # before the first deploy
    return lines[: -DEPLOYS - 1 : -1]


def age(since: float | None) -> float:
    return max(0.0, time.time() - since) if since else 0.0


def tiles(
    queues: list[figures.Queue] | None,
    consumers: dict[str, int],
    workers: list[figures.Worker],
    owed: figures.Owed,
    dead: list[tuple[str, str, int]],
    beat: figures.Beat,
) -> list[Tile]:
    """The figures that tell whether all is well."""
    alive = [worker for worker in workers if worker.alive]
    slots = sum(worker.concurrency for worker in alive)
    running = sum(worker.running for worker in alive)
    letters = sum(count for _, _, count in dead)
    first = Tile("Waiting", "?", "Redis does not answer", "bad", "queues")
    if queues is not None:
        depth = sum(queue.depth for queue in queues)
        oldest = max((queue.oldest or 0.0 for queue in queues), default=0.0)
        idle = [queue.name for queue in queues if queue.depth and not consumers.get(queue.name)]
        about = f"oldest for {charts.seconds(oldest)}" if depth and oldest else "in all queues"
        if idle:
            about = f"no consumer for {idle[0]}"
        first = Tile("Waiting", charts.count(depth), about, "bad" if idle else "", "queues")
    late = owed.oldest_due is not None and owed.oldest_due > 30
    return [
        first,
        Tile(
            "Running",
            charts.count(running),
            f"of {slots} slots on {len(alive)} worker{'' if len(alive) == 1 else 's'}"
            if alive
            else "no worker is alive",
            "" if alive else "bad",
            "workers",
        ),
        Tile(
            "Owed",
            charts.count(owed.due + owed.sent + owed.waiting),
            f"overdue for {charts.seconds(owed.oldest_due or 0)}" if late else "durable tasks",
            "warn" if late else "",
            "owed",
        ),
        Tile(
            "Dead letters",
            charts.count(letters),
            "wait for a decision" if letters else "nothing to decide",
            "warn" if letters else "",
            "dead",
        ),
        beat_tile(beat),
    ]


def beat_tile(beat: figures.Beat) -> Tile:
    standby = f", {beat.standbys} on standby" if beat.standbys else ""
    if beat.rivals:
        return Tile("Beat", f"{beat.rivals} send", "runs take place more than once", "bad")
    if beat.leaders:
        state = "" if beat.ticked is not None and beat.ticked < 30 else "warn"
        ticked = "no tick yet" if beat.ticked is None else f"ticked {span_ago(beat.ticked)}"
        host = beat.leaders[0].partition(":")[0]
        return Tile("Beat", "leads", f"{host}, {ticked}{standby}", state)
    if beat.ticked is None:
        return Tile("Beat", "–", "never seen with a lease")
    return Tile("Beat", "silent", f"no leader; last tick {span_ago(beat.ticked)}{standby}", "bad")


def span_ago(seconds: float) -> str:
    return "just now" if seconds < 8 else f"{charts.seconds(seconds)} ago"


def drawn(points: list[figures.Point], step: int) -> list[charts.Chart]:
    """Throughput, failures and latency; the last point is only as long as it lasts so far."""
    at = [point.at for point in points]
    minutes = [step / 60] * len(points)
    if points:
        minutes[-1] = min(step, max(20.0, time.time() - at[-1])) / 60
    zone = timezone.get_current_timezone()

    def rate(*names: str) -> list[float | None]:
        return [
            sum(getattr(point, name) for name in names) / length
            for point, length in zip(points, minutes, strict=True)
        ]

    def late(q: float) -> list[float | None]:
        return [figures.quantile(point.latency, q) for point in points]

    return [
        charts.chart(
            "Throughput",
            "tasks a minute",
            at,
            [("succeeded", "good", rate("succeeded")), ("retried", "warn", rate("retried"))],
            charts.count,
            zone,
        ),
        charts.chart(
            "Failures",
            "tasks a minute",
            at,
            [("failed", "bad", rate("failed")), ("rejected", "warn", rate("rejected"))],
            charts.count,
            zone,
        ),
        charts.chart(
            "Latency",
            "from due to start",
            at,
            [("p95", "cool", late(0.95)), ("p50", "good", late(0.5))],
            charts.seconds,
            zone,
            decades=True,
        ),
    ]


# -- deciding --------------------------------------------------------------------------------


@require_POST
@never_cache
@csrf_protect
@for_staff
def act(request: HttpRequest) -> HttpResponse:
    """Replay or discard one dead letter, the chosen ones, or all of a filter.

    What cannot be undone, and what is many, is asked for again first.
    """
    if not request.user.has_perm("celeriac.delete_dead"):
        raise PermissionDenied("Replay and discard need the permission to delete dead letters.")
    values = request.POST
    verb, _, one = values.get("do", "").partition(":")
    chosen = Filter.of(values)
    ids = [one] if one.isdigit() else [pk for pk in values.getlist("letter") if pk.isdigit()]
    everything = one == "all"
    back = f"{reverse('celeriac:operations')}?{chosen.query(hours=values.get('hours', ''))}#dead"
    if verb not in ("replay", "discard") or not (ids or everything):
        say(request, messages.WARNING, "Choose at least one dead letter.")
        return redirect(back)
    letters = chosen.letters() if everything else Dead.objects.filter(pk__in=ids)
    if (verb == "discard" or everything) and values.get("sure") != "yes":
        shown = {
            "verb": verb,
            "do": "all" if everything else "",
            "ids": [] if everything else ids,
            "chosen": chosen,
            "hours": values.get("hours", ""),
            "count": letters.count(),
            "some": letters[:5],
            "back": back,
        }
        return render(request, "celeriac/confirm.html", shown)
    if verb == "discard":
        count = letters.delete()[0]
        say(request, messages.SUCCESS, f"{count} discarded.")
        return redirect(back)
    try:
        count = deadletters.replay(letters.order_by("pk")[:AT_ONCE])
    except GONE:
        raise
    except Exception as error:  # of the broker; what was sent before it is sent
        say(request, messages.ERROR, f"Not replayed: {first_line(error)}")
    else:
        rest = f" {letters.count()} are left; do it again." if everything and letters else ""
        say(request, messages.SUCCESS, f"{count} sent again.{rest}")
    return redirect(back)


def say(request: HttpRequest, level: int, text: str) -> None:
    """Show it on the next page, in projects that have Django's messages."""
    messages.add_message(request, level, text, fail_silently=True)
