"""Backups: they are there, encrypted, miss nothing for long, and can be restored."""

import json
import re
import time

import pytest

from support.hosts import show, until

testinfra_hosts = ["ansible://postgresql"]
JOURNAL = ("celeriac-backup-*", "postgresql@*")
FIGURES = {
    "celeriac_backup_last_success_timestamp_seconds",
    "celeriac_restore_verified_timestamp_seconds",
    "celeriac_backup_drill_seconds",
}


@pytest.fixture(scope="module", autouse=True)
def _enabled(variables):
    """Skip where the operator has another way."""
    if not variables["backup_enabled"]:
        pytest.skip("backup_enabled is false")


@pytest.fixture(scope="module")
def info(host):
    """What pgBackRest says of the repositories, when the first backup is there."""

    def found():
        said = host.check_output("backup-admin info --output=json --log-level-console=off")
        (stanza,) = json.loads(said)
        return stanza if stanza["backup"] else None

    return until(120, found, "there is no backup")


def test_every_repository_has_a_full_backup_and_the_log_since(info, variables):
    wanted = set(range(1, len(variables["backup_repositories"]) + 1))
    full = {each["database"]["repo-key"] for each in info["backup"] if each["type"] == "full"}
    assert full == wanted
    assert {archive["database"]["repo-key"] for archive in info["archive"]} == wanted
    assert [each["label"] for each in info["backup"] if each["error"]] == []


def test_every_repository_is_encrypted(info):
    assert {repo["cipher"] for repo in info["repo"]} == {"aes-256-cbc"}


def test_a_local_repository_shows_nothing_in_the_clear(host, info, variables, sql):
    """The name of a table is in each file of the catalogue."""
    for repository in variables["backup_repositories"]:
        if repository.get("type", "posix") != "posix":
            continue
        path = repository["path"]
        files = host.check_output(f"find {path}/backup -type f -size +0 | wc -l")
        plain = host.run(f"grep -rlaE 'backup-label|django_migrations|pg_data' {path}")
        assert int(files) > 3
        assert plain.stdout == ""
        assert host.check_output(f"stat -c '%U %a' {path}") == "postgres 750"


def test_what_is_committed_reaches_the_repositories(host, info, sql):
    """The server's own command does it, with the passphrase that systemd handed over."""
    sql("select txid_current()")
    segment = sql("select pg_walfile_name(pg_switch_wal())")[0]
    until(
        30,
        lambda: sql(f"select last_archived_wal >= '{segment}' from pg_stat_archiver") == ["t"],
        f"{segment} was not archived",
    )
    assert host.run("backup-admin check").rc == 0


def test_a_quiet_server_archives_as_often_as_the_inventory_says(sql, variables):
    (found,) = sql("select setting from pg_settings where name = 'archive_timeout'")
    assert int(found) == variables["backup_archive_timeout"]


def test_the_timers_are_those_of_the_schedule(host, variables):
    wanted = {name for name, time in variables["backup_schedule"].items() if time}
    wanted |= {"drill"} if variables["backup_drill"] else set()
    timers = show(host, *(f"celeriac-backup-{name}.timer" for name in ("full", "diff", "incr")))
    timers |= show(host, "celeriac-backup-drill.timer")
    running = {name for name, timer in timers.items() if timer["ActiveState"] == "active"}
    assert running == {f"celeriac-backup-{name}.timer" for name in wanted}
    assert {timers[name]["UnitFileState"] for name in running} == {"enabled"}
    assert {timers[name]["NextElapseUSecRealtime"] for name in running} & {"", "n/a"} == set()


def test_the_passphrase_is_roots(host):
    found = host.file("/etc/celeriac/backup/pgbackrest.conf")
    assert (found.user, found.mode) == ("root", 0o600)


def test_people_ask_it_with_sudo_alone(host):
    refused = host.run("runuser -u nobody -- backup-admin info")
    assert refused.rc != 0
    assert "use sudo" in refused.stderr


@pytest.mark.parametrize("unit", ["run@full", "drill", "archive"])
def test_what_backs_up_is_confined(host, unit):
    """systemd's own measure: 0 is nothing that it could still do, 10 is everything."""
    said = host.check_output(f"systemd-analyze security --no-pager celeriac-backup-{unit}.service")
    found = re.search(r"Overall exposure level .*: ([0-9.]+) ", said.splitlines()[-1])
    assert float(found[1]) <= 1.0


def figures(host, variables) -> dict[str, float]:
    """Return the figures as node-exporter, which is nobody special, reads them."""
    path = f"{variables['backup_figures_folder']}/celeriac_backup.prom"
    text = host.check_output(f"runuser -u nobody -- cat {path}")
    pattern = r"^([a-z_]+)(?:\{[^}]*\})? ([0-9.e+]+)$"
    return {name: float(value) for name, value in re.findall(pattern, text, re.MULTILINE)}


def test_the_newest_backup_can_be_restored_and_read(host, info, variables, figure):
    before = time.time()
    done = host.run("systemctl start celeriac-backup-drill.service")
    assert done.rc == 0, done.stderr
    said = host.check_output(
        "journalctl -u celeriac-backup-drill -t python3 -o cat -n 1 --no-pager"
    )
    assert re.search(r"accepted writes after .* read [1-9][0-9]* rows", said), said
    figure(f"restore drill: {said.strip()}")
    found = figures(host, variables)
    assert set(found) >= FIGURES
    assert found["celeriac_restore_verified_timestamp_seconds"] > before - 5
    assert found["celeriac_backup_last_success_timestamp_seconds"] <= time.time() + 5
    assert not host.file("/var/lib/celeriac-backup/drill").exists
