"""What a release knows, and what of the rest of the world it would not know.

    python -m celeriac.skew --app config [--messages 20000]

Prints one line of JSON: the tasks and migrations of the release, and what it would meet and
not know: migrations that the schema has beyond it, and tasks that wait in the broker, are
owed in the outbox or stand in the schedule of django-celery-beat. Changes nothing.

Reads at most --messages of each queue, and only of a Redis broker. Stands alone, so that
the playbooks can pipe it into the Python of a release that is older than this file:

    python - --app config < skew.py
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

CHUNK = 1000


def known_tasks(app: Any) -> list[str]:
    """The names of all tasks, Celery's own too."""
    app.loader.import_default_modules()
    app.finalize()
    return sorted(app.tasks)


def known_migrations(loader: Any) -> set[tuple[str, str]]:
    """Those in the code, also by the names of what they have replaced."""
    known = set(loader.disk_migrations)
    for key, migration in loader.disk_migrations.items():
        known.update((key[0], name) for _, name in migration.replaces)
    return known


def knowledge(app: Any) -> dict[str, list[Any]]:
    """The tasks and migrations of the release, without a look at database or broker."""
    import django
    from django.db.migrations.loader import MigrationLoader

    django.setup()
    known = known_migrations(MigrationLoader(None))
    return {"tasks": known_tasks(app), "migrations": sorted(map(list, known))}


def migrations() -> dict[str, list[list[str]]]:
    """Which the release has, which of them are not applied, and which are applied beyond them."""
    from django.db import connection
    from django.db.migrations.loader import MigrationLoader

    loader = MigrationLoader(connection)
    known = known_migrations(loader)
    applied = set(loader.applied_migrations)
    return {
        "migrations": sorted(map(list, known)),
        "unapplied": sorted(map(list, set(loader.graph.nodes) - applied)),
        "beyond": sorted(map(list, applied - known)),
    }


def names_in(messages: Iterable[bytes]) -> Iterator[str]:
    """The names of the tasks of these messages."""
    for text in messages:
        try:
            name = json.loads(text)["headers"].get("task")
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        if name:
            yield name


def delayed(held: Iterable[bytes]) -> Iterator[bytes]:
    """Of what workers hold, the messages that wait for their time: a drain puts them back."""
    for text in held:
        try:
            message = json.loads(text)[0]
            if message["headers"].get("eta"):
                yield json.dumps(message).encode()
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            continue


def queued(app: Any, most: int) -> Counter[str]:
    """The tasks that wait in the broker; raises its errors."""
    from celeriac import broker, figures

    found: Counter[str] = Counter()
    redis = broker.client(app)
    names = figures.configured_queues(app)
    names.update(key.decode().removeprefix("_kombu.binding.") for key in bindings(app, redis))
    for name in sorted(names):
        for priority in figures.priorities(app):
            key = broker.unprefixed(app, broker.list_name(app, name, priority))
            for first in range(0, most, CHUNK):
                messages = redis.lrange(key, first, first + CHUNK - 1)
                found.update(names_in(messages))
                if len(messages) < CHUNK:
                    break
    options = app.conf.broker_transport_options or {}
    held = redis.hvals(options.get("unacked_key") or "unacked")
    found.update(names_in(delayed(held)))
    return found


def bindings(app: Any, redis: Any) -> list[bytes]:
    """The keys in which kombu notes the queues that were ever used."""
    if (app.conf.broker_transport_options or {}).get("global_keyprefix"):
        return []
    return list(redis.scan_iter("_kombu.binding.*", count=CHUNK))


def owed() -> Counter[str]:
    """The tasks in the outbox."""
    from django.db import connection

    if "celeriac_outbox" not in connection.introspection.table_names():
        return Counter()
    with connection.cursor() as cursor:
        cursor.execute("SELECT task, count(*) FROM celeriac_outbox GROUP BY task")
        return Counter(dict(cursor.fetchall()))


def scheduled() -> dict[str, list[str]]:
    """The periodic tasks in the database that are enabled, by the task that they run."""
    from django.db import connection

    found: dict[str, list[str]] = {}
    if "django_celery_beat_periodictask" in connection.introspection.table_names():
        with connection.cursor() as cursor:
            cursor.execute("SELECT task, name FROM django_celery_beat_periodictask WHERE enabled")
            for task, name in cursor.fetchall():
                found.setdefault(task, []).append(name)
    return found


def report(app: Any, most: int) -> dict[str, Any]:
    """All of it; what could not be looked at is named in "unseen"."""
    import django

    django.setup()
    tasks = known_tasks(app)
    found: dict[str, Any] = {"tasks": tasks, **migrations(), "unseen": []}
    found["owed"] = {name: count for name, count in owed().items() if name not in tasks}
    found["scheduled"] = {name: rows for name, rows in scheduled().items() if name not in tasks}
    found["queued"] = {}
    if app.connection_for_write().transport.driver_type != "redis":
        found["unseen"].append("the queues, for the broker is not Redis")
        return found
    try:
        found["queued"] = {name: n for name, n in queued(app, most).items() if name not in tasks}
    except Exception as error:
        found["unseen"].append(f"the queues ({type(error).__name__}: {error})")
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m celeriac.skew")
    parser.add_argument("--app", required=True, help="the Celery app, as in `celery -A`")
    parser.add_argument("--messages", type=int, default=20_000, help="at most, of each queue")
    options = parser.parse_args(arguments)
    from celery.app.utils import find_app

    if "" not in sys.path:
        sys.path.insert(0, "")
    print(json.dumps(report(find_app(options.app), options.messages)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
