"""Somebody deletes what was needed, or the data are gone: the database comes back, with the app.

And where it cannot come back, nothing that is there is lost, and people learn of it.
"""

import shlex
import time
from contextlib import contextmanager

import pytest

from support.hosts import until
from support.playbooks import playbook

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


@contextmanager
def broken_repository(host):
    """The repository has lost what its list of backups names."""
    move = "cd /var/lib/pgbackrest/backup/main && for one in *F; do mv $one/{} $one/{}; done"
    host.check_output(move.format("bundle", "away"))
    try:
        yield
    finally:
        host.check_output(move.format("away", "bundle"))


@pytest.mark.parametrize("orders", [{}, {"old": "discard", "files": "restore"}], ids=["", "all"])
def test_a_restore_that_fails_leaves_what_is_there(restore, host, site, variables, orders):
    """Also files that are newer than their backup, and data that were to be discarded."""
    order = site.place_order()
    paths = variables["backup_files_paths"]
    kept_files(host, variables)
    for path in paths:
        host.check_output(f"echo new >{path}/restore-test")
        host.check_output(f"f=$(find {path} -type f | head -n 1) && echo changed >>$f")
    before = found_files(host, variables)
    with broken_repository(host):
        done = restore(consent=variables["app_name"], **orders)
    said = " ".join(done.stdout.split())
    assert done.returncode != 0
    assert "The old data are back in place, and the app runs with them" in said
    assert site.finish(order, ENDS_WITHIN)["step"] == "done"
    assert before <= found_files(host, variables)
    host.check_output(f"rm -f {' '.join(f'{path}/restore-test' for path in paths)}")


def test_a_restore_that_fails_without_room_for_the_old_data_says_that_nothing_is_left(
    restore, host, site, variables
):
    """And a second one, when the repository is whole again, brings all of it back."""
    order = site.place_order()
    assert site.finish(order, ENDS_WITHIN)["step"] == "done"
    # df tells how much room there is.
    host.check_output("printf '#!/bin/sh\\necho Avail; echo 1000\\n' >/usr/local/bin/df")
    host.check_output("chmod 755 /usr/local/bin/df")
    orders = {"consent": variables["app_name"], "old": "discard"}
    try:
        with broken_repository(host):
            done = restore(**orders)
        said = " ".join(done.stdout.split())
        assert done.returncode != 0
        assert "Nothing is left of the old data: old=discard, and there was no room" in said
        assert "The app is stopped, and visitors read the maintenance page." in said
        assert site.request("/").status == 503
    finally:
        again = restore(**orders)
        host.check_output("rm /usr/local/bin/df")
    assert again.returncode == 0, again.stdout[-4000:]
    assert site.progress(order)["step"] == "done"


SLOW = """#!/bin/bash
# The first piece of the log takes a while to come from the repository.
case "$*" in
  *archive-get*) [ -e /var/lib/postgresql/slow ] || { touch /var/lib/postgresql/slow; sleep 20; } ;;
esac
exec -a /usr/bin/pgbackrest /usr/bin/pgbackrest.real "$@"
"""


@pytest.fixture
def slow_archive(host):
    """The log is long in coming: until then the server is not consistent and answers nobody."""
    host.check_output("mv /usr/bin/pgbackrest /usr/bin/pgbackrest.real")
    host.check_output(f"printf %s {shlex.quote(SLOW)} >/usr/bin/pgbackrest")
    host.check_output("chmod 755 /usr/bin/pgbackrest")
    yield
    host.check_output(
        "mv /usr/bin/pgbackrest.real /usr/bin/pgbackrest; rm /var/lib/postgresql/slow"
    )


@pytest.mark.usefixtures("slow_archive")
def test_a_server_that_is_long_at_reading_the_log_is_waited_for(restore, host, site, variables):
    order = site.place_order()
    assert site.finish(order, ENDS_WITHIN)["step"] == "done"
    done = restore(consent=variables["app_name"], patience="5")
    assert done.returncode == 0, done.stdout[-4000:]
    assert host.file("/var/lib/postgresql/slow").exists
    assert site.progress(order)["step"] == "done"


def age(host, variables) -> str:
    """What node-exporter shows of the last good drill."""
    path = f"{variables['backup_figures_folder']}/celeriac_backup.prom"
    return host.check_output(f"grep ^celeriac_restore_verified {path}")


def drill(host) -> str:
    """Run the drill, which has to fail; return what it said."""
    assert host.run("systemctl start celeriac-backup-drill.service").rc != 0
    assert host.check_output("systemctl show -P Result celeriac-backup-drill") == "exit-code"
    host.check_output("systemctl reset-failed celeriac-backup-drill.service")
    return host.check_output("journalctl -u celeriac-backup-drill -t python3 -o cat -n 1")


@pytest.fixture
def verified(host, variables):
    """When the drill last succeeded; it does so now, on the newest backup."""
    host.check_output("systemctl start celeriac-backup-run@full.service")
    host.check_output("systemctl start celeriac-backup-drill.service")
    return age(host, variables)


def test_a_drill_on_a_damaged_repository_fails_and_the_age_grows(host, variables, verified):
    path = "/var/lib/pgbackrest/backup/main/latest/bundle"
    bundle = host.check_output(f"ls -S {path}/* | head -n 1")
    host.check_output(f"cp -p {bundle} /root/bundle")
    host.check_output(
        f"dd if=/dev/urandom of={bundle} bs=4096 seek=4 count=1 conv=notrunc status=none"
    )
    try:
        said = drill(host)
    finally:
        host.check_output(f"cp -p /root/bundle {bundle} && rm /root/bundle")
    assert "pgbackrest failed" in said
    assert age(host, variables) == verified


def test_a_drill_that_misses_rows_names_their_table(host, variables, sql, verified):
    """The live server gets a row that it does not count, when the log has been archived."""
    sql("create table if not exists backup_test (id int); insert into backup_test values (1)")
    late = "until [ -e /var/lib/celeriac-backup/drill ]; do sleep 0.05; done; cd /; {}"
    insert = (
        "PGOPTIONS='-c track_counts=off' runuser -u postgres -- psql -qd {} -p {} -c"
        " 'insert into backup_test values (2)'"
    ).format(variables["app_name"], variables["postgresql_port"])
    host.check_output(f"systemd-run --collect sh -c {shlex.quote(late.format(insert))}")
    try:
        said = drill(host)
    finally:
        sql("drop table backup_test")
    assert "public.backup_test has 1 rows, and the live one 2" in said
    assert age(host, variables) == verified
