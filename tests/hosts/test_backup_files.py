"""Backups of the project's files: encrypted, and equal to what is there when they are restored."""

import re

import pytest

from support.hosts import show

testinfra_hosts = ["ansible://web"]
JOURNAL = ("celeriac-files-*",)


@pytest.fixture(scope="module")
def paths(variables):
    """The folders that are backed up."""
    return variables["backup_files_paths"] or pytest.skip("no folder is backed up")


def test_the_timer_runs(host, paths):
    timer = show(host, "celeriac-files-backup.timer")["celeriac-files-backup.timer"]
    assert (timer["ActiveState"], timer["UnitFileState"]) == ("active", "enabled")


@pytest.mark.parametrize("name", ["passphrase", "environment"])
def test_what_opens_them_is_roots(host, paths, name):
    found = host.file(f"/etc/celeriac/backup-files/{name}")
    assert (found.user, found.mode) == ("root", 0o600)


def test_people_ask_with_sudo_alone(host, paths):
    refused = host.run("runuser -u nobody -- files-admin snapshots")
    assert refused.rc != 0
    assert "use sudo" in refused.stderr


def test_what_backs_up_is_confined(host, paths):
    said = host.check_output("systemd-analyze security --no-pager celeriac-files-backup.service")
    found = re.search(r"Overall exposure level .*: ([0-9.]+) ", said.splitlines()[-1])
    assert float(found[1]) <= 2.0


@pytest.fixture
def filled(host, paths):
    """Each folder has a file; one that was empty only as long as the test lasts."""
    empty = [path for path in paths if host.check_output(f"find {path} -type f | wc -l") == "0"]
    for path in empty:
        host.check_output(f"echo kept >{path}/backup-test")
    yield
    for path in empty:
        host.check_output(f"rm {path}/backup-test")


@pytest.mark.usefixtures("filled")
def test_what_is_restored_is_what_was_backed_up(host, paths, variables):
    done = host.run("systemctl start celeriac-files-backup.service")
    assert done.rc == 0, done.stderr
    scratch = "/var/cache/celeriac-files/test"
    host.check_output(f"files-admin restore latest --target={scratch}")
    try:
        for path in paths:
            changed = host.run(f"diff -r --brief {path} {scratch}{path}")
            assert changed.stdout == ""
            count = int(host.check_output(f"find {scratch}{path} -type f | wc -l"))
            assert count == int(host.check_output(f"find {path} -type f | wc -l"))
            assert count > 0
    finally:
        host.check_output(f"rm -rf {scratch}")
    figures = f"{variables['backup_files_figures_folder']}/celeriac_files.prom"
    said = host.check_output(f"runuser -u nobody -- cat {figures}")
    assert re.fullmatch(r"celeriac_files_backup_last_success_timestamp_seconds \d{10}", said)
