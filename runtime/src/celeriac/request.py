"""What a worker's main process does when the child of a durable task has died.

The death is a strike against the task (see quarantine.py), unless the worker itself is stopping
and ends its children.

On gevent the hard limit counts from before a task begins. One that has not begun by then, because
the worker could not tell the broker that it will, is no failure either.
"""

import logging
from typing import Any

from billiard.einfo import ExceptionWithTraceback
from billiard.exceptions import Terminated, WorkerLostError
from celery.worker import request, state

from celeriac import deadletters
from celeriac.broker import HEADER
from celeriac.quarantine import gate

logger = logging.getLogger("celeriac.request")


class Request(request.Request):
    """A lost child is no failure: the row is still owed, and the keeper sends it again."""

    def on_timeout(self, soft: bool, timeout: float) -> Any:
        seq = self._request_dict.get(HEADER)
        if not soft and seq is not None and gate.shared_process and not gate.forget_begun(seq):
            why = f"it had not begun after {timeout} s"
            logger.warning("%s[%s] will be sent again: %s", self.name, self.id, why)
            return self.leave_owed(seq, why, strikes=0)
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
        seq = self._request_dict.get(HEADER)
        if seq is None or not lost:
            return super().on_failure(exc_info, send_failed_event, return_ok)
        why = str(error) or type(error).__name__
        strikes = int(state.should_stop is None and state.should_terminate is None)
        return self.leave_owed(seq, why, strikes)

    def leave_owed(self, seq: int, why: str, strikes: int) -> None:
        """Be done with the message; the keeper sends the row again."""
        task_id = self.id
        deadletters.write(lambda s: deadletters.strike(seq, task_id, why, s, strikes))
        state.task_ready(self)
        if self.task.acks_late:
            self.acknowledge()
