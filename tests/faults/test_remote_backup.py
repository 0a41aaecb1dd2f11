"""The host is lost with its own repositories: database and files come back from another place."""

import json
import os
import shlex
import subprocess
import time

import pytest

from support.hosts import until
from support.inventory import ROOT
from support.places import NAME, s3_server, sftp_server
from support.playbooks import playbook
from support.site import address_of

testinfra_hosts = ["ansible://postgresql"]
JOURNAL = ("postgresql@*", "celeriac-backup-*", "celeriac-files-*")
ENDS_WITHIN = 60
pytestmark = pytest.mark.usefixtures("reference_project")


def apply(inventory, role: str, group: str, **variables) -> subprocess.CompletedProcess[str]:
    """Run one role on a group, as site.yml does; stdout holds all it said."""
    return subprocess.run(
        [
            *("ansible", group, f"--inventory={inventory.path}", "--become"),
            *("--module-name=include_role", f"--args=name={role}"),
            f"--extra-vars={json.dumps(variables)}",
        ],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_NOCOWS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def applied(inventory, **variables) -> None:
    """Run both roles of backups."""
    for role, group in (("backup", "postgresql"), ("backup_files", "web:redis")):
        done = apply(inventory, role, group, **variables)
        assert done.returncode == 0, done.stdout[-4000:]


def debian(host) -> int:
    """Return the number of the host's Debian."""
    return int(host.check_output("sed -n 's/^VERSION_ID=\"\\(.*\\)\"/\\1/p' /etc/os-release"))


@pytest.fixture(scope="module", params=["s3", "sftp"])
def elsewhere(request, host, variables, inventory, tmp_path_factory):
    """The variables that name a place, which is there; the hosts know its name."""
    if not variables["backup_enabled"]:
        pytest.skip("backup_enabled is false")
    if request.param == "sftp" and debian(host) < 13:
        pytest.skip("pgBackRest has SFTP from Debian 13 on")
    folder = tmp_path_factory.mktemp(request.param)
    served = (
        s3_server(folder, address_of(variables)) if request.param == "s3" else sftp_server(folder)
    )
    # A mount in a container: it is written, not replaced.
    forget = f"sed '/ {NAME}$/d' /etc/hosts >/run/hosts && cat /run/hosts >/etc/hosts"
    with served as (address, found):
        found["backup_redis"] = True
        host.check_output(f"{forget}; echo '{address} {NAME}' >>/etc/hosts")
        try:
            applied(inventory, **found)
            yield found
        finally:
            applied(inventory)
            host.check_output("systemctl start celeriac-backup-run@full.service")
            host.check_output(forget)


def test_sftp_is_refused_where_pgbackrest_has_none(host, inventory, variables):
    if debian(host) >= 13:
        pytest.skip("pgBackRest has SFTP here")
    place = {"type": "sftp", "path": "/b", "sftp-host": NAME, "sftp-host-user": "shop"}
    keys = {"ssh_key": "-----BEGIN OPENSSH PRIVATE KEY-----", "known_hosts": f"{NAME} ssh-rsa AA"}
    done = playbook(inventory, "preflight", backup_repositories=[place], backup_key_files=keys)
    assert done.returncode != 0
    assert "backup_repositories has the type sftp, which pgBackRest has from" in " ".join(
        done.stdout.split()
    )


def test_a_run_does_not_wait_for_a_backup(host, inventory, variables):
    if not variables["backup_enabled"]:
        pytest.skip("backup_enabled is false")
    unit = "celeriac-long-backup"
    host.check_output(
        f"systemd-run --quiet --collect --uid=postgres --unit={unit}"
        " flock --no-fork /run/celeriac-backup/main-backup.lock sleep 120"
    )
    try:
        taken = "runuser -u postgres -- flock --nonblock /run/celeriac-backup/main-backup.lock true"
        until(5, lambda: host.run(taken).rc == 1, "the lock is not taken")
        done = apply(inventory, "backup", "postgresql")
        assert done.returncode == 0, done.stdout[-4000:]
        assert host.service(unit).is_running
    finally:
        host.run(f"systemctl stop {unit}")


def lose_the_host(host, variables) -> None:
    """A new host has a new server, and none of what was on the old one."""
    paths = variables["backup_files_paths"]
    host.check_output("systemctl kill --signal=KILL 'postgresql@*'; systemctl stop 'postgresql@*'")
    host.check_output(
        "rm -rf /var/lib/pgbackrest /var/lib/celeriac-files /var/lib/postgresql/*/main/* "
        + " ".join(f"{path}/*" for path in paths)
    )
    host.check_output(
        "cd / && for data in /var/lib/postgresql/*/main; do v=$(basename $(dirname $data));"
        " runuser -u postgres -- /usr/lib/postgresql/$v/bin/initdb -D $data >/dev/null &&"
        " systemctl start postgresql@$v-main; done"
    )


def test_what_was_lost_with_the_host_comes_back(
    elsewhere, host, inventory, variables, site, sql, redis_admin, figure
):
    """Tables, files, and, with backup_redis, what waited in the broker."""
    (path,) = variables["backup_files_paths"]
    order = site.place_order()
    assert site.finish(order, ENDS_WITHIN)["step"] == "done"
    host.check_output(f"echo kept >{path}/remote-backup-test")
    redis_admin("rpush remote-backup-test first second")
    began = time.monotonic()
    host.check_output("systemctl start celeriac-backup-run@full.service")
    taken = time.monotonic() - began
    host.check_output("systemctl start celeriac-files-backup.service")
    info = json.loads(host.check_output("backup-admin info --output=json --log-level-console=off"))
    assert [(repo["key"], repo["cipher"]) for repo in info[0]["repo"]] == [
        (1, "aes-256-cbc"),
        (2, "aes-256-cbc"),
    ]
    # In the log alone, not in the backup.
    late = site.place_order()
    assert site.finish(late, ENDS_WITHIN)["step"] == "done"
    segment = sql("select pg_walfile_name(pg_switch_wal())")[0]
    archived = f"select last_archived_wal >= '{segment}' from pg_stat_archiver"
    until(60, lambda: sql(archived) == ["t"], "the log was not archived")

    redis_admin("flushall")
    lose_the_host(host, variables)
    refused = apply(inventory, "backup", "postgresql", **elsewhere)
    assert refused.returncode != 0
    assert "bring its data back: playbooks/restore.yml" in " ".join(refused.stdout.split())
    began = time.monotonic()
    done = playbook(
        inventory,
        "restore",
        consent=variables["app_name"],
        old="discard",
        files="restore",
        queues="restore",
        patience="5",
        **elsewhere,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    kind = elsewhere["backup_repositories"][1]["type"]
    seconds = time.monotonic() - began
    figure(f"{kind}: full backups took {taken:.0f} s, restore.yml on a new server {seconds:.0f} s")

    assert [site.progress(each)["step"] for each in (order, late)] == ["done", "done"]
    assert host.check_output(f"cat {path}/remote-backup-test") == "kept"
    host.check_output(f"rm {shlex.quote(path)}/remote-backup-test")
    assert redis_admin("lrange remote-backup-test 0 -1").splitlines() == ["first", "second"]
    redis_admin("del remote-backup-test")
    assert site.finish(site.place_order(), ENDS_WITHIN)["step"] == "done"
    # The new host's own repository has begun anew.
    host.check_output("systemctl start celeriac-backup-run@full.service")
    assert host.run("backup-admin check").rc == 0
