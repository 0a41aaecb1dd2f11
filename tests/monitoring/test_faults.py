"""A real fault is told to a real receiver, in time; and what follows from it is not."""

import subprocess
import time

import pytest

from support.hosts import show, until
from support.playbooks import playbook

testinfra_hosts = ["ansible://web"]
JOURNAL = ("*-worker-*", "*-beat@*", "*-metrics@*", "redis-server@*")
pytestmark = pytest.mark.usefixtures("reference_project", "told")

# Where a queue's own limit is short, in the scenario's inventory.
QUEUE = "emails"

# The receiver listens only while these tests run.
BEFORE = "NotificationsFailing"


@pytest.fixture(scope="module")
def unit(host, variables, release):
    """Return a function that names the unit of a process."""
    return lambda process: f"{variables['app_name']}-{process}@{release.id}.service"


@pytest.fixture
def stopped(host):
    """Return a function that stops a unit until the test ends, and says when it was told to."""
    units = []

    def stop(name: str) -> float:
        units.append(name)
        at = time.time()
        host.check_output(f"systemctl stop {name}")
        return at

    yield stop
    for name in units:
        # What does not start at once, systemd starts again.
        host.run(f"systemctl start {name}")
        until(90, lambda name=name: host.service(name).is_running, f"{name} does not come back")


def test_a_healthy_host_disturbs_nobody(prometheus):
    """What other tests have left is a ticket at most; nobody gets up for it."""
    named = f'alertname!="{BEFORE}"'
    pages = f'ALERTS{{severity="page", alertstate="firing", {named}}}'
    until(120, lambda: prometheus.query(pages) == [], f"fires: {prometheus.query(pages)}")


@pytest.mark.spec("G11.5")
def test_a_pool_without_a_worker(host, stopped, unit, release, reaches, told, site, variables):
    """Within 90 s; and of the queue that nobody takes from, as long as something waits there."""
    at = stopped(unit("worker-io"))
    waits = time.time()
    release.django(
        "from celery import current_app as app\n"
        f"app.send_task('celery.backend_cleanup', queue='{QUEUE}')\n"
        "print(json.dumps(1))"
    )
    found = reaches("WorkerDown", at, within=90, pool="io", host=release.host.backend.host)
    assert told.of("WorkerDown", at, path="/pager"), "who wants pages gets none"
    # Staff without mail see it too: the web server asks at Alertmanager's door on the other host.
    site.log_in(variables["app_admin_user"], variables["app_admin_password"])
    link = found["annotations"]["runbook"]
    assert f'<a href="{link}">WorkerDown</a>' in site.request("/operations/").text
    address, _, section = link.partition("#")
    assert address == f"{variables['nginx_public_url']}/operations/runbooks/"
    assert f'<h2 id="{section}">WorkerDown</h2>' in site.request("/operations/runbooks/").text
    reaches("QueueOld", waits, within=120, queue=QUEUE)
    reaches("QueueWithoutConsumer", waits, within=150, queue=QUEUE)


@pytest.fixture
def drained(inventory):
    """The pool is out of service until the test ends."""

    def drain(do):
        done = playbook(inventory, "drain", do=do, pool="io")
        assert done.returncode == 0, done.stdout[-2000:]

    at = time.time()
    drain("out")
    yield at
    drain("back")


def test_a_pool_that_was_drained_wakes_nobody(drained, host, prometheus, told):
    out = f'celeriac_out_of_service{{host="{host.backend.host}"}}'
    until(60, lambda: prometheus.query(out), "nobody sees that it is out of service")
    time.sleep(75)  # WorkerDown would have been told
    assert not told.of("WorkerDown", drained)


@pytest.fixture
def dead_letter(release):
    """A task that is given what is no number; its dead letter is discarded at the end."""
    yield time.time()
    release.django(
        "from celeriac.models import Dead\n"
        "print(json.dumps(Dead.objects.filter(task='orders.invoice').delete()[0]))"
    )


@pytest.mark.spec("G11.5")
def test_a_task_that_fails_for_good(release, dead_letter, reaches, told):
    release.django(
        "from celery import current_app as app\n"
        "print(json.dumps(app.tasks['orders.invoice'].delay('no number').id))"
    )
    reaches("DeadLetters", dead_letter, within=120)
    assert not told.of("DeadLetters", dead_letter, path="/pager"), "a ticket wakes somebody"


