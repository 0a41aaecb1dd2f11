"""Kill the Beat that is first to reach a point ($PROJECT_KILL_AT) of sending and saving a run."""

import os
import signal

from celery import Celery
from django_celery_beat.schedulers import ModelEntry

from celeriac import Task, broker, ledger
from jobs.tasks import marks


def patch(owner, name, before="", after=""):
    original = getattr(owner, name)

    def patched(*args, **kwargs):
        reach(before)
        result = original(*args, **kwargs)
        reach(after)
        return result

    setattr(owner, name, patched)


def reach(point):
    if point == os.environ["PROJECT_KILL_AT"] and marks().incr("reached") == 3:
        os.kill(os.getpid(), signal.SIGKILL)


patch(ledger, "insert", before="due", after="owed")
patch(ModelEntry, "save", after="saved")
patch(Task, "publish", before="committed")
patch(broker, "push", after="published")
patch(Celery, "send_task", after="sent")
