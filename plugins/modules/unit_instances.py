#!/usr/bin/python
"""Hand a family of systemd unit instances over to the wanted ones."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: unit_instances
short_description: Hand a family of systemd unit instances over to the wanted ones
description:
  - Starts and enables the wanted instances and waits until each says READY; only then are the
    other instances of the family disabled and told to stop.
  - Where one does not start, those that this run has started are stopped again, the others go on as
    before, and the failure carries the journal.
options:
  family:
    description: What the names of the family's units begin with, e.g. C(shop-worker-).
    type: str
    required: true
  wanted:
    description: Full names of the instances that shall run.
    type: list
    elements: str
    required: true
  target:
    description: The target that wants the instances.
    type: str
    required: true
  wait:
    description: Whether to wait until the instances that are told to stop have stopped.
    type: bool
    default: true
author: Celeriac
"""

EXAMPLES = r"""
- name: Switch the web server to the release
  unit_instances:
    family: shop-web
    wanted: [shop-web@1f2e3d4c5b6a.service]
    target: shop.target
"""

RETURN = r"""
started: {description: Instances that were started., type: list, returned: always}
stopped: {description: Instances that were told to stop., type: list, returned: always}
draining: {description: Instances that still finish their work., type: list, returned: always}
"""

RUNNING = {"active", "reloading"}
STOPPED = {"inactive", "failed"}


def systemctl(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run systemctl and return what it said."""
    return subprocess.run(["systemctl", *arguments], capture_output=True, text=True, check=False)


def loaded_instances(family: str) -> dict[str, str]:
    """Return the state of each loaded instance, by unit name."""
    listed = systemctl(
        "list-units", "--all", "--plain", "--no-legend", "--type=service", f"{family}*@*.service"
    )
    rows = (line.split() for line in listed.stdout.splitlines() if line.strip())
    return {row[0]: row[2] for row in rows}


def enabled_instances(family: str, target: str) -> set[str]:
    """Return the instances that come up with `target` at boot."""
    wants = Path("/etc/systemd/system") / f"{target}.wants"
    return {link.name for link in wants.glob(f"{family}*@?*.service")}


def state_of(unit: str) -> str:
    """Return systemd's ActiveState of `unit`."""
    return systemctl("show", "--value", "--property=ActiveState", unit).stdout.strip()


def wait_for(units: list[str]) -> None:
    """Return when every unit has stopped; systemd's own TimeoutStopSec bounds the wait."""
    waiting = list(units)
    while waiting:
        waiting = [unit for unit in waiting if state_of(unit) not in STOPPED]
        if waiting:
            time.sleep(0.2)


def journal(unit: str) -> str:
    """Return the last words of `unit`."""
    command = ["journalctl", "--no-pager", "--output=cat", "--lines=60", f"--unit={unit}"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "family": {"type": "str", "required": True},
            "wanted": {"type": "list", "elements": "str", "required": True},
            "target": {"type": "str", "required": True},
            "wait": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    family, target = module.params["family"], module.params["target"]
    wanted: list[str] = module.params["wanted"]
    loaded = loaded_instances(family)
    enabled = enabled_instances(family, target)

    to_start = [unit for unit in wanted if loaded.get(unit) not in RUNNING]
    to_enable = [unit for unit in wanted if unit not in enabled]
    to_disable = sorted(enabled - set(wanted))
    to_stop = sorted(
        unit
        for unit, state in loaded.items()
        if unit not in wanted and state not in STOPPED | {"deactivating"}
    )
    changed = bool(to_start or to_enable or to_disable or to_stop)
    result = {"changed": changed, "started": to_start, "stopped": to_stop, "draining": []}
    if module.check_mode:
        module.exit_json(**result)

    if to_start:
        start = systemctl("start", *to_start)
        failed = [unit for unit in to_start if state_of(unit) not in RUNNING]
        if start.returncode or failed:
            words = "\n".join(f"--- {unit}\n{journal(unit)}" for unit in failed or to_start)
            systemctl("stop", *to_start)
            systemctl("reset-failed", *to_start)
            left = ", ".join(unit for unit, state in loaded.items() if state in RUNNING) or "none"
            module.fail_json(
                msg=f"{', '.join(failed or to_start)} did not start and was stopped again; "
                f"running as before: {left}. {start.stderr.strip()}\n{words}"
            )
    for action, units in (("enable", to_enable), ("disable", to_disable)):
        if units and (done := systemctl(action, *units)).returncode:
            module.fail_json(msg=f"systemctl {action} {' '.join(units)}: {done.stderr.strip()}")
    if to_stop:
        systemctl("stop", "--no-block", *to_stop)
        if module.params["wait"]:
            wait_for(to_stop)
    leftovers = [
        u for u, s in loaded_instances(family).items() if s == "failed" and u not in wanted
    ]
    if leftovers:
        systemctl("reset-failed", *leftovers)
    result["draining"] = [u for u, s in loaded_instances(family).items() if s == "deactivating"]
    module.exit_json(**result)


if __name__ == "__main__":
    main()
