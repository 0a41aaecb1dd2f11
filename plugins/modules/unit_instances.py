#!/usr/bin/python
"""Hand families of systemd unit instances over to those of a release."""

from __future__ import annotations

import subprocess
import time
from fnmatch import fnmatch
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: unit_instances
short_description: Hand families of systemd unit instances over to those of a release
description:
  - The release's folder of units says which instances this host runs; they are put in place,
    started all at once and enabled. Only when each has said READY are the instances of other
    releases told to stop and disabled. Units that the release does not have go.
  - Where one does not start, those that this run has started are stopped again, the unit files are
    put back, the others go on as before, and the failure carries the journal.
  - An instance that shall run and still finishes its work from before, on the way back for one,
    starts when it is done. Nobody waits for that; its successor works on until then.
options:
  app:
    description: What the names of all units begin with.
    type: str
    required: true
  families:
    description: Which of them; C(worker) stands for all pools.
    type: list
    elements: str
    required: true
  release:
    description: The name of the instances that shall run.
    type: str
    required: true
  home:
    description: The folder of the release, with C(units) in it.
    type: path
    required: true
  wait:
    description: Seconds at most to wait for the old ones to stop; those with work left go on.
    type: float
    default: 30
  patient:
    description: Families whose old instances are not waited for.
    type: list
    elements: str
    default: [worker]
  installed:
    description: Where systemd looks for units; for tests.
    type: path
    default: /etc/systemd/system
  out:
    description: A folder with a file for each unit that is out of service on this host.
    type: path
author: Celeriac
"""

EXAMPLES = r"""
- name: Switch the host to the release
  unit_instances:
    app: shop
    families: [web, worker, beat]
    release: 1f2e3d4c5b6a
    home: /opt/shop/releases/1f2e3d4c5b6a
"""

RETURN = r"""
started: {description: Instances that were started., type: list, returned: always}
stopped: {description: Instances that were told to stop., type: list, returned: always}
removed: {description: Unit files that the release does not have., type: list, returned: always}
draining: {description: Instances that still finish their work., type: list, returned: always}
waiting: {description: Instances that start when that work is done., type: list, returned: always}
out: {description: Instances that are out of service., type: list, returned: always}
"""

RUNNING = {"active", "reloading"}
STOPPED = {"inactive", "failed"}
# What the unit that hands over later is called after the pool's name.
LATER = "-handover.service"


class Failed(Exception):
    """What the module says when it cannot go on."""


def systemctl(*arguments: str, check: bool = False) -> subprocess.CompletedProcess[str]:
    """Run systemctl and return what it said."""
    done = subprocess.run(["systemctl", *arguments], capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise Failed(f"systemctl {' '.join(arguments)}: {done.stderr.strip()}")
    return done


class Family:
    """The names of one kind of unit."""

    def __init__(self, app: str, name: str) -> None:
        self.app, self.prefix = app, f"{app}-{name}"
        self.files = f"{self.prefix}-*@.service" if name == "worker" else f"{self.prefix}@.service"
        self.instances = self.files.replace("@.", "@?*.")
        self.beside = (
            () if name == "worker" else (f"{self.prefix}.service", f"{self.prefix}.socket")
        )

    def unit_files(self, folder: Path) -> dict[str, str]:
        """Return the family's unit files in `folder` with their text, by name."""
        found = [*folder.glob(self.files), *(folder / name for name in self.beside)]
        return {path.name: path.read_text() for path in found if path.is_file()}

    def kept_files(self, folder: Path) -> dict[str, str]:
        """Return the same of a release's folder, where the names go without the app's."""
        app = f"{self.app}-"
        names = [path.name for path in folder.glob("*") if fnmatch(app + path.name, self.files)]
        names += [name.removeprefix(app) for name in self.beside]
        found = {app + name: folder / name for name in names}
        return {name: path.read_text() for name, path in found.items() if path.is_file()}


