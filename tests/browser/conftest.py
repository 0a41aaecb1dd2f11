"""A real Chromium that trusts the deployment's CA, as that of a visitor who has installed it.

The site comes from CELERIAC_DEMO (what `bin/demo --json` prints) or from --ansible-inventory.
Screenshots go to CELERIAC_SCREENSHOTS, by default .cache/screenshots.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Playwright,
    sync_playwright,
)

from support import inventory as inventories
from support.inventory import ROOT
from support.site import address_of

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
SCREENSHOTS = Path(os.environ.get("CELERIAC_SCREENSHOTS", ROOT / ".cache/screenshots"))
# Whoever deletes a domain of the app deletes its pages.
collect_ignore = [
    f"test_{domain}.py"
    for domain in ("notifications", "reports")
    if not (ROOT / "app" / domain).is_dir()
]
# Nothing but the site: no updates, no reports, no lists of bad pages.
QUIET = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-domain-reliability",
    "--disable-sync",
    "--metrics-recording-only",
    "--no-first-run",
    "--no-pings",
)

DEVICES = {
    "desktop": {"viewport": {"width": 1280, "height": 900}},
    "phone": {
        "viewport": {"width": 390, "height": 844},
        "device_scale_factor": 2,
        "is_mobile": True,
        "has_touch": True,
    },
}


@dataclass
class Target:
    """Where the site is and who logs in."""

    url: str
    user: str
    password: str
    ca: str | None
    pools: list[str]
    pool_of: dict[str, str]
    flower: str
    resolver: str = ""
    # The container that is the host, where it is one.
    host: str = ""
    app_name: str = "shop"

    def on_the_host(self, *command: str) -> str:
        """Run a command on the demo host; elsewhere the test has nothing to say."""
        if not self.host:
            pytest.skip("reaches into a demo host only")
        return subprocess.run(
            ["docker", "exec", self.host, *command], check=True, capture_output=True, text=True
        ).stdout.strip()

    def django(self, code: str) -> str:
        """Run Python in the release on the demo host."""
        return self.on_the_host(f"{self.app_name}-manage", "shell", "--command", code)

    def workers(self, queue: str) -> str:
        """The units of the pool that consumes a queue, as a pattern."""
        return f"{self.app_name}-worker-{self.pool_of[queue]}@*"


@pytest.fixture(scope="session")
def target(pytestconfig: pytest.Config) -> Target:
    """The site that the browser visits."""
    demo = json.loads(os.environ.get("CELERIAC_DEMO") or "{}")
    path = demo.get("inventory") or pytestconfig.getoption("ansible_inventory")
    if not path:
        pytest.skip("set CELERIAC_DEMO to what `bin/demo --json` prints, or name an inventory")
    inventory = inventories.load(path)
    variables = inventory.of(inventory.first("proxy"))
    port = int(variables["nginx_public_https_port"])
    domain = variables["app_domain"]
    url = demo.get("url") or f"https://{domain}{'' if port == 443 else f':{port}'}/"
    own_ca = variables["certificates_source"] == "own_ca"
    return Target(
        url=url.rstrip("/"),
        user=variables["app_admin_user"],
        password=variables["app_admin_password"],
        ca=variables["celeriac_ca_file"] if own_ca else None,
        pools=[pool["name"] for pool in variables["celery_workers"]],
        pool_of={
            queue: pool["name"]
            for pool in variables["celery_workers"]
            for queue in pool.get("queues", ())
        },
        flower=variables["nginx_flower_path"],
        # A published port is reached by name; a container's own address is in no DNS.
        resolver=f"MAP {domain} {address_of(variables)}" if port == 443 else "",
        host=demo.get("host", ""),
        app_name=variables["app_name"],
    )


@pytest.fixture(scope="session")
def playwright() -> Iterator[Playwright]:
    """What drives the browsers."""
    with sync_playwright() as found:
        yield found


def launch(playwright: Playwright, target: Target, home: Path) -> Browser:
    """Start a Chromium with a home of its own."""
    arguments = [*QUIET, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    if target.resolver:
        arguments.append(f"--host-resolver-rules={target.resolver}")
    return playwright.chromium.launch(
        executable_path=CHROMIUM,
        args=arguments,
        env={"HOME": str(home), "PATH": os.environ["PATH"], "LANG": "C.UTF-8"},
    )


@pytest.fixture(scope="session")
def browser(
    playwright: Playwright, target: Target, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Browser]:
    """Chromium of a visitor who has installed the CA."""
    home = tmp_path_factory.mktemp("home")
    if target.ca:
        trust(home, target.ca)
    chromium = launch(playwright, target, home)
    yield chromium
    chromium.close()


@pytest.fixture
def stranger(playwright: Playwright, target: Target, tmp_path: Path) -> Iterator[Browser]:
    """Chromium of a visitor who has not."""
    chromium = launch(playwright, target, tmp_path)
    yield chromium
    chromium.close()


def trust(home: Path, ca: str) -> None:
    """Install the CA where Chromium looks for what its user trusts."""
    database = home / ".pki/nssdb"
    database.mkdir(parents=True)
    for command in (
        ["certutil", "-N", "--empty-password", "-d", f"sql:{database}"],
        ["certutil", "-A", "-d", f"sql:{database}", "-t", "C,,", "-n", "deployment", "-i", ca],
    ):
        subprocess.run(command, check=True, capture_output=True)


@pytest.fixture
def device(request: pytest.FixtureRequest) -> str:
    """The name of the device; tests may parametrize it."""
    return getattr(request, "param", "desktop")


@pytest.fixture
def context(
    browser: Browser, target: Target, device: str, request: pytest.FixtureRequest
) -> Iterator[BrowserContext]:
    """A fresh visitor; one with the mark `login` knows Flower's password."""
    login = request.node.get_closest_marker("login")
    credentials = {"username": target.user, "password": target.password, "origin": target.url}
    context = browser.new_context(
        **DEVICES[device], **({"http_credentials": credentials} if login else {})
    )
    context.set_default_timeout(15_000)
    yield context
    context.close()


@pytest.fixture
def problems() -> list[str]:
    """What the browser complains of; a test with a page must leave it empty."""
    return []


@pytest.fixture
def page(context: BrowserContext, problems: list[str]) -> Page:
    """A page that notes errors, failed requests and what the content policy refuses."""
    context.add_init_script(
        "document.addEventListener('securitypolicyviolation', event => console.error("
        "'policy refuses ' + event.violatedDirective + ' ' + event.blockedURI))"
    )
    page = context.new_page()
    page.on("console", lambda said: note(problems, said))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "response",
        lambda answer: (
            problems.append(f"{answer.status} {answer.url}") if answer.status >= 400 else None
        ),
    )
    return page


def note(problems: list[str], said: ConsoleMessage) -> None:
    """Keep what is an error, but for the icon that browsers ask for on pages without one."""
    where = said.location["url"]
    if said.type == "error" and not where.endswith("/favicon.ico"):
        problems.append(f"{said.text} {where}")


@pytest.fixture
def shoot(page: Page, device: str):
    """Return a function that saves a screenshot under a name."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)

    def save(name: str, of: Page = page) -> None:
        of.screenshot(path=SCREENSHOTS / f"{name}-{device}.png", full_page=True)

    return save


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "login: the visitor knows Flower's password")
