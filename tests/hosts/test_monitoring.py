"""Prometheus asks everything, works out its rules, and has somebody to tell."""

import json
import math
import re

import pytest

from support.hosts import until
from support.prometheus import Prometheus

testinfra_hosts = ["ansible://monitoring"]
JOURNAL = ("prometheus.service", "prometheus-alertmanager.service", "prometheus-*-exporter.service")


@pytest.fixture(scope="module")
def prometheus(host, variables):
    """Prometheus on this host."""
    if not variables["monitoring_wanted"]:
        pytest.skip("monitoring_enabled is off")
    return Prometheus(host, variables)


@pytest.fixture(scope="module")
def wanted(variables):
    """What the inventory wants to be asked: job and host of each target."""
    return sorted(
        (job["job_name"], target["labels"]["host"])
        for job in variables["prometheus_jobs"]
        for target in job["static_configs"]
    )


def targets(prometheus):
    """Return what Prometheus asks, and how it is."""
    return prometheus.api("targets", state="active")["activeTargets"]


@pytest.mark.spec("G11.5", "D5.2.2")
def test_it_asks_all_that_it_should(prometheus, wanted):
    found = [(target["labels"]["job"], target["labels"]["host"]) for target in targets(prometheus)]
    assert sorted(found) == wanted


def test_everything_that_it_asks_answers(prometheus):
    def silent():
        return {
            (target["labels"]["job"], target["labels"]["host"]): target["lastError"]
            for target in targets(prometheus)
            if target["health"] != "up"
        }

    until(40, lambda: not silent(), f"no answer: {silent()}")


@pytest.mark.spec("D5.2.2")
@pytest.mark.parametrize(
    "question",
    [
        "celeriac_source_up",
        'redis_up{redis="broker"}',
        "pg_up",
        "nginx_up",
        'probe_success{job="site"}',
    ],
)
def test_what_is_asked_answers_too(prometheus, question):
    """An exporter may answer and say that its server does not."""
    found = {json.dumps(row["metric"]): row["value"][1] for row in prometheus.query(question)}
    assert found
    assert set(found.values()) == {"1"}, found


def test_it_knows_the_state_of_units(prometheus, app_name):
    assert prometheus.query(
        f'node_systemd_unit_state{{name=~"{app_name}-.*", state="active"}} == 1'
    )


@pytest.mark.spec("G11.5")
def test_every_rule_can_be_worked_out(prometheus):
    groups = prometheus.api("rules")["groups"]
    assert groups
    wrong = {
        rule["name"]: rule.get("lastError")
        for group in groups
        for rule in group["rules"]
        if rule["health"] == "err"
    }
    assert wrong == {}


# Not there while nothing has died or is out of service, before the first drill, and on one host.
MAY_BE_MISSING = re.compile(
    r"celeriac_(dead_letters|out_of_service|restore_verified_.*|certificate_expiry_.*)"
)


def test_every_figure_that_a_rule_needs_is_there(prometheus, reference_project):
    """A rule about what nobody tells would be silent for ever."""
    figures = r"\b(?:celeriac|node|redis|pg|probe|prometheus|alertmanager)_\w+"
    rules = [rule for group in prometheus.api("rules")["groups"] for rule in group["rules"]]
    needed = {name for rule in rules for name in re.findall(figures, rule["query"])}
    needed = {name for name in needed if not MAY_BE_MISSING.fullmatch(name)}
    assert len(needed) > 20
    there = set(prometheus.api("label/__name__/values"))
    assert needed - there == set()


def test_what_is_expected_to_be_backed_up_says_when_it_was(prometheus, variables):
    ages = {
        (row["metric"]["host"], row["metric"]["repository"]): float(row["value"][1])
        for row in prometheus.query("time() - celeriac_backup_last_success_timestamp_seconds")
    }
    wanted = {
        (host, str(number + 1))
        for host in variables["alerts_backup_hosts"]
        for number in range(variables["alerts_backup_repositories"])
    }
    assert set(ages) == wanted
    assert all(age < variables["alerts_backup_hours"] * 3600 for age in ages.values()), ages
    figure = "celeriac_files_backup_last_success_timestamp_seconds"
    files = {row["metric"]["host"] for row in prometheus.query(figure)}
    assert files == set(variables["alerts_files_hosts"])


def test_each_queue_has_its_limits(prometheus, variables):
    queues = {queue for pool in variables["celery_workers"] for queue in pool["queues"]}
    for figure in ("celeriac:queue_age_limit_seconds", "celeriac:queue_depth_limit"):
        assert {row["metric"]["queue"] for row in prometheus.query(figure)} == queues


