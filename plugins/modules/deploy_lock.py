#!/usr/bin/python
"""One deploy at a time: who holds the host, and what became of each deploy."""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: deploy_lock
short_description: One deploy at a time, and a history of all
description:
  - C(taken) refuses while another run holds the lock, and says whose it is. A run that ended
    without giving it back (its controller was switched off, the connection was cut) loses it to the
    next run from the same machine by itself, and to one from another machine with C(break_it).
  - C(given_back) writes the line of history; C(noted) writes the same line on another host.
  - The action plugin of the same name says whose run this is.
options:
  app:
    description: Whose lock it is.
    type: str
    required: true
  state:
    description: What to do; C(seen) only tells.
    type: str
    choices: [taken, given_back, noted, seen]
    required: true
  what:
    description: The verb, such as C(deploy).
    type: str
    default: ""
  release:
    description: The release that is the current one now, or should have become it.
    type: str
    default: ""
  result:
    description: What became of it.
    type: str
    default: ""
  line:
    description: For C(noted); what another host has returned as C(noted).
    type: str
    default: ""
  break_it:
    description: Take it whoever holds it.
    type: bool
    default: false
  lines:
    description: How many lines of history to return.
    type: int
    default: 10
  run:
    description: Filled in by the action plugin; who runs this, on which machine, in which process.
    type: dict
  ended:
    description: Filled in by the action plugin; whether the run that holds the lock has ended.
    type: bool
    default: false
  root:
    description: For tests; what stands for C(/).
    type: path
    default: /
author: Celeriac
"""

EXAMPLES = r"""
- name: Take the lock
  deploy_lock:
    app: shop
    state: taken
    what: deploy
"""

RETURN = r"""
holder: {description: Who holds the lock now, returned: always, type: dict}
history: {description: The last lines of history, returned: always, type: list}
noted: {description: The line of history that was written, or nothing, returned: always, type: str}
"""


class Lock:
    """The lock of one app: a file that is gone after a restart of the host."""

    def __init__(self, app: str, root: Path) -> None:
        self.path = root / "run/celeriac" / f"{app}-deploy.json"
        self.log = root / "var/log/celeriac" / f"{app}-deploys.log"

    def holder(self) -> dict[str, Any]:
        """Who holds it; empty if nobody does."""
        try:
            return json.loads(self.path.read_text())
        except (FileNotFoundError, ValueError):
            return {}

    def take(self, holder: dict[str, Any]) -> bool:
        """Take it if nobody holds it; of two at the same time one does."""
        self.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        mine = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        mine.write_text(json.dumps(holder))
        try:
            os.link(mine, self.path)
        except FileExistsError:
            return False
        finally:
            mine.unlink()
        return True

    def take_from(self, holder: dict[str, Any]) -> None:
        """Take it away from this holder, and from nobody who has taken it since."""
        aside = self.path.with_name(f".{self.path.name}.{os.getpid()}.aside")
        try:
            self.path.rename(aside)
        except FileNotFoundError:
            return
        if json.loads(aside.read_text()) != holder:
            with contextlib.suppress(FileExistsError):
                os.link(aside, self.path)
        aside.unlink()

    def give_back(self) -> None:
        """Whoever held it."""
        self.path.unlink(missing_ok=True)

    def note(self, holder: dict[str, Any], release: str, result: str) -> str:
        """Write one line: when it began, who, what, how long it took, what came of it."""
        seconds = f"{time.time() - holder['since']:.0f} s"
        words = [when(holder), f"{holder['what']:<8}", f"{release or '-':<12}", f"{seconds:>6}"]
        line = "  ".join([*words, f"{holder['who']}@{holder['machine']}", " ".join(result.split())])
        return self.write(line[:500])

    def write(self, line: str) -> str:
        """Add a line to the history."""
        self.log.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with self.log.open("a") as log:
            log.write(line + "\n")
        return line

    def history(self, lines: int) -> list[str]:
        """The last lines, oldest first."""
        return self.log.read_text().splitlines()[-lines:] if self.log.exists() else []


def when(holder: dict[str, Any]) -> str:
    """When the holder took the lock, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(holder["since"]))


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether both are the same run."""
    return all(one.get(key) == other.get(key) for key in ("who", "machine", "process", "began"))


def refusal(app: str, holder: dict[str, Any]) -> str:
    """What to tell the second one."""
    minutes = (time.time() - holder["since"]) / 60
    return (
        f"{holder['who']}@{holder['machine']} has been running a {holder['what']} of {app} since "
        f"{when(holder)} ({minutes:.0f} minutes; process {holder['process']} there). Wait until it "
        "has ended. If that run is dead, look which release runs with playbooks/status.yml, then "
        "run this again with -e deploy_lock=break."
    )


def take(lock: Lock, given: dict[str, Any]) -> tuple[bool, str, str]:
    """Take the lock; returns whether that changed anything, why it was refused, what was noted."""
    run = given["run"] | {"what": given["what"], "since": time.time()}
    holder = lock.holder()
    if same(holder, run):
        return False, "", ""
    noted = ""
    if holder and (given["ended"] or given["break_it"]):
        noted = lock.note(
            holder, holder.get("release", ""), "ended without a word; the lock was taken over"
        )
        lock.take_from(holder)
    if not lock.take(run):
        return False, refusal(given["app"], lock.holder() or holder), noted
    return True, "", noted


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "app": {"type": "str", "required": True},
            "state": {
                "type": "str",
                "required": True,
                "choices": ["taken", "given_back", "noted", "seen"],
            },
            "what": {"type": "str", "default": ""},
            "release": {"type": "str", "default": ""},
            "result": {"type": "str", "default": ""},
            "line": {"type": "str", "default": ""},
            "break_it": {"type": "bool", "default": False},
            "lines": {"type": "int", "default": 10},
            "run": {"type": "dict"},
            "ended": {"type": "bool", "default": False},
            "root": {"type": "path", "default": "/"},
        },
        supports_check_mode=True,
    )
    given = module.params
    lock = Lock(given["app"], Path(given["root"]))
    changed, refused, noted = False, "", ""
    if given["state"] == "taken" and not module.check_mode:
        changed, refused, noted = take(lock, given)
    if given["state"] == "given_back" and not module.check_mode:
        holder = lock.holder()
        if same(holder, given["run"]):
            noted = lock.note(holder, given["release"], given["result"])
            lock.give_back()
    if given["state"] == "noted" and not module.check_mode:
        noted = lock.write(given["line"])
    # The lock and its line are about the run, not about the host: a second run changes nothing.
    result = {
        "changed": False,
        "holder": lock.holder(),
        "history": lock.history(given["lines"]),
        "noted": noted,
    }
    if refused:
        module.fail_json(msg=refused, **result)
    module.exit_json(**result, took=changed)


if __name__ == "__main__":
    main()
