"""What is so now, in a few lines for people; the operations page and the metrics say more."""

from collections.abc import Callable, Iterator
from typing import Any

from celeriac import figures
from celeriac.ledger import connection


def lines() -> Iterator[str]:
    """Beat, queues, workers, outbox and dead letters; what cannot be asked says why."""
    from celery import current_app as app

    app.loader.import_default_modules()
    session = connection()
    yield from tried("Beat", lambda: beat(session, app))
    yield from tried("queues", lambda: queues(session, app))
    yield from tried("workers", lambda: workers(session))
    yield from tried("outbox", lambda: outbox(session))
    yield from tried("dead letters", lambda: dead(session))


def tried(what: str, told: Callable[[], list[str]]) -> list[str]:
    """The lines, or one that says why there are none."""
    try:
        return told()
    except Exception as error:
        reason = str(error).strip().splitlines() or [""]
        return [f"{what}: not known, {type(error).__name__}: {reason[0]}"]


def ago(seconds: float | None) -> str:
    """A time for people, such as "12 s" or "3.5 h"."""
    if seconds is None:
        return "-"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def beat(session: Any, app: Any) -> list[str]:
    found = figures.beat(session, app)
    leader = ", ".join(found.leaders) or "nobody"
    ticked = f"ticked {ago(found.ticked)} ago" if found.ticked is not None else "never ticked"
    return [f"Beat: {leader} leads, {found.standbys} on standby, {ticked}"]


def queues(session: Any, app: Any) -> list[str]:
    found = figures.queues(app, figures.queue_names(app, session))
    told = [
        f"{queue.name} {queue.depth}" + (f" (oldest {ago(queue.oldest)})" if queue.oldest else "")
        for queue in found
    ]
    return [f"queues: {', '.join(told) or 'none'}; in workers' hands {figures.unacked(app)}"]


def workers(session: Any) -> list[str]:
    told = [
        f"{worker.name} {worker.running}/{worker.concurrency}" + ("" if worker.alive else " (gone)")
        for worker in figures.workers(session)
    ]
    return [f"workers: {', '.join(told) or 'none'}"]


def outbox(session: Any) -> list[str]:
    found = figures.owed(session)
    oldest = f", oldest due {ago(found.oldest_due)} ago" if found.oldest_due else ""
    return [f"outbox: {found.due} due, {found.waiting} later, {found.sent} sent{oldest}"]


def dead(session: Any) -> list[str]:
    found = figures.dead(session)
    told = ", ".join(f"{count} x {task} ({reason})" for reason, task, count in found[:5])
    total = sum(count for _, _, count in found)
    return [f"dead letters: {total}" + (f": {told}" if told else "")]