@pytest.mark.spec("G11.5")
def test_a_silent_beat(stopped, unit, reaches):
    reaches("BeatSilent", stopped(unit("beat")), within=120)


@pytest.mark.spec("G11.5")
def test_an_exporter_that_is_gone(stopped, unit, reaches):
    reaches("FiguresMissing", stopped(unit("metrics")), within=120, source="redis")


@pytest.mark.spec("G11.5")
def test_a_unit_that_dies_again_and_again(host, unit, reaches):
    """systemd starts it each time, so it never fails, and is never away for long.

    Before the servers are away: then units die for that, and nobody is told of them for 20 minutes.
    """
    name, at = unit("worker-cpu"), time.time()
    for _ in range(6):
        host.check_output(f"systemctl kill --signal=KILL --kill-whom=main {name}")
        time.sleep(2)
        until(90, lambda: host.service(name).is_running, f"{name} does not come back")
    reaches("UnitRestarts", at, within=240, name=name)


@pytest.mark.spec("G11.5")
def test_a_broker_that_is_away(stopped, reaches):
    reaches("RedisDown", stopped("redis-server@broker.service"), within=120, redis="broker")


@pytest.fixture
def full_broker(host):
    """The broker has less memory than it uses, until the test is over."""
    before = host.check_output("redis-admin broker config get maxmemory").split()[-1]
    at = time.time()
    host.check_output("redis-admin broker config set maxmemory 1mb")
    yield at
    host.check_output(f"redis-admin broker config set maxmemory {before}")


@pytest.mark.spec("G11.5")
def test_a_broker_without_memory_and_a_task_that_nobody_can_send(full_broker, release, reaches):
    release.django(
        "from celery import current_app as app\n"
        "print(json.dumps(app.tasks['orders.invoice'].delay(0).id))"
    )
    reaches("RedisMemory", full_broker, within=150, redis="broker")
    reaches("OutboxStuck", full_broker, within=300)


@pytest.fixture
def crowd(host, prometheus):
    """So many sessions of PostgreSQL that fewer than alerts_connections_free percent are free."""
    limit = prometheus.value("max(pg_settings_max_connections)")
    used = prometheus.value("sum(pg_stat_database_numbackends)")
    more = int(limit * 0.9 - used)
    at = time.time()
    host.check_output(
        "systemd-run --quiet --collect --unit=crowd --uid=postgres /bin/bash -c "
        f"'for each in {{1..{more}}}; do psql -qc \"select pg_sleep(600)\" & done; wait'"
    )
    yield at
    host.check_output("systemctl stop crowd")


@pytest.mark.spec("G11.5")
def test_a_crowd_at_postgresql(crowd, reaches):
    reaches("PostgreSQLConnections", crowd, within=300)


@pytest.fixture
def short_certificate(host, variables):
    """The site shows a certificate that ends in ten days, until the test is over."""
    path, key = variables["nginx_certificate"], variables["nginx_certificate_key"]
    host.check_output(f"cp -p {path} /run/kept.crt")
    host.check_output(
        f"openssl req -x509 -key {key} -days 10 -subj /CN={variables['app_domain']}"
        f" -addext subjectAltName=DNS:{variables['app_domain']} -out /run/short.crt"
        f" && cat /run/short.crt >{path} && systemctl reload nginx"
    )
    yield time.time()
    host.check_output(f"cp -p /run/kept.crt {path} && systemctl reload nginx")


@pytest.mark.spec("G11.5")
def test_a_certificate_that_ends_soon(short_certificate, reaches):
    reaches("CertificateEnds", short_certificate, within=120)


@pytest.fixture
def full_disk(host):
    """A small file system, full to 95 percent until the test is over."""
    host.check_output("mkdir -p /srv/small && mount -t tmpfs -o size=10m tmpfs /srv/small")
    at = time.time()
    host.check_output("head -c 9960000 /dev/zero >/srv/small/file")
    yield at
    host.check_output("umount /srv/small")


@pytest.mark.spec("G11.5")
def test_a_full_disk(full_disk, reaches):
    reaches("DiskFull", full_disk, within=120, mountpoint="/srv/small")


