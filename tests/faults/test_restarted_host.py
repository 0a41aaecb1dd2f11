"""The host restarts: everything comes back by itself, with the orders of before."""

import subprocess
import time

import pytest

from support.hosts import until
from support.site import Site

testinfra_hosts = ["ansible://web"]
JOURNAL = ("*-worker-*", "*-beat@*", "*-web@*")
pytestmark = pytest.mark.usefixtures("reference_project")

BACK_WITHIN = 60


def restart(host, variables) -> float:
    """Restart the host and return the moment from which it comes up again."""
    name = variables.get("ansible_host", variables["inventory_hostname"])
    if not variables["ansible_connection"].endswith("docker"):
        pytest.skip("restarts only hosts that are containers")
    subprocess.run(["docker", "stop", "--time", "120", name], check=True, capture_output=True)
    start = time.monotonic()
    subprocess.run(["docker", "start", name], check=True, capture_output=True)
    return start


@pytest.mark.spec("D6.3.3", "D6.3.4", "D6.4.4")
def test_everything_is_back_with_the_old_order_and_takes_a_new_one(
    host, variables, inventory, running, effects
):
    proxy = inventory.of(inventory.first("proxy"))
    site = Site.of(proxy)
    old = site.place_order()
    site.finish(old, 60)
    before = running()

    start = restart(host, variables)

    # The address may be another one now.
    site = until(left(start), lambda: answering(proxy), "the site does not answer")
    until(left(start), lambda: running() == before, "some units are not back")
    until(
        left(start),
        lambda: host.run("systemctl is-system-running").stdout.strip() == "running",
        "systemd has not started everything",
    )
    print(f"everything was back after {time.monotonic() - start:.0f} s")

    assert site.progress(old)["step"] == "done"
    new = site.place_order()
    assert site.finish(new, 60)["step"] == "done"
    assert set(effects(new).values()) == {1}, effects(new)


def left(start: float) -> float:
    """Return the seconds that are left for everything to come back."""
    return BACK_WITHIN - (time.monotonic() - start)


def answering(proxy) -> Site | None:
    """Return the site if it answers."""
    try:
        site = Site.of(proxy)
        return site if site.request("/", timeout=5).status == 200 else None
    except OSError:
        return None
