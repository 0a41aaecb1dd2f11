"""Kill the first child that has committed a task, before Celery knows of it."""

import os
import signal

from celery.app import trace

from jobs.tasks import marks

build = trace.build_tracer


def deadly(name, task, *args, **kwargs):
    run = type(task).__call__

    def call(self, *a, **k):
        result = run(self, *a, **k)
        if marks().set("killed", 1, nx=True):
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    if name == "jobs.durable.add":
        type(task).__call__ = call
    return build(name, task, *args, **kwargs)


trace.build_tracer = deadly
