"""Fixtures for tests on hosts, and the journal of the units that a failed test is about."""

from __future__ import annotations

import base64
import json
import shlex
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
import testinfra

from support import inventory as inventories
from support.inventory import ROOT, Inventory, Variables
from support.site import Site


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "leaves_traces: puts data on the host, e.g. an order; not for production"
    )
    config.addinivalue_line("markers", "part(name): about a part that baseline_<name> switches")


FILES = Path(__file__).parent / "files"
FIGURES = pytest.StashKey[list[str]]()


@pytest.fixture
def figure(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Return a function that notes a line for the end of the run."""
    return pytestconfig.stash.setdefault(FIGURES, []).append


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Show the figures that tests have noted."""
    for line in config.stash.get(FIGURES, []):
        terminalreporter.write_line(line)


class Release:
    """The current release on one host."""

    def __init__(self, host: Any, variables: Variables) -> None:
        self.host = host
        self.name: str = variables["app_name"]
        self.id: str = host.check_output(f"readlink /opt/{self.name}/current").rsplit("/", 1)[-1]
        self.home = f"/opt/{self.name}/releases/{self.id}"
        self.folder = f"{self.home}/source/{variables['app_subdir']}".rstrip("/")
        self.celery_app: str = variables["celery_app"]

    def shell(self, script: str, role: str = "manage") -> Any:
        """Run a shell script as the app's user, with the environment of one role.

        Secrets reach it by the environment only, so no process shows them in its arguments.
        """
        unit = (
            "systemd-run --quiet --collect --pipe --wait"
            f" --uid={self.name} --gid={self.name} --property=UMask=0027"
            f" --property=EnvironmentFile=/etc/{self.name}/env/{self.id}"
            f" --property=EnvironmentFile=/etc/{self.name}/env/{self.id}.{role}"
            f" --property=WorkingDirectory={self.folder}"
        )
        # systemd would expand variables itself, into arguments that everybody can read.
        escaped = shlex.quote(script.replace("$", "$$"))
        return self.host.run(f"{unit} -- /bin/sh -c {escaped}")

    def python(self, code: str, role: str = "manage") -> Any:
        """Run Python code in the release and return what it prints as JSON."""
        packed = base64.b64encode(code.encode()).decode()
        result = self.shell(f"echo {packed} | base64 -d | {self.home}/venv/bin/python -", role)
        assert result.rc == 0, result.stderr
        return json.loads(result.stdout)

    def django(self, code: str, role: str = "manage") -> Any:
        """Run Python code with Django set up and return what it prints as JSON."""
        setup = (
            "import json\n"
            "from celery.app.utils import find_app\n"
            f"find_app({self.celery_app!r}).loader.import_default_modules()\n"
        )
        return self.python(setup + code, role)


def app_units(variables: Variables, release_id: str) -> dict[str, str]:
    """Return the app's units that the inventory puts on a host, by what they are."""
    groups, name = variables["group_names"], variables["app_name"]
    found = {f"worker-{pool['name']}" for pool in variables["celery_pools"]}
    found |= {group for group in ("web", "beat") if group in groups}
    found |= {"metrics"} if "beat" in groups and variables["metrics_enabled"] else set()
    instances = {part: f"{name}-{part}@{release_id}.service" for part in found}
    return instances | ({"flower": f"{name}-flower.service"} if "flower" in groups else {})


def trials(host: Any, units: Collection[str]) -> dict[str, dict[str, Any]]:
    """Return what a process can do under each of these units, by their names."""
    script = base64.b64encode((FILES / "try_sandboxes.py").read_bytes()).decode()
    command = f"echo {script} | base64 -d | python3 - {' '.join(units)}"
    return json.loads(host.check_output(command))


def until(seconds: float, found: Callable[[], Any], problem: str) -> Any:
    """Return what `found()` finds; fails after `seconds` and says the problem."""
    end = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < end, f"after {seconds:.0f} s: {problem}"
        time.sleep(0.3)
    return value


def show(host: Any, *patterns: str) -> dict[str, dict[str, str]]:
    """Return all properties of the loaded units that match, by unit.

    What is there more than once, such as EnvironmentFiles, has a line for each value.
    """
    quoted = " ".join(shlex.quote(pattern) for pattern in patterns)
    text = host.check_output(f"systemctl show --all --no-pager {quoted}")
    blocks = []
    for block in text.split("\n\n"):
        found: dict[str, str] = {}
        for line in block.splitlines():
            name, separator, value = line.partition("=")
            if separator:
                found[name] = f"{found[name]}\n{value}" if name in found else value
        blocks.append(found)
    return {block["Id"]: block for block in blocks if block.get("Id")}


@pytest.fixture(scope="session")
def inventory(pytestconfig: pytest.Config) -> Inventory:
    """The inventory given by --ansible-inventory."""
    return inventories.load(pytestconfig.getoption("ansible_inventory"))


@pytest.fixture(scope="module")
def variables(host: Any, inventory: Inventory) -> Variables:
    """What the inventory says about this host."""
    return inventory.of(host.backend.host)


@pytest.fixture(scope="module")
def app_name(variables: Variables) -> str:
    """The name of the app."""
    return variables["app_name"]


@pytest.fixture(scope="module")
def release(host: Any, variables: Variables, inventory: Inventory, reach: Any) -> Release:
    """The current release on this host; on the first web server, where none is here."""
    if set(variables["celeriac_app_groups"]) & set(variables["group_names"]):
        return Release(host, variables)
    first = inventory.first("web")
    return Release(reach(first), inventory.of(first))


@pytest.fixture(scope="module")
def many_hosts(variables: Variables) -> None:
    """Skip where no connection crosses from one host to another."""
    if not variables["celeriac_many_hosts"]:
        pytest.skip("the deployment is one host")


@pytest.fixture(scope="module")
def said_by(reach: Any, inventory: Inventory) -> Any:
    """Return a function that runs a command on each host of some groups and joins what they say."""

    def ask(groups: list[str], command: str) -> str:
        names = sorted({name for group in groups for name in inventory.groups.get(group, [])})
        return "\n".join(reach(name).run(command).stdout for name in names)

    return ask


@pytest.fixture(scope="module")
def units(host: Any, variables: Variables) -> dict[str, dict[str, str]]:
    """The properties of the app's loaded units, by name."""
    return show(host, f"{variables['app_name']}[.-]*")


@pytest.fixture(scope="module")
def reach(pytestconfig: pytest.Config) -> Any:
    """Return the testinfra host of an inventory name, for tests that need a second one."""
    path = pytestconfig.getoption("ansible_inventory")
    sudo = pytestconfig.getoption("sudo")
    return lambda name: testinfra.get_host(f"ansible://{name}", ansible_inventory=path, sudo=sudo)


@pytest.fixture(scope="module")
def sql(reach: Any, inventory: Inventory) -> Any:
    """Return a function that runs a query as the database's superuser and gives its lines."""
    name = inventory.first("postgresql")
    database, found = reach(name), inventory.of(name)

    def query(text: str) -> list[str]:
        command = (
            f"cd / && runuser -u postgres -- psql -XAtq -v ON_ERROR_STOP=1"
            f" -p {found['postgresql_port']} -d {found['app_name']} -c {shlex.quote(text)}"
        )
        return database.check_output(command).splitlines()

    return query


@pytest.fixture(scope="module")
def redis_admin(reach: Any, inventory: Inventory) -> Any:
    """Return a function that asks the broker as its operator."""
    there = reach(inventory.first("redis"))
    return lambda command: there.check_output(f"redis-admin broker {command}")


@pytest.fixture
def site(inventory: Inventory) -> Site:
    """A new visitor of the deployment."""
    return Site.of(inventory.of(inventory.first("proxy")))


@pytest.fixture(scope="session")
def reference_project(inventory: Inventory) -> None:
    """Skip where somebody else's project is deployed."""
    found = inventory.of(inventory.first("web"))
    if found["app_path"] != str(ROOT / "app"):
        pytest.skip("about the reference project, and the inventory deploys another one")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give `pool` and `redis` one value for each item of the inventory's lists."""
    # The topology is the same everywhere; pools may have groups of their own.
    lists = {"pool": ("celery_workers", "web"), "redis": ("redis_instances", "redis")}
    for name, (variable, group) in lists.items():
        if name in metafunc.fixturenames:
            found = inventories.load(metafunc.config.getoption("ansible_inventory"))
            items = found.of(found.first(group))[variable]
            metafunc.parametrize(name, items, ids=[item["name"] for item in items], scope="module")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Iterator[None]:
    """Show the journal of the module's units (JOURNAL) when a test on a host fails."""
    report = yield
    host = getattr(item, "funcargs", {}).get("host")
    patterns = getattr(getattr(item, "module", None), "JOURNAL", ())
    if report.failed and host is not None and patterns:
        wanted = " ".join(f"-u {shlex.quote(pattern)}" for pattern in patterns)
        said = host.run(f"journalctl --no-pager --output=short-iso --lines=30 {wanted}")
        report.sections.append((f"journal of {', '.join(patterns)}", said.stdout))
    return report
