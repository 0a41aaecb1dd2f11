"""What a Django + Celery process needs to run under systemd without losing work.

Attach the modules by name: `--include celeriac.worker`, `--scheduler
celeriac.beat:LeaderScheduler`, `--config python:celeriac.gunicorn`. Importing
this package alone changes nothing, and needs no Django settings.

For durable tasks put "celeriac" into INSTALLED_APPS and use `celeriac.Task` as the
base class of one task, or of all: `Celery("shop", task_cls="celeriac.Task")`.
"""

from typing import Any

__version__ = "0.1.0"
__all__ = ["Task", "enqueue_many"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from celeriac import durable

        return getattr(durable, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
