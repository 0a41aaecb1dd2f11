"""What the preflight refuses before anything changes: each filter returns messages that teach."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ansible.module_utils.common.yaml import yaml_load

APP_NAME = re.compile(r"[a-z][a-z0-9_]{0,22}")
HOST_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
POOL_NAME = re.compile(r"[a-z][a-z0-9]*")
# Ansible's own variables, and those of the test hosts' containers.
FOREIGN_PREFIXES = ("ansible_", "inventory_", "molecule_", "test_host_")
# Pools that Celery can grow and shrink.
SCALING = ("prefork", "gevent")
SINGLE = ("postgresql", "redis", "flower", "monitoring", "logs")
NEEDED = ("postgresql", "redis", "web", "beat", "flower", "proxy")


def role_contracts(root: str, roles: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return name and options of these roles under `root`, or of all, from argument_specs.yml."""
    contracts = []
    for path in sorted(Path(root).glob("roles/*/meta/argument_specs.yml")):
        if roles and path.parts[-3] not in roles:
            continue
        entry = yaml_load(path.read_text())["argument_specs"]["main"]
        contracts.append({"name": path.parts[-3], "options": entry["options"]})
    return contracts


def role_defaults(root: str, role: str) -> dict[str, Any]:
    """Return the defaults of a role under `root`, for plays that do not run it."""
    return yaml_load((Path(root) / f"roles/{role}/defaults/main.yml").read_text()) or {}


def known_variables(root: str) -> set[str]:
    """Return the names that the roles under `root` specify or group_vars/all sets."""
    known = {"celeriac_environment"}  # each inventory names its own
    for contract in role_contracts(root):
        known.update(contract["options"])
    for defaults in Path(root).glob("roles/*/defaults/main.yml"):
        known.update(yaml_load(defaults.read_text()) or {})
    for topic in Path(root).glob("group_vars/all/*.yml"):
        known.update(yaml_load(topic.read_text()) or {})
    return known


def unknown_variables(names: Iterable[str], root: str) -> list[str]:
    """Return a message for each name that looks like one of Celeriac's variables but is none."""
    known = known_variables(root)
    prefixes = {name.split("_")[0] for name in known if "_" in name}
    problems = []
    for name in sorted(set(names) - known):
        if name.startswith(("_", "vault_", *FOREIGN_PREFIXES)):
            continue
        close = get_close_matches(name, known, n=1, cutoff=0.85)
        if close:
            problems.append(f"{name} is not a variable of Celeriac; did you mean {close[0]}?")
        elif "_" in name and name.split("_")[0] in prefixes:
            problems.append(
                f"{name} is not a variable of Celeriac; "
                "give a variable of your own another first word."
            )
    return problems


def app_problems(
    name: str, domain: str, path: str, subdir: str = "", requirements: str = "requirements.txt"
) -> list[str]:
    """Return a message for each variable of the app that cannot name what it should."""
    problems = []
    if not APP_NAME.fullmatch(name):
        problems.append(
            f"app_name is {name!r}, but it names a user, a database and units; "
            "write a lower-case letter, then lower-case letters, digits or underscores, e.g. shop."
        )
    if not HOST_NAME.fullmatch(domain):
        problems.append(
            f"app_domain is {domain!r}; write the bare host name in lower case, without scheme, "
            "port or path, e.g. shop.example.org."
        )
    project = Path(path) / subdir
    if not Path(path).is_dir():
        problems.append(
            f"app_path is {path}, and there is no such folder on the controller; "
            "write the project's folder."
        )
    elif not project.is_dir():
        problems.append(
            f"app_subdir is {subdir!r}, and {path} has no such folder; "
            "write where manage.py is, or an empty text."
        )
    elif not (project / requirements).is_file():
        problems.append(
            f"app_requirements is {requirements}, and there is no such file in {project}; "
            "write the project's requirements file."
        )
    return problems


