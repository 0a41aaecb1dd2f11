"""Somebody deletes what was needed, or the data are gone: the database comes back, with the app."""

import shlex
import time

import pytest

from support.deploys import playbook
from support.hosts import until

testinfra_hosts = ["ansible://postgresql"]
JOURNAL = ("postgresql@*", "celeriac-backup-*")
ENDS_WITHIN = 60
pytestmark = pytest.mark.usefixtures("reference_project")


@pytest.fixture(scope="module", autouse=True)
def backed_up(host, variables):
    """There is a backup to go back to."""
    if not variables["backup_enabled"]:
        pytest.skip("backup_enabled is false")
    until(
        120,
        lambda: "full backup:" in host.check_output("backup-admin info"),
        "there is no backup",
    )


@pytest.fixture
def restore(inventory, variables):
    """Return a function that runs the playbook."""
    return lambda **orders: playbook(inventory, "restore", **orders)


@pytest.fixture(autouse=True)
def _tidy(host):
    """Leave no old data behind."""
    yield
    host.check_output("rm -rf /var/lib/postgresql/*/main.before-*")


def test_without_consent_nothing_is_replaced(restore, site):
    done = restore()
    assert done.returncode != 0
    assert "To go on: -e consent=" in " ".join(done.stdout.split())
    assert site.request("/").status == 200


@pytest.mark.spec("G9.4")
def test_a_moment_before_the_mistake_comes_back(restore, host, site, sql, variables, figure):
    kept = site.place_order()
    site.finish(kept, ENDS_WITHIN)
    time.sleep(1.1)  # the moment is written in seconds
    moment = sql("select to_char(clock_timestamp() at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS')")[0]
    time.sleep(1.1)
    lost = site.place_order()
    site.finish(lost, ENDS_WITHIN)
    sql("delete from orders_invoice; drop table if exists emails_mail cascade")

    began = time.monotonic()
    done = restore(consent=variables["app_name"], to=f"{moment}+00")
    assert done.returncode == 0, done.stdout[-4000:]
    figure(f"restore.yml to a moment: {time.monotonic() - began:.0f} s")
    assert "Tasks that were owed at that moment run again" in done.stdout
    assert site.progress(kept)["step"] == "done"
    assert site.request(lost).status == 404
    assert int(sql("select count(*) from orders_invoice")[0]) > 0
    after = site.place_order()
    assert site.finish(after, ENDS_WITHIN)["step"] == "done"


def found_files(host, variables):
    """The project's files, with owner and checksum."""
    find = "find {} -type f -exec stat -c '%U %n' {{}} + -exec sha256sum {{}} +"
    return {
        line
        for path in variables["backup_files_paths"]
        for line in host.check_output(find.format(path)).splitlines()
    }


def kept_files(host, variables):
    """The same, when they are backed up."""
    if not variables["backup_files_paths"]:
        return set()
    host.check_output("systemctl start celeriac-files-backup.service")
    return found_files(host, variables)


def test_lost_data_come_back_up_to_the_last_archived_change(
    restore, host, site, sql, variables, figure
):
    order = site.place_order()
    assert site.finish(order, ENDS_WITHIN)["step"] == "done"
    segment = sql("select pg_walfile_name(pg_switch_wal())")[0]
    archived = f"select last_archived_wal >= '{segment}' from pg_stat_archiver"
    until(30, lambda: sql(archived) == ["t"], "the log was not archived")
    host.check_output("systemctl kill --signal=KILL 'postgresql@*'; systemctl stop 'postgresql@*'")
    host.check_output("rm -rf /var/lib/postgresql/*/main/*")
    files = kept_files(host, variables)
    host.check_output(f"rm -rf {' '.join(f'{path}/*' for path in variables['backup_files_paths'])}")

    began = time.monotonic()
    orders = {"files": "restore"} if files else {}
    done = restore(consent=variables["app_name"], old="discard", patience="5", **orders)
    assert done.returncode == 0, done.stdout[-4000:]
    figure(f"restore.yml after the loss of all data: {time.monotonic() - began:.0f} s")
    assert files <= found_files(host, variables)
    assert site.progress(order)["step"] == "done"
    assert site.finish(site.place_order(), ENDS_WITHIN)["step"] == "done"
    left = host.check_output(f"ls -d {shlex.quote('/var/lib/postgresql')}/*/main.before-* || :")
    assert left == ""


def test_a_restore_that_fails_leaves_the_old_data_in_place(restore, host, site, sql, variables):
    """The repository has lost what its list of backups names."""
    order = site.place_order()
    move = "cd /var/lib/pgbackrest/backup/main && for one in *F; do mv $one/{} $one/{}; done"
    host.check_output(move.format("bundle", "away"))
    try:
        done = restore(consent=variables["app_name"])
    finally:
        host.check_output(move.format("away", "bundle"))
    assert done.returncode != 0
    assert "The old data are back in place" in " ".join(done.stdout.split())
    assert site.finish(order, ENDS_WITHIN)["step"] == "done"
