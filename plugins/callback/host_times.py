"""Tell at the end of a run how long each host's own tasks took, and the whole."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
name: host_times
type: aggregate
short_description: Tell how long each host took
description:
  - Sums up the seconds of each host's tasks. Hosts work side by side.
author: Celeriac
"""


class CallbackModule(CallbackBase):
    """Adds up the seconds between the start and the end of each task on each host."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "host_times"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self.began = time.monotonic()
        self.started: dict[tuple[str, str], float] = {}
        self.seconds: dict[str, float] = defaultdict(float)

    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        self.started[host.get_name(), task._uuid] = time.monotonic()

    def ended(self, result: Any) -> None:
        """Count a task that has ended in any way."""
        host = result.host.get_name()
        start = self.started.pop((host, result.task._uuid), None)
        if start is not None:
            self.seconds[host] += time.monotonic() - start

    def v2_runner_on_ok(self, result: Any) -> None:
        self.ended(result)

    def v2_runner_on_skipped(self, result: Any) -> None:
        self.ended(result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        self.ended(result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self.ended(result)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        self._display.banner("SECONDS PER HOST")
        for host, seconds in sorted(self.seconds.items()):
            self._display.display(f"{host:26} : {seconds:6.1f}")
        self._display.display(f"{'the whole run':26} : {time.monotonic() - self.began:6.1f}")
