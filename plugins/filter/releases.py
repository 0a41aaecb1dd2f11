"""What stands between two releases: the order of the switch, and what would be left over."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

TOGETHER = "together"
CONSUMERS = "consumers first"
PRODUCERS = "producers first"
FACTS = "facts: "
ACCEPT = "To go on all the same: -e go_ahead=true"


def own_tasks(facts: Mapping[str, Any]) -> set[str]:
    """Return the names of a release's tasks, without Celery's own."""
    return {name for name in facts.get("tasks", []) if not name.startswith("celery.")}


def listed(names: Iterable[str], most: int = 12) -> str:
    """Return a short list for people."""
    found = sorted(names)
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(found[:most]) + more


def switch_order(new: Mapping[str, Any], old: Mapping[str, Any], back: bool = False) -> str:
    """Return what switches first, so that nobody enqueues a task that the workers do not know.

    Workers that know more come before web and Beat, workers that know less come after them. Where
    the running release has not said what it knows, a deploy is taken to add, a way back to drop.
    """
    if not own_tasks(old):
        return PRODUCERS if back else CONSUMERS
    if own_tasks(new) == own_tasks(old):
        return TOGETHER
    return CONSUMERS if own_tasks(new) > own_tasks(old) else PRODUCERS


def switch_problems(
    new: Mapping[str, Any], old: Mapping[str, Any], back: bool = False
) -> list[str]:
    """Return a message for each thing that the release would leave over."""
    problems = []
    for key, where, advice in (
        ("queued", "waiting in the queues", "wait until they have run"),
        ("owed", "owed in the outbox", "wait until they have run"),
        ("scheduled", "in the schedule", "disable these entries in the admin"),
    ):
        if left := new.get(key):
            counts = [
                f"{name} ({listed(left[name]) if key == 'scheduled' else left[name]})"
                for name in left
            ]
            problems.append(
                f"The release does not know tasks that are {where}: {listed(counts)}. "
                f"Keep them in the code for one more release, or {advice}."
            )
    dropped, added = own_tasks(old) - own_tasks(new), own_tasks(new) - own_tasks(old)
    if own_tasks(old) and dropped and added:
        problems.append(
            f"The release drops tasks ({listed(dropped)}) and adds others ({listed(added)}), so "
            "that for a moment either the old web server or the new one would call a task that no "
            "worker knows. Ship it as two releases: first the new ones, then without the old ones."
        )
    if dropped and new.get("unseen"):
        problems.append(
            f"The release drops tasks ({listed(dropped)}), and whether some of them wait could not "
            f"be seen: {listed(new['unseen'])}."
        )
    if back:
        problems += schema_problems(new, old)
    return [*problems, ACCEPT] if problems else []


def tasks_left(new: Mapping[str, Any]) -> str:
    """Return the tasks that wait, in queues or the outbox, and that the release does not know."""
    return listed(f"{name} ({new[key][name]})" for key in ("queued", "owed") for name in new[key])


def schema_problems(new: Mapping[str, Any], old: Mapping[str, Any]) -> list[str]:
    """Return a message if the schema is not the one that the release was written for."""
    problems = []
    # What the running release does not know either belongs to an app that left long ago.
    running = {tuple(key) for key in old.get("migrations", [])}
    beyond = [key for key in new.get("beyond", []) if not running or tuple(key) in running]
    if beyond:
        problems.append(
            "The schema has moved past the release, which does not know these migrations: "
            f"{listed(map('.'.join, beyond))}. Undo them first with the running release "
            "(<app>-manage migrate <its app> <the migration before>), or go ahead if the older "
            "code works with this schema."
        )
    if missing := new.get("unapplied"):
        problems.append(
            f"The schema lacks migrations of the release: {listed(map('.'.join, missing))}. "
            "Deploy its code with playbooks/deploy.yml instead, which runs them."
        )
    return problems


def manage_steps(
    commands: Sequence[str], what: str, run: Sequence[str], manage: str
) -> list[dict[str, Any]]:
    """Return management commands as steps of the module run_steps."""
    return [
        {"name": f"{what} {command!r}", "argv": [*run, *f"{manage} {command}".split()]}
        for command in commands
    ]


def facts_said(said: str) -> dict[str, Any]:
    """Return the tasks and migrations that `celeriac.check --facts` has named, or nothing."""
    lines = [line for line in said.splitlines() if line.startswith(FACTS)]
    return json.loads(lines[-1].removeprefix(FACTS)) if lines else {}


def beside_facts(said: str) -> str:
    """Return the rest of what it has said, for people."""
    return "\n".join(line for line in said.splitlines() if not line.startswith(FACTS))


def environment_text(variables: Mapping[str, Any]) -> str:
    """Return an EnvironmentFile= of systemd with these variables."""
    quoted = {
        name: str(value).replace("\\", "\\\\").replace('"', '\\"')
        for name, value in variables.items()
    }
    lines = [f'{name}="{quoted[name]}"\n' for name in sorted(quoted)]
    return "".join(["# Ansible managed\n", *lines])


def venv_name(requirements: str, packages: Sequence[str], *more: str) -> str:
    """Return the name of the venv that these requirements make, or "" where it has no equal.

    Only what is pinned by hashes is the same each time; a line that refers to another file or
    folder says nothing about its content. `more` is whatever else decides, such as the Python.
    """
    lines = [line.strip() for line in requirements.splitlines()]
    wanted = [line for line in lines if line and not line.startswith(("#", "--hash="))]
    pinned = all(re.match(r"[A-Za-z0-9._-]+(\[[^]]*\])?==", line) for line in wanted)
    if not pinned or "--hash=" not in requirements or any("==" not in name for name in packages):
        return ""
    return hashlib.sha256("\0".join([requirements, *packages, *more]).encode()).hexdigest()[:12]


def folder_digest(folders: Sequence[str]) -> str:
    """Return a checksum of all files in these folders."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


class FilterModule:
    """The filters, by the names that playbooks use."""

    def filters(self) -> dict[str, Any]:
        """Return the filters of this file."""
        return {
            "switch_order": switch_order,
            "switch_problems": switch_problems,
            "tasks_left": tasks_left,
            "manage_steps": manage_steps,
            "facts_said": facts_said,
            "beside_facts": beside_facts,
            "environment_text": environment_text,
            "venv_name": venv_name,
            "folder_digest": folder_digest,
        }
