"""Tests that take hosts away and add some: for the hosts of molecule/cluster alone."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from support import inventory as inventories
from support.hosts import until
from support.inventory import Inventory


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Stay away from hosts that nobody has named."""
    path = config.getoption("ansible_inventory")
    if path is None:
        return True
    found = inventories.load(path)
    if found.of(found.first("web"))["celeriac_environment"] != "cluster":
        raise pytest.UsageError("tests/cluster are about the hosts of molecule/cluster alone")
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Look first, disturb afterwards."""
    items.sort(key=lambda item: item.path.parent.name == "cluster")


@pytest.fixture(scope="module")
def grown(inventory: Inventory, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same inventory with the spare host as a web server and a host of CPU workers."""
    own = Path(inventory.path)
    folder = tmp_path_factory.mktemp("grown") / "inventory"
    folder.mkdir()
    for source in own.glob("*"):
        if source.name == "group_vars":
            (folder / source.name).symlink_to(source.resolve())
        else:
            shutil.copy2(source, folder / source.name)
    hosts = yaml.safe_load((own / "hosts.yml").read_text())
    spare = next(name for name in inventory.groups["all"] if name.endswith("-spare"))
    for group in ("web", "cpu"):
        hosts["all"]["children"][group]["hosts"][spare] = None
    (folder / "hosts.yml").write_text(yaml.safe_dump(hosts))
    return folder


@pytest.fixture
def power(pytestconfig: pytest.Config, reach: Any) -> Iterator[Callable[[str], None]]:
    """Return a function that takes a host's power away; at the end all are back, and booted."""
    gone: list[str] = []

    def cut(name: str) -> None:
        gone.append(name)
        subprocess.run(["docker", "kill", name], check=True, capture_output=True)

    yield cut
    for name in gone:
        subprocess.run(["docker", "start", name], check=True, capture_output=True)
    for name in gone:
        until(90, lambda name=name: booted(name), f"{name} does not come back")


@pytest.fixture
def inside() -> Callable[[str, str], str]:
    """Return a function that runs a command on a host, not by the way that operators take."""

    def run(name: str, command: str) -> str:
        done = subprocess.run(
            ["docker", "exec", name, "sh", "-c", command],
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout

    return run


def booted(name: str) -> bool:
    """Tell whether the host has started everything."""
    ask = ["docker", "exec", name, "systemctl", "is-system-running", "--wait"]
    return subprocess.run(ask, capture_output=True, text=True).stdout.strip() == "running"
