"""What a worker's main process does when the child of a durable task has died.

The death is a strike against the task (see quarantine.py), unless the worker itself is stopping
and ends its children.
"""

from typing import Any

from billiard.einfo import ExceptionWithTraceback
from billiard.exceptions import Terminated, WorkerLostError
from celery.worker import request, state

from celeriac import deadletters
from celeriac.broker import HEADER


class Request(request.Request):
    """A lost child is no failure: the row is still owed, and the keeper sends it again."""

    def on_timeout(self, soft: bool, timeout: float) -> Any:
        with deadletters.timing_out(self._context):
            return super().on_timeout(soft, timeout)

    def on_failure(
        self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False
    ) -> Any:
        error = exc_info.exception
        if isinstance(error, ExceptionWithTraceback):
            error = error.exc
        lost = isinstance(error, WorkerLostError | SystemExit | KeyboardInterrupt) or (
            isinstance(error, Terminated) and self.id not in state.revoked
        )
        seq, task_id = self._request_dict.get(HEADER), self.id
        if seq is None or not lost:
            return super().on_failure(exc_info, send_failed_event, return_ok)
        why = str(error) or type(error).__name__
        strikes = int(state.should_stop is None and state.should_terminate is None)
        deadletters.write(lambda s: deadletters.strike(seq, task_id, why, s, strikes))
        state.task_ready(self)
        if self.task.acks_late:
            self.acknowledge()
        return None
