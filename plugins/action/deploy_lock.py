"""Says whose run this is, and takes a lock over whose run has ended on this machine."""

from __future__ import annotations

import getpass
import multiprocessing
import os
import socket
from typing import Any

from ansible.plugins.action import ActionBase


def user() -> str:
    """The name of whoever runs this; in a container it may be a number without a name."""
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def began(process: int) -> str:
    """When the process began, in the kernel's own count; empty where it does not tell."""
    try:
        with open(f"/proc/{process}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def this_run() -> dict[str, Any]:
    """Who runs this ansible-playbook, where, and in which process; tasks run in a child of it.

    Two containers may have the same name and the same number of a process, but not from the same
    moment on.
    """
    parent = multiprocessing.parent_process()
    process = parent.pid if parent else os.getpid()
    return {
        "who": user(),
        "machine": socket.gethostname(),
        "process": process,
        "began": began(process),
    }


def has_ended(holder: dict[str, Any], run: dict[str, Any]) -> bool:
    """Whether the holder was on this machine, and its process is no more."""
    if not holder or holder["machine"] != run["machine"]:
        return False
    try:
        os.kill(holder["process"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return began(holder["process"]) != holder.get("began", "")


class ActionModule(ActionBase):
    """The action of the task."""

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        """Run the module, and once more where the lock's holder is no more."""
        super().run(tmp, task_vars)
        run = this_run()
        given = self._task.args | {"run": run}
        result = self._execute_module(
            module_name="deploy_lock", module_args=given, task_vars=task_vars
        )
        if result.get("failed") and has_ended(result.get("holder", {}), run):
            result = self._execute_module(
                module_name="deploy_lock", module_args=given | {"ended": True}, task_vars=task_vars
            )
        return result