# With the host, or it would run after all that have it, and those leave alerts that last.
@pytest.mark.usefixtures("host")
@pytest.mark.spec("G11.5")
def test_a_host_that_is_gone_is_one_message(inventory, told, prometheus, reaches):
    """All that follows from it is kept back."""
    name = inventory.first("web")
    # UnitRestarts looks back over a quarter of an hour.
    until(960, lambda: prometheus.firing() <= {"Watchdog", "DeadLetters"}, "the last faults last")
    at = time.time()
    subprocess.run(["docker", "pause", name], check=True)
    try:
        reaches("HostDown", at, within=120, host=name)
        # ExporterDown would have come by now.
        until(90, lambda: "ExporterDown" in prometheus.firing(), "its exporters still answer")
        pages = {alert["labels"]["alertname"] for alert in told.alerts() if alert["at"] > at}
        assert pages - {"DeadLetters", BEFORE} == {"HostDown"}
    finally:
        subprocess.run(["docker", "unpause", name], check=True)
    until(180, lambda: told.of("HostDown", at, "resolved"), "nobody is told that it is back")


# These go on for a quarter of an hour after their fault.


@pytest.fixture
def second_beat(host, app_name, unit, release):
    """A Beat that somebody has started by hand, without the lease, until the test ends."""
    beat = show(host, unit("beat"))[unit("beat")]
    files = [line.split(" ")[0] for line in beat["EnvironmentFiles"].splitlines()]
    host.check_output(
        "systemd-run --quiet --collect --unit=second-beat "
        f"--uid={app_name} --gid={app_name} --property=WorkingDirectory={release.folder} "
        + " ".join(f"--property=EnvironmentFile={path}" for path in files)
        + f" {release.home}/venv/bin/celery -A {release.celery_app} beat --pidfile="
        " --scheduler django_celery_beat.schedulers:DatabaseScheduler"
    )
    yield time.time()
    host.check_output("systemctl stop second-beat")


@pytest.mark.spec("G11.5")
def test_a_second_beat_outside_of_the_lease(second_beat, reaches):
    """Both must have sent a run, and the schedule has one each minute."""
    reaches("BeatTwice", second_beat, within=240)


@pytest.mark.spec("G11.5")
def test_a_task_that_fails_often(release, dead_letter, reaches):
    release.django(
        "from celery import current_app as app\n"
        "[app.tasks['orders.invoice'].delay('no number') for _ in range(20)]\n"
        "print(json.dumps(1))"
    )
    reaches("TasksFailing", dead_letter, within=300, task="orders.invoice")


def test_a_lost_host_of_postgresql_is_one_message(told):
    """As Prometheus tells the real Alertmanager where the database has a host of its own."""
    at = time.time()
    follows = [
        {"alertname": "PartLost", "part": "postgresql", "severity": "none"},
        {"alertname": "SiteDown", "host": "front", "severity": "page"},
        {"alertname": "FiguresMissing", "source": "postgresql", "severity": "page"},
        {"alertname": "ExporterDown", "job": "celeriac", "host": "work", "severity": "ticket"},
        {"alertname": "ExporterDown", "job": "postgres", "host": "data", "severity": "ticket"},
        {"alertname": "WorkerDown", "pool": "cpu", "host": "work", "severity": "page"},
    ]
    told.tell([{"alertname": "HostDown", "host": "data", "severity": "page"}, *follows])
    until(60, lambda: told.of("HostDown", at, host="data"), "nobody is told that the host is gone")
    time.sleep(20)  # the others' turn would have come
    ours = [alert for alert in told.alerts() if alert["at"] > at and alert["labels"].get("test")]
    assert {alert["labels"]["alertname"] for alert in ours} == {"HostDown"}


def test_the_heartbeat_goes_on_and_tells_nobody_else(told):
    until(150, lambda: len(told.messages("/alive")) > 1, "there is no heartbeat")
    first, second = (message["at"] for message in told.messages("/alive")[:2])
    assert second - first < 90
    assert {found["labels"]["alertname"] for found in told.alerts(path="/alive")} == {"Watchdog"}
    others = told.alerts() + told.alerts(path="/pager")
    assert not [found for found in others if found["labels"]["alertname"] == "Watchdog"]


def test_nothing_was_left_behind(host, units, app_name):
    assert {unit for unit, found in units.items() if found["ActiveState"] == "failed"} == set()
    assert show(host, "redis-server@broker.service")
