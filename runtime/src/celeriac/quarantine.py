"""Whose fault was it? Strikes against tasks whose process died, and a gate to find the culprit.

A strike is one death, or one refusal by PostgreSQL (a deadlock, a lock or statement timeout, a
lost race), that points to one task. After `max_sends` of them the task is a dead letter.

- Prefork: each task has a child to itself, and the worker's main process sees it die and gives
  the strike. When the whole worker is killed nobody does, and nobody is to blame.
- Where tasks share a process (gevent, eventlet, threads, solo) all die with it and nobody is
  left to tell. So what is sent again gets its strike before it starts, to be settled when it
  ends; and what has a strike already runs alone among the durable tasks of its process. The
  next death then points to it and to nothing else.

Guarantee: poison ends as a dead letter; a neighbour that died with it gets one strike at most,
and ends well, alone. A first run pays nothing for this; a prefork worker never waits.

Limits: a worker that shares a process and is killed from outside under a task that runs alone
gives it a strike too, so it takes max_sends + 1 kills in a row to bury an innocent one. Tasks
that are not durable cannot be kept out. While one task runs alone, the others of its worker
wait for it, and go back to the outbox after WAIT_SECONDS.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

WAIT_SECONDS = 10.0


class Busy(Exception):
    """The task was not let in; nothing has happened."""


class Gate:
    """Lets tasks run beside each other, or one alone; open until `close_off` is called."""

    def __init__(self) -> None:
        self.shared_process = False
        self.waiting: set[int] = set()
        self.begun: set[int] = set()
        self.changed = threading.Condition()
        self.running = 0
        self.alone = False

    def close_off(self) -> None:
        """From now on the tasks that pass die together: the pool runs in this process."""
        self.shared_process = True

    @contextmanager
    def passing(self, seq: int, alone: bool, patience: float | None = None) -> Iterator[None]:
        """Run one task. Raises Busy.

        One that is to be alone waits until the running ones have ended, `patience` seconds at
        most, and lets no other start meanwhile.
        """
        if not self.shared_process:
            yield
            return
        with self.changed:
            self.waiting.add(seq)
            try:
                self.enter(alone, patience)
            finally:
                self.waiting.discard(seq)
        self.begun.add(seq)
        try:
            yield
            self.begun.discard(seq)
        except Exception:  # not gevent's Timeout: `forget_begun` is asked next
            self.begun.discard(seq)
            raise
        finally:
            with self.changed:
                self.running -= 1
                if alone:
                    self.alone = False
                self.changed.notify_all()

    def forget_begun(self, seq: int) -> bool:
        """Tell whether a task that ran into its hard limit had passed at all."""
        begun = seq in self.begun
        self.begun.discard(seq)
        return begun

    def enter(self, alone: bool, patience: float | None) -> None:
        if not self.changed.wait_for(lambda: not self.alone, WAIT_SECONDS):
            raise Busy
        if alone:
            self.alone = True
            others_ended = False
            try:
                others_ended = self.changed.wait_for(lambda: not self.running, patience)
            finally:
                if not others_ended:
                    self.alone = False
                    self.changed.notify_all()
            if not others_ended:
                raise Busy
        self.running += 1


gate = Gate()
