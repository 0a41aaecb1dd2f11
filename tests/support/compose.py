"""The shop of app/compose.yaml as a Compose project of a test."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.site import Site

NAME = "celeriac-compose"
LABEL = f"label=com.docker.compose.project={NAME}"
HEALTHY_WITHIN = 120


def run(*command: str | Path, **options: Any) -> str:
    """Run a command and return its stdout; a failure shows all that it said."""
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def until(true: Callable[[], Any], seconds: float, what: str) -> Any:
    """Wait until something is true and return it; fails with `what`."""
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.3)
    return found


def leftovers() -> list[str]:
    """What is there of the project: containers, volumes, networks."""
    return [
        f"{kind} {name}"
        for kind, command in {
            "container": ("ps", "--all", "--format={{.Names}}"),
            "volume": ("volume", "ls", "--format={{.Name}}"),
            "network": ("network", "ls", "--format={{.Name}}"),
        }.items()
        for name in run("docker", *command, "--filter", LABEL).split()
    ]


class Project:
    """A Compose project in a folder of its own."""

    def __init__(self, folder: Path, base_image: str) -> None:
        self.folder = folder
        # Nothing else of this machine's environment: a DATABASE_URL there is not meant.
        kept = ("PATH", "HOME", "DOCKER_HOST", "DOCKER_CONFIG", "PIP_INDEX_URL")
        self.env = {name: os.environ[name] for name in kept if name in os.environ}
        self.env |= {
            "BASE_IMAGE": base_image,
            "APP_IMAGE": NAME,
            "WEB_PUBLISH": "127.0.0.1:0",
            "FLOWER_PUBLISH": "127.0.0.1:0",
            "SHOP_PACKING_EFFORT": "0.5",
        }
        plugin = subprocess.run(
            ["docker", "compose", "version"], env=self.env, capture_output=True, check=False
        )
        self.command = ["docker", "compose"] if plugin.returncode == 0 else ["docker-compose"]

    def __call__(self, *arguments: str) -> str:
        """Run a Compose command."""
        return run(*self.command, "-p", NAME, *arguments, cwd=self.folder / "app", env=self.env)

    def containers(self, service: str = "") -> list[dict[str, Any]]:
        """What Docker knows of the containers, those of one service or all."""
        wanted = ["--filter", f"label=com.docker.compose.service={service}"] if service else []
        found = run("docker", "ps", "--all", "--quiet", "--filter", LABEL, *wanted).split()
        return json.loads(run("docker", "inspect", *found)) if found else []

    def state(self, service: str) -> dict[str, Any]:
        """How the only container of a service stands."""
        (container,) = self.containers(service)
        return container["State"]

    def log(self, service: str) -> str:
        """What a service has said."""
        return self("logs", "--no-color", service)

    def kill(self, service: str) -> None:
        """Kill every process of a service's only container; its init process ends with them."""
        (container,) = self.containers(service)
        # The shell may be taken along, so that its status says nothing.
        subprocess.run(
            ["docker", "exec", container["Id"], "sh", "-c", "kill -KILL -1"],
            capture_output=True,
            check=False,
        )

    def address(self, service: str, port: int) -> tuple[str, int]:
        """Where a port of a service is published."""
        host, _, published = self("port", service, str(port)).strip().rpartition(":")
        return host, int(published)

    def sql(self, query: str) -> list[str]:
        """The lines that a query answers."""
        return self("exec", "-T", "db", "psql", "-U", "shop", "-qAtc", query).splitlines()

    def wait_healthy(self, *services: str) -> None:
        """Wait until the containers of these services, or all with a check, are healthy."""

        def unhealthy() -> list[tuple[str, str]]:
            return [
                (container["Name"], container["State"]["Health"]["Status"])
                for container in self.containers()
                if "Health" in container["State"]
                and (
                    not services
                    or container["Config"]["Labels"]["com.docker.compose.service"] in services
                )
                and container["State"]["Health"]["Status"] != "healthy"
            ]

        end = time.monotonic() + HEALTHY_WITHIN
        while left := unhealthy():
            assert time.monotonic() < end, left
            time.sleep(0.5)


class PlainSite(Site):
    """The same visitor, without TLS."""

    def connection(self, timeout: float = 15) -> http.client.HTTPConnection:  # type: ignore[override]
        return http.client.HTTPConnection(self.address, self.port, timeout=timeout)