def topology_problems(
    workers: Sequence[Mapping[str, Any]],
    groups: Mapping[str, Sequence[str]],
    beat_lease: bool = True,
    limit: str = "",
) -> list[str]:
    """Return a message for each thing in inventory and `celery_workers` that cannot work.

    `limit` is what --limit says: only a run of all hosts stops the Beat of a host that left.
    """
    problems = [
        f"The inventory has no host in the group {group}; write one in hosts.yml."
        for group in NEEDED
        if not groups.get(group)
    ]
    problems += [
        f"The group {group} has {len(groups[group])} hosts ({', '.join(groups[group])}); "
        "write exactly one."
        for group in SINGLE
        if len(groups.get(group, [])) > 1
    ]
    beats = groups.get("beat", [])
    if len(beats) > 1 and not beat_lease:
        problems.append(
            f"Two active Beats: the group beat has {', '.join(beats)} and celery_beat_lease is "
            "false, so each schedule would run twice. Write celery_beat_lease: true, or one host."
        )
    if limit and not beat_lease:
        problems.append(
            f"This run is limited to {limit} and celery_beat_lease is false, so another host may "
            "still run a Beat. Write celery_beat_lease: true, or run without --limit."
        )
    if not workers:
        problems.append("celery_workers is empty; write at least one item with name and queues.")
    for name, count in Counter(str(worker.get("name")) for worker in workers).items():
        if count > 1:
            problems.append(f"celery_workers has {count} pools with the name {name}; rename one.")
    for worker in workers:
        name = str(worker.get("name"))
        if not POOL_NAME.fullmatch(name):
            problems.append(
                f"celery_workers: the pool name {name!r} becomes a part of a unit name; "
                "write lower-case letters and digits, e.g. cpu."
            )
        queues = list(worker.get("queues") or [])
        if not queues:
            problems.append(
                f"celery_workers: the pool {name} consumes nothing; write queues: [default]."
            )
        problems += autoscale_problems(name, worker)
        group = str(worker.get("hosts", "workers"))
        if not groups.get(group):
            problems.append(
                f"celery_workers: the pool {name} runs on the group {group}, which has no host in "
                "the inventory; write the group's hosts in hosts.yml, or another group in hosts."
            )
    return problems


def autoscale_problems(name: str, worker: Mapping[str, Any]) -> list[str]:
    """Return a message for what keeps this pool from growing and shrinking as it is told to."""
    least, most = worker.get("min_concurrency"), worker.get("concurrency", 2)
    kind = str(worker.get("pool", "prefork"))
    if least is None:
        return []
    problems = []
    if kind not in SCALING:
        problems.append(
            f"celery_workers: the pool {name} has min_concurrency, but pool: {kind} cannot grow; "
            f"write pool: {' or '.join(SCALING)}, or leave min_concurrency out."
        )
    elif not 1 <= int(least) <= int(most):
        problems.append(
            f"celery_workers: min_concurrency of the pool {name} is {least}, and concurrency "
            f"{most}; write a number from 1 to {most}."
        )
    return problems


def pgbouncer_problems(workers: Sequence[Mapping[str, Any]], connections: int) -> list[str]:
    """Return a message for each pool that gains nothing by PgBouncer, and for too few sessions."""
    pools = [worker for worker in workers if worker.get("pgbouncer")]
    problems = [
        f"celery_workers: the pool {worker.get('name')} has pgbouncer: true, but pool: {kind} "
        "keeps its few connections anyway; write pool: gevent, or leave pgbouncer out."
        for worker in pools
        if (kind := str(worker.get("pool", "prefork"))) != "gevent"
    ]
    if pools and int(connections) < 1:
        problems.append(
            f"pgbouncer_connections is {connections}, so no task of the pool "
            f"{pools[0].get('name')} would reach PostgreSQL; write 1 or more, e.g. 20."
        )
    return problems


def pools_for_check(
    workers: Sequence[Mapping[str, Any]], groups: Mapping[str, Sequence[str]]
) -> list[dict[str, Any]]:
    """Return the pools as the check inside the release reads them, with the number of hosts."""
    keys = ("name", "queues", "pool", "concurrency", "stop_timeout", "pgbouncer")
    defaults = {"pool": "prefork", "concurrency": 2, "stop_timeout": 300, "pgbouncer": False}
    return [
        {key: worker.get(key, defaults.get(key)) for key in keys}
        | {"hosts": len(groups.get(worker.get("hosts", "workers"), []))}
        for worker in workers
    ]


class FilterModule:
    """The filters, by the names that playbooks use."""

    def filters(self) -> dict[str, Any]:
        """Return the filters of this file."""
        return {
            "app_problems": app_problems,
            "role_contracts": role_contracts,
            "role_defaults": role_defaults,
            "unknown_variables": unknown_variables,
            "topology_problems": topology_problems,
            "pgbouncer_problems": pgbouncer_problems,
            "pools_for_check": pools_for_check,
        }
