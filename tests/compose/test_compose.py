"""What app/compose.yaml promises to people who work on the shop."""

import json
import re
import time
from base64 import b64encode
from urllib.request import Request, urlopen

import pytest

from support.compose import leftovers, until

SERVICES = {"redis", "db", "mail", "web", "worker", "worker-io", "beat", "flower"}
# A step of an order that each worker does.
STEPS = {"worker": "orders.pack", "worker-io": "payments.charge"}
LEASE = (
    "SELECT application_name FROM pg_locks JOIN pg_stat_activity USING (pid)"
    " WHERE locktype = 'advisory' AND granted AND application_name LIKE 'celeriac-beat%'"
)


def service(container: dict) -> str:
    return container["Config"]["Labels"]["com.docker.compose.service"]


@pytest.mark.spec("D6.4.5")
def test_every_service_is_healthy_by_a_check_of_its_own(project):
    health = {service(c): c["State"].get("Health", {}).get("Status") for c in project.containers()}
    assert health == dict.fromkeys(SERVICES, "healthy") | {"migrate": None}


def test_the_migration_ran_once_and_ended(project):
    state = project.state("migrate")
    assert (state["Status"], state["ExitCode"]) == ("exited", 0)


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_nothing_runs_as_root_or_can_become_it(project, name):
    (container,) = project.containers(name)
    assert container["HostConfig"]["CapDrop"] == ["ALL"]
    assert "no-new-privileges:true" in container["HostConfig"]["SecurityOpt"]
    users = project("exec", "-T", name, "sh", "-c", "cat /proc/[0-9]*/status | grep ^Uid:").split()
    assert "0" not in users


def test_only_this_machine_reaches_it(project):
    published = {
        (service(container), port, binding["HostIp"])
        for container in project.containers()
        for port, bindings in container["NetworkSettings"]["Ports"].items()
        for binding in bindings or ()
    }
    assert published == {("web", "8000/tcp", "127.0.0.1"), ("flower", "5555/tcp", "127.0.0.1")}
    # The tests choose other ports; these are what people get.
    ports = re.findall(r"_PUBLISH:-([^}]+)}", (project.folder / "app/compose.yaml").read_text())
    assert ports == ["127.0.0.1:8000", "127.0.0.1:5555"]


def test_an_order_goes_through_both_pools(project, site, effects):
    order = site.place_order()
    found = site.finish(order, 60)
    assert found["step"] == "done"
    assert set(effects(order).values()) == {1}, effects(order)
    for name, task in STEPS.items():
        assert f"task={task} " in project.log(name)
    # The web shows what a worker has drawn.
    assert site.request(found["crate"]["url"]).status == 200


def test_flower_knows_both_workers(project):
    host, port = project.address("flower", 5555)
    login = b64encode(b"admin:for-development-only").decode()
    asked = Request(
        f"http://{host}:{port}/api/workers?refresh=1", headers={"Authorization": f"Basic {login}"}
    )
    with urlopen(asked, timeout=20) as answer:
        names = {name.partition("@")[0] for name in json.load(answer)}
    assert names == {"worker", "worker-io"}


def test_beat_ticks_and_a_second_one_waits(project):
    holder = project.sql(LEASE)
    assert len(holder) == 1
    project("up", "--detach", "--no-deps", "--scale", "beat=2", "beat")
    until(lambda: "standby: waiting for the lease" in project.log("beat"), 30, "a standby")
    project.wait_healthy("beat")
    runs = "SELECT sum(total_run_count) FROM django_celery_beat_periodictask"
    before = int(project.sql(runs)[0])
    until(lambda: int(project.sql(runs)[0]) > before, 20, "a run of the schedule")
    assert project.sql(LEASE) == holder
    project("up", "--detach", "--no-deps", "--scale", "beat=1", "beat")
    assert len(project.containers("beat")) == 1


def taken(project, name: str) -> int:
    """How many tasks of its step a worker has begun."""
    return len(re.findall(rf"{re.escape(STEPS[name])}\[\S+\] received", project.log(name)))


@pytest.mark.parametrize("name", STEPS)
def test_a_worker_that_is_killed_comes_back_and_every_order_ends_once(project, site, effects, name):
    earlier, before = taken(project, name), project.state(name)["StartedAt"]
    orders = [site.place_order() for _ in range(3)]
    until(lambda: taken(project, name) > earlier, 20, f"{name} has taken a step")
    project.kill(name)
    until(lambda: project.state(name)["StartedAt"] != before, 20, "the worker starts anew")
    for order in orders:
        assert site.finish(order, 90)["step"] == "done"
        assert set(effects(order).values()) == {1}, effects(order)


def test_a_worker_that_is_stopped_ends_its_tasks_first(project, site, effects):
    earlier = taken(project, "worker")
    order = site.place_order()
    until(lambda: taken(project, "worker") > earlier, 20, "the order is being packed")
    project("stop", "worker")
    assert site.progress(order)["crate"]
    assert project.state("worker")["ExitCode"] == 0
    project("start", "worker")
    assert site.finish(order, 60)["step"] == "done"
    assert set(effects(order).values()) == {1}, effects(order)


def test_the_web_runs_what_is_edited(project, site):
    page = project.folder / "app/templates/base.html"
    page.write_text(page.read_text().replace("</body>", "<!-- edited --></body>"))
    until(lambda: "<!-- edited -->" in site.request("/").text, 20, "the page is the new one")

    code = project.folder / "app/config/health.py"
    code.write_text(code.read_text().replace('"status": "ok"', '"status": "edited"'))

    def edited() -> bool:
        try:
            return site.request("/health/").json()["status"] == "edited"
        except OSError:  # it is just starting anew
            return False

    until(edited, 30, "the code is the new one")


def test_it_leaves_nothing(project):
    assert leftovers()
    started = time.monotonic()
    project("down", "--volumes")
    assert leftovers() == []
    assert time.monotonic() - started < 60
