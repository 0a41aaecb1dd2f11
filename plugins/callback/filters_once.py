"""Load filters and tests before the first task, not again in the process of each task."""

from __future__ import annotations

from typing import Any

from ansible.plugins.callback import CallbackBase
from ansible.plugins.loader import filter_loader, test_loader

DOCUMENTATION = r"""
name: filters_once
type: aggregate
short_description: Load filters and tests once
description:
  - Ansible runs each task of each host in a process of its own, which loads all filters and tests
    unless the process that it comes from has them. Says nothing.
author: Celeriac
"""


class CallbackModule(CallbackBase):
    """Asks for one of each kind, whereupon Ansible loads all that are there."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "filters_once"

    def v2_playbook_on_play_start(self, play: Any) -> None:
        filter_loader.get("default")
        test_loader.get("defined")