def test_as_many_workers_are_seen_as_there_should_be(prometheus):
    def counts(figure):
        return {row["metric"]["pool"]: row["value"][1] for row in prometheus.query(figure)}

    expected = counts("celeriac:expected_workers")
    assert expected
    units = "count by (pool) (celeriac:worker_unit)"
    until(30, lambda: counts(units) == expected, "units of workers are missing")
    # A project without the runtime's tables does not say.
    if prometheus.query("celeriac:database_up"):
        until(30, lambda: counts("celeriac:workers") == expected, "workers are missing")


@pytest.mark.spec("G11.5")
def test_alertmanager_hears_of_what_fires(prometheus):
    assert len(prometheus.api("alertmanagers")["activeAlertmanagers"]) == 1

    def heard():
        alerts = json.loads(prometheus.get(f"{prometheus.alertmanager}/api/v2/alerts"))
        return {alert["labels"]["alertname"] for alert in alerts}

    until(60, lambda: "Watchdog" in heard(), "the alert that always fires is not there")


def test_it_tells_those_whom_the_inventory_names(prometheus, variables):
    found = json.loads(prometheus.get(f"{prometheus.alertmanager}/api/v2/receivers"))
    wanted = {receiver["name"] for receiver in variables["alertmanager_receivers"]} | {"nobody"}
    assert {receiver["name"] for receiver in found} == wanted


def test_it_all_listens_on_loopback_alone(host, variables, prometheus):
    ports = set(variables["monitoring_ports"].values())
    ports |= {variables["prometheus_port"], variables["alertmanager_port"], 9094}
    lines = (line.split()[3] for line in host.check_output("ss -Hltn").splitlines())
    found = {name for name in lines if int(name.rpartition(":")[2]) in ports}
    assert {name for name in found if not name.startswith("127.0.0.1:")} == set()
    assert len(found) >= 3


def test_its_files_are_nobody_elses(host, prometheus):
    found = host.file("/etc/prometheus/celeriac-alertmanager.yml")
    assert (found.user, found.mode) == ("root", 0o600)


def panels(host, variables):
    """Return each query of each dashboard on the host, with all values of its variables."""
    folder = f"{variables['dashboards_folder']}/celeriac"
    for path in host.check_output(f"ls {folder}/*.json").split():
        for panel in json.loads(host.file(path).content_string)["panels"]:
            for target in panel["targets"]:
                where = f"{path.rsplit('/', 1)[1]}: {panel['title']}: {target['legendFormat']}"
                yield where, re.sub(r"\$\w+", ".+", target["expr"])


def numbers(prometheus, expression):
    """Return the samples of a query that are numbers; 0 / 0 is none."""
    rows = prometheus.query(expression)
    return [row for row in rows if not math.isnan(float(row["value"][1]))]


@pytest.mark.spec("D5.2.3")
def test_every_panel_of_every_dashboard_shows_something(
    host, variables, prometheus, reference_project
):
    asked = dict(panels(host, variables))
    assert len(asked) > 30

    def empty():
        return [where for where, expression in asked.items() if not numbers(prometheus, expression)]

    # A rate needs two looks at a task that has run.
    until(60, lambda: empty() == [], f"nothing to see at {empty()}")


@pytest.mark.spec("D5.2.3")
def test_grafana_would_find_them_and_prometheus(host, variables, prometheus):
    folder = f"{variables['dashboards_folder']}/provisioning"
    provider = host.file(f"{folder}/dashboards/celeriac.yaml").content_string
    assert f"{variables['dashboards_folder']}/celeriac" in provider
    assert prometheus.url in host.file(f"{folder}/datasources/celeriac.yaml").content_string


def test_the_certificates_that_servers_show_are_watched(prometheus, inventory):
    """Of Redis, PostgreSQL and the log host, where they speak TLS."""
    wanted = {
        (host, door["name"])
        for host in inventory.of(inventory.first("monitoring"))["celeriac_hosts"]
        for door in inventory.of(host)["exporters_doors"]
    }
    figure = "celeriac_certificate_expiry_timestamp_seconds"

    def shown():
        rows = prometheus.query(f"{figure} > time()")
        return {(row["metric"]["host"], row["metric"]["door"]) for row in rows}

    until(90, lambda: shown() == wanted, f"{shown()} instead of {wanted}")