def listed(patterns: list[str], *options: str) -> dict[str, str]:
    """Return the state of each service with such a name; without a pattern there is none."""
    if not patterns:  # systemctl would list all that the host has
        return {}
    shown = systemctl("list-units", "--plain", "--no-legend", "--type=service", *options, *patterns)
    rows = (line.split() for line in shown.stdout.splitlines() if line.strip())
    return {row[0]: row[2] for row in rows}


def loaded_instances(families: list[Family]) -> dict[str, str]:
    """Return the state of each loaded instance, by unit name."""
    return listed([family.instances for family in families], "--all")


def running_beside(unit: str, loaded: dict[str, str]) -> list[str]:
    """Return the other running instances of the same kind."""
    kind = unit.split("@")[0]
    return [
        other
        for other, state in loaded.items()
        if other != unit and other.split("@")[0] == kind and state in RUNNING
    ]


def enabled_instances(families: list[Family], wants: Path) -> set[str]:
    """Return the instances that the target wants at boot."""
    return {link.name for family in families for link in wants.glob(family.instances)}


def state_of(unit: str) -> str:
    """Return systemd's ActiveState of `unit`."""
    return systemctl("show", "--value", "--property=ActiveState", unit).stdout.strip()


def journal(unit: str) -> str:
    """Return the last words of `unit`."""
    command = ["journalctl", "--no-pager", "--output=cat", "--lines=60", f"--unit={unit}"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def wait_for(units: list[str], seconds: float) -> None:
    """Return when every unit has stopped, or the time is up."""
    end = time.monotonic() + seconds
    waiting = list(units)
    while waiting and time.monotonic() < end:
        waiting = [unit for unit in waiting if state_of(unit) not in STOPPED]
        if waiting:
            time.sleep(0.1)


def hand_over_later(unit: str, successors: list[str]) -> None:
    """Start `unit` as soon as it has stopped, and then stop what works on until then."""
    script = 'systemctl start "$1"; shift; test $# = 0 || systemctl stop --no-block "$@"'
    name = f"--unit={unit.split('@')[0]}{LATER}"
    run = ["systemd-run", "--quiet", "--collect", name, "sh", "-ec", script, "sh"]
    subprocess.run([*run, unit, *successors], capture_output=True, text=True, check=True)


def forget_later(families: list[Family]) -> None:
    """End what an earlier run has left to be handed over later."""
    patterns = [
        family.instances.replace("@?*", LATER.removesuffix(".service")) for family in families
    ]
    if later := listed(patterns):
        systemctl("stop", *later, check=True)
        states = loaded_instances(families)
        # They are to stop only, and no longer to start again.
        again = [unit for unit, state in states.items() if state == "deactivating"]
        if again:
            systemctl("stop", "--no-block", *again, check=True)


def put(folder: Path, texts: dict[str, str | None]) -> None:
    """Write unit files, or remove those without a text, and let systemd read them."""
    for name, text in texts.items():
        path = folder / name
        if text is None:
            path.unlink(missing_ok=True)
        else:
            path.write_text(text)
            path.chmod(0o644)
    if texts:
        systemctl("daemon-reload", check=True)


def of_release(families: list[Family], home: Path) -> dict[str, str]:
    """Return the unit files of the release, by the names that they get."""
    found: dict[str, str] = {}
    for family in families:
        found |= family.kept_files(home / "units")
    return found


def start(units: list[str], before: dict[str, str]) -> None:
    """Start `units`, all at once; raises Failed, and stops them again, if one does not start."""
    if not units:
        return
    said = systemctl("start", *units)
    failed = [unit for unit in units if state_of(unit) not in RUNNING]
    if not said.returncode and not failed:
        return
    words = "\n".join(f"--- {unit}\n{journal(unit)}" for unit in failed or units)
    systemctl("stop", *units)
    systemctl("reset-failed", *units)
    left = ", ".join(unit for unit, state in before.items() if state in RUNNING) or "none"
    raise Failed(
        f"{', '.join(failed or units)} did not start and was stopped again; "
        f"running as before: {left}. {said.stderr.strip()}\n{words}"
    )


def hand_over(module: AnsibleModule) -> dict:
    """Do it; returns what was done."""
    given = module.params
    app, release, installed = given["app"], given["release"], Path(given["installed"])
    families = [Family(app, name) for name in given["families"]]
    home = Path(given["home"])
    if not (home / "units").is_dir() and not module.check_mode:
        raise Failed(f"{home} has no folder of units, so that nobody knows what it runs")
    texts = of_release(families, home)
    before = {
        name: text for family in families for name, text in family.unit_files(installed).items()
    }
    written: dict[str, str | None] = {
        name: text for name, text in texts.items() if before.get(name) != text
    }
    gone = sorted(set(before) - set(texts))

    out = {mark.name for mark in Path(given["out"]).glob("*")} if given["out"] else set()
    instances = [name for name in texts if "@." in name]
    named = {
        name.replace("@.", f"@{release}."): name.removesuffix("@.service") for name in instances
    }
    wanted = [unit for unit, name in named.items() if name not in out]

    if not module.check_mode:
        forget_later(families)
    loaded = loaded_instances(families)
    enabled = enabled_instances(families, installed / f"{app}.target.wants")
    sockets = [name for name in texts if name.endswith(".socket") and state_of(name) not in RUNNING]
    patient = tuple(f"{app}-{name}" for name in given["patient"])
    waiting = {
        unit: [other for other in running_beside(unit, loaded) if other not in wanted]
        for unit in wanted
        if unit.startswith(patient) and loaded.get(unit) == "deactivating"
    }
    to_start = [unit for unit in wanted if loaded.get(unit) not in RUNNING and unit not in waiting]
    to_enable = [unit for unit in wanted if unit not in enabled]
    to_disable = sorted(enabled - set(wanted))
    staying = {unit for successors in waiting.values() for unit in successors}
    leaving = sorted(
        unit
        for unit, state in loaded.items()
        if unit not in {*wanted, *staying} and state not in STOPPED
    )
    to_stop = [unit for unit in leaving if loaded[unit] != "deactivating"]
    result = {
        "changed": bool(
            written or gone or sockets or to_start or to_enable or to_disable or to_stop or waiting
        ),
        "started": to_start,
        "stopped": to_stop,
        "removed": [],
        "draining": [],
        "waiting": list(waiting),
        "out": [unit for unit in named if unit not in wanted],
    }
    if module.check_mode:
        return result

    put(installed, written)
    try:
        if sockets:
            systemctl("enable", "--now", *sockets, check=True)
        start(to_start, loaded)
    except Failed:
        put(installed, {name: before.get(name) for name in written})
        raise
    if to_stop:
        systemctl("stop", "--no-block", *to_stop, check=True)
    # It is about the next boot; systemd need not read all units again for it.
    for action, units in (("enable", to_enable), ("disable", to_disable)):
        if units:
            systemctl(action, "--no-reload", *units, check=True)
    for unit, successors in waiting.items():
        hand_over_later(unit, successors)
    wait_for([unit for unit in leaving if not unit.startswith(patient)], given["wait"])

    states = loaded_instances(families)
    leftovers = [unit for unit, state in states.items() if state == "failed" and unit not in wanted]
    if leftovers:
        systemctl("reset-failed", *leftovers)
    live = {unit.split("@")[0] for unit, state in states.items() if state not in STOPPED}
    # The unit of one that drains has its limits; it goes with the next deploy.
    result["removed"] = [name for name in gone if name.split("@")[0] not in live]
    put(installed, dict.fromkeys(result["removed"]))
    result["draining"] = [
        unit for unit, state in states.items() if state == "deactivating" and unit not in waiting
    ]
    return result


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "app": {"type": "str", "required": True},
            "families": {"type": "list", "elements": "str", "required": True},
            "release": {"type": "str", "required": True},
            "home": {"type": "path", "required": True},
            "wait": {"type": "float", "default": 30},
            "patient": {"type": "list", "elements": "str", "default": ["worker"]},
            "installed": {"type": "path", "default": "/etc/systemd/system"},
            "out": {"type": "path"},
        },
        supports_check_mode=True,
    )
    try:
        result = hand_over(module)
    except Failed as problem:
        module.fail_json(msg=str(problem))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
