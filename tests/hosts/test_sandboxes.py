"""Every unit of ours, of the app and of the servers: how exposed it is, and what it can do."""

import re

import pytest

from support.hosts import app_units, trials

testinfra_hosts = ["ansible://all"]

# systemd's own measure of what a unit could still do: 0 is nothing, 10 is everything.
APP, SERVER = 1.0, 2.0


@pytest.fixture(scope="module")
def servers(variables):
    """The units of the servers that the inventory puts on this host, in the words of its groups."""
    groups, many = variables["group_names"], variables["celeriac_many_hosts"]
    backup = variables["backup_enabled"]
    found = {
        "postgresql": ["postgresql@*-main"] if "postgresql" in groups else [],
        "pgbouncer": ["pgbouncer"]
        if "postgresql" in groups and variables["pgbouncer_wanted"]
        else [],
        "redis": [
            f"redis-server@{instance['name']}"
            for instance in variables["redis_instances"]
            if "redis" in groups
        ],
        "nginx": ["nginx"] if "proxy" in groups or variables["nginx_inner_sites"] else [],
        "certbot": ["certbot"]
        if "proxy" in groups and variables["certificates_source"] == "acme"
        else [],
        "mail sink": ["mail-sink"] if "mail_sink" in groups else [],
        "monitoring": ["prometheus", "prometheus-alertmanager"]
        if variables["monitoring_wanted"] and "monitoring" in groups
        else [],
        "exporters": [f"prometheus-{name}-exporter" for name in variables["exporters_here"]],
        "certificates": ["celeriac-certificates"] if variables["exporters_doors"] else [],
        "backups": ["celeriac-backup-run@full", "celeriac-backup-drill", "celeriac-backup-archive"]
        if "postgresql" in groups and backup
        else [],
        "backups of files": ["celeriac-files-backup"] if variables["backup_files_paths"] else [],
        "journals in": ["stunnel@journals", "systemd-journal-remote", "celeriac-logs-tidy"]
        if "logs" in groups and many
        else [],
        "journals out": ["systemd-journal-upload"] if variables["logs_send_to"] else [],
    }
    return [f"{unit}.service" for units in found.values() for unit in units]


@pytest.fixture(scope="module")
def named(host, servers):
    """The same with the version of PostgreSQL in its name."""
    version = host.run("ls /etc/postgresql").stdout.strip()
    return [unit.replace("@*", f"@{version}") for unit in servers]


@pytest.fixture(scope="module")
def limits(variables, release, named):
    """How exposed each of them may be, and each unit of the app."""
    app = list(app_units(variables, release.id).values())
    strict = [unit for unit in named if unit == "mail-sink.service"]
    return dict.fromkeys(named, SERVER) | dict.fromkeys(app + strict, APP)


@pytest.fixture(scope="module")
def scores(host, limits):
    """How exposed each of them is; a unit that is not there is an error."""
    if not limits:
        pytest.skip("no part runs here")
    said = host.check_output(f"systemd-analyze security --no-pager {' '.join(limits)}")
    found = re.findall(r"Overall exposure level for (\S+): ([0-9.]+)", said)
    return {unit: float(score) for unit, score in found}


@pytest.mark.spec("D6.4.1")
def test_units_are_exposed_to_no_more_than_they_may(scores, limits, variables, figure):
    assert set(scores) == set(limits)
    figure(
        f"exposure: {variables['inventory_hostname']}: "
        + ", ".join(f"{unit} {score}" for unit, score in sorted(scores.items()))
    )
    assert {unit: score for unit, score in scores.items() if score > limits[unit]} == {}


def test_no_unit_of_ours_is_left_out(host, limits, app_name):
    """What this project has written below /etc/systemd/system is all held against a limit."""
    said = host.check_output(
        "cd /etc/systemd/system && ls -d *.service.d/*celeriac*.conf"
        f" {app_name}-*.service celeriac-*.service mail-sink.service 2>/dev/null; true"
    )
    found = {line.split("/")[0].removesuffix(".d") for line in said.split()}
    # The placeholder that a deploy leaves alone runs nothing.
    found -= {f"{app_name}-web.service"}
    held = {re.sub(r"@.*\.service", "@.service", unit) for unit in limits}
    assert {re.sub(r"@.*\.service", "@.service", unit) for unit in found} - held == set()


# The servers. (A copy of mail-sink, whose user is made as it starts, would take its files.)
TRIED = re.compile(r"(postgresql@|pgbouncer|redis-server@|nginx|prometheus)")
# It looks at all of the host.
CURIOUS = "prometheus-node-exporter.service"


@pytest.fixture(scope="module")
def tried(host, named):
    """What a process can do under each of the servers' units."""
    units = [unit for unit in named if TRIED.match(unit)]
    if not units:
        pytest.skip("no server runs here")
    found = trials(host, units)
    assert {unit: did["failed"] for unit, did in found.items() if "failed" in did} == {}
    return found


READ_ONLY = ["/etc", "/usr/local", "/opt", "/srv", "/var/log", "/var/lib", "/run"]


@pytest.mark.parametrize("folder", READ_ONLY)
def test_a_server_writes_nothing_outside(tried, folder):
    answers = {unit: did["read only"][folder] for unit, did in tried.items()}
    assert answers == dict.fromkeys(tried, True)


def test_a_server_that_keeps_data_can_write_it(tried):
    keeps = {unit for unit in tried if unit.startswith(("postgresql@", "redis-server@", "nginx"))}
    answers = {unit: next(iter(tried[unit]["writes"].values())) for unit in keeps}
    assert answers == dict.fromkeys(keeps, "done")


def test_a_server_runs_nothing_that_it_could_have_written(tried):
    """But PostgreSQL, whose operators keep scripts of theirs in its home."""
    ran = [
        (unit, folder)
        for unit, did in tried.items()
        for folder, answer in did["runs what it wrote"].items()
        if answer == "done" and not unit.startswith("postgresql@")
    ]
    assert ran == []


def test_a_server_speaks_only_with_whom_it_may(tried, variables):
    """192.0.2.1 is nobody's. The site serves the world; receivers of alerts may be anywhere."""
    remote = [
        item
        for item in variables["backup_repositories"]
        if item.get("type", "posix") not in ("posix", "cifs")
    ]
    free = {
        "nginx.service": True,
        "prometheus-alertmanager.service": "any" in variables["alertmanager_reach"],
    }
    free |= {unit: bool(remote) for unit in tried if unit.startswith("postgresql@")}
    answers = {unit: did["sends"]["192.0.2.1"] for unit, did in tried.items()}
    assert answers == {
        unit: "done" if free.get(unit) else "Operation not permitted" for unit in tried
    }
    assert {unit: did["sends"]["127.0.0.1"] for unit, did in tried.items()} == dict.fromkeys(
        tried, "done"
    )


def test_a_server_sees_no_other_users_processes(tried):
    narrow = tried.keys() - {CURIOUS}
    assert {unit: len(tried[unit]["sees"]) for unit in narrow} == dict.fromkeys(narrow, 1)
    assert {unit: tried[unit]["process 1"] for unit in narrow} == dict.fromkeys(
        narrow, "No such file or directory"
    )


REFUSED = {
    "home": "Permission denied",
    "becomes root": "Operation not permitted",
    "other sockets": "Address family not supported by protocol",
    "new namespaces": "Operation not permitted",
}


@pytest.mark.parametrize(("what", "answer"), REFUSED.items())
def test_a_server_is_refused(tried, what, answer):
    assert {unit: did[what] for unit, did in tried.items()} == dict.fromkeys(tried, answer)
