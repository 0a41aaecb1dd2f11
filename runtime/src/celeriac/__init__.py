"""What a Django + Celery process needs to run under systemd without losing work.

Attach the modules by name: `--include celeriac.worker`, `--scheduler
celeriac.beat:LeaderScheduler`, `--config python:celeriac.gunicorn`. Importing
this package alone changes nothing.
"""

__version__ = "0.1.0"
