"""What Prometheus asks where, and who is told."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

# Parts that others need: what follows on other hosts from one that is gone is kept back.
NEEDED = ("postgresql", "redis", "web", "beat", "logs")
# The last bound of the runtime's histograms (history.BUCKETS), in seconds: longer counts as this.
LONGEST = 1800
# Listens on the host that Prometheus runs on, and asks what the scrape names.
PROBE = "blackbox"


def scrape_jobs(
    exporters: Mapping[str, Sequence[str]],
    ports: Mapping[str, int],
    redis: Mapping[str, str],
    door: int = 0,
    ca: str = "",
) -> list[dict[str, Any]]:
    """Return scrape_configs for the exporters of each host; `redis` is the URL of each instance.

    Without a `door` there is one host, and all are on loopback; with it they are behind that port
    of their host, over TLS that `ca` vouches for, each at a path with its name.
    """
    jobs = []
    for name, port in ports.items():
        hosts = [host for host, running in exporters.items() if name in running]
        if not hosts or name == PROBE:
            continue
        job: dict[str, Any] = {"job_name": name}
        where = f"/{name}" if door else ""
        if door:
            job |= {"scheme": "https", "tls_config": {"ca_file": ca}}
        job["metrics_path"] = f"{where}/{'scrape' if name == 'redis' else 'metrics'}"
        addresses = {host: f"{host}:{door}" if door else f"127.0.0.1:{port}" for host in hosts}
        labels: list[dict[str, str]] = [{}]
        if name == "redis":
            labels = [{"__param_target": url, "redis": which} for which, url in redis.items()]
        job["static_configs"] = [
            {"targets": [address], "labels": {"host": host, **more}}
            for host, address in addresses.items()
            for more in labels
        ]
        jobs.append(job)
    return jobs


def monitoring_paths(exporters: Sequence[str], ports: Mapping[str, int]) -> dict[str, str]:
    """Return where the door leads to each exporter of a host, by path; Prometheus has its own."""
    return {f"/{name}/": f"127.0.0.1:{ports[name]}/" for name in exporters if name != PROBE}


def app_job(hosts: Sequence[str], port: int, door: int = 0, ca: str = "") -> dict[str, Any]:
    """Return the scrape_config of the app's own exporter, which runs beside each Beat."""
    job: dict[str, Any] = {"job_name": "celeriac"}
    if door:
        job |= {"scheme": "https", "tls_config": {"ca_file": ca}}
    job["static_configs"] = [
        {
            "targets": [f"{host}:{door}" if door else f"127.0.0.1:{port}"],
            "labels": {"host": host},
        }
        for host in hosts
    ]
    return job


def probe_job(job: str, module: str, targets: Mapping[str, str], port: int) -> dict[str, Any]:
    """Return the scrape_config for what is asked from outside: `targets` by their host."""
    return {
        "job_name": job,
        "metrics_path": "/probe",
        "params": {"module": [module]},
        "static_configs": [
            {
                "targets": [f"127.0.0.1:{port}"],
                "labels": {"host": host, "__param_target": target, "instance": target},
            }
            for host, target in targets.items()
        ],
    }


def door(named: Sequence[Any], address: str, starttls: str = "") -> dict[str, str]:
    """Return an item of exporters_doors for a (name, port) at this address of a host."""
    name, port = named
    host = f"[{address}]" if ":" in address else address
    found = {"name": str(name), "address": f"{host}:{port}"}
    return found | {"starttls": starttls} if starttls else found


def pools_on_hosts(
    workers: Sequence[Mapping[str, Any]], groups: Mapping[str, Sequence[str]]
) -> list[dict[str, Any]]:
    """Return name, queues and hosts of each pool of `celery_workers`."""
    return [
        {
            "name": worker["name"],
            "queues": list(worker["queues"]),
            "hosts": list(groups.get(worker.get("hosts", "workers"), [])),
        }
        for worker in workers
    ]


def parts_on_hosts(groups: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return the hosts of each part that others need."""
    return {part: list(groups.get(part, [])) for part in NEEDED}


def limit_problems(
    workers: Sequence[Mapping[str, Any]],
    queues: Mapping[str, Any],
    tasks: Mapping[str, Any],
    seconds: float,
) -> list[str]:
    """Return a sentence for each limit of `alerts_*` that could never be passed."""
    known = sorted({queue for worker in workers for queue in worker["queues"]})
    problems = [
        f"alerts_queues has {queue}, which no pool of celery_workers consumes; write some of "
        f"{', '.join(known)}."
        for queue in queues
        if queue not in known
    ]
    limits = {"alerts_task_seconds": seconds}
    limits |= {f"alerts_tasks: {task}": limit for task, limit in tasks.items()}
    for name, limit in limits.items():
        if not 0 < float(limit) < LONGEST:
            problems.append(
                f"{name} is {limit}, and no task is seen to take that: runs are counted up to "
                f"{LONGEST} s. Write less, e.g. 1500; a task that may take longer is better "
                "watched by the age of its queue, alerts_queues."
            )
    return problems


def receiver_problems(receivers: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a sentence for each receiver of alerts that nobody could reach."""
    problems = []
    names = [str(receiver.get("name")) for receiver in receivers]
    for name in sorted({name for name in names if names.count(name) > 1 or name == "nobody"}):
        problems.append(
            f"alertmanager_receivers has {name} "
            + ("which is kept for alerts without a receiver" if name == "nobody" else "twice")
            + "; write another name."
        )
    for receiver in receivers:
        name = receiver.get("name")
        email, webhook = receiver.get("email"), receiver.get("webhook")
        if not email and not webhook:
            problems.append(
                f"alertmanager_receivers: {name} has neither email nor webhook; write one, such as "
                "email: ops@example.org."
            )
        if email and not all(
            re.fullmatch(r"[^\s@]+@[^\s@]+", one.strip()) for one in str(email).split(",")
        ):
            problems.append(
                f"alertmanager_receivers: the email of {name} is {email!r}; write an address, such "
                "as ops@example.org."
            )
        if webhook and not _is_url(str(webhook)):
            problems.append(
                f"alertmanager_receivers: the webhook of {name} is no URL; write one that begins "
                "with https://."
            )
        if receiver.get("heartbeat") and not webhook:
            problems.append(
                f"alertmanager_receivers: {name} is a heartbeat, which needs a webhook; a mail "
                "every minute helps nobody."
            )
    return problems


def _is_url(text: str) -> bool:
    parts = urlsplit(text)
    return parts.scheme in ("http", "https") and bool(parts.hostname)


class FilterModule:
    """The filters, by the names that playbooks use."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters of this file."""
        return {
            "app_job": app_job,
            "door": door,
            "limit_problems": limit_problems,
            "monitoring_paths": monitoring_paths,
            "parts_on_hosts": parts_on_hosts,
            "pools_on_hosts": pools_on_hosts,
            "probe_job": probe_job,
            "receiver_problems": receiver_problems,
            "scrape_jobs": scrape_jobs,
        }
