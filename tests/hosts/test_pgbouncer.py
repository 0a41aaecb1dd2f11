"""PgBouncer: a gevent pool that chose it shares a few sessions, and its durable tasks work."""

import pytest

from support.hosts import until

testinfra_hosts = ["ansible://all"]
JOURNAL = ("pgbouncer.service", "postgresql@*", "*-worker-*")
GREENLETS = 50

# Whether another process answers than the login named, and whether two idle sessions share it.
ASK = """
import json, os, psycopg
url = os.environ["DATABASE_URL"]
with psycopg.connect(url, autocommit=True) as one, psycopg.connect(url, autocommit=True) as two:
    pids = [each.execute("select pg_backend_pid()").fetchone()[0] for each in (one, two)]
    user = one.execute("select current_user").fetchone()[0]
    named = one.info.backend_pid
    print(json.dumps({"through": pids[0] != named, "shared": pids[0] == pids[1], "user": user}))
"""

# What the door says to who comes as the environment says, in the clear, and for another name.
TRY_DOORS = """
import json, os, socket, psycopg
from psycopg.conninfo import conninfo_to_dict
url = os.environ["DATABASE_URL"]
address = socket.gethostbyname(conninfo_to_dict(url)["host"])
said = {}
for change in ("", "sslmode=disable", "host=another.test"):
    try:
        psycopg.connect(url, hostaddr=address, **conninfo_to_dict(change)).close()
        said[change] = ""
    except psycopg.OperationalError as error:
        said[change] = str(error)
print(json.dumps(said))
"""

# Every greenlet asks, waits as for a bank, and asks again, over a connection that it keeps.
CROWD = """
from gevent import monkey
monkey.patch_all()
import json, os, gevent, psycopg
pids = set()
def work():
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as session:
        for _ in range(2):
            pids.add(session.execute("select pg_backend_pid(), pg_sleep(0.02)").fetchone()[0])
            gevent.sleep(3)
crowd = [gevent.spawn(work) for _ in range({greenlets})]
gevent.joinall(crowd)
print(json.dumps({{"sessions": len(pids), "failed": sum(not each.successful() for each in crowd)}}))
"""


@pytest.fixture(scope="module")
def server(reach, inventory, variables):
    """The host of PostgreSQL, where some pool goes through PgBouncer."""
    if not variables["pgbouncer_wanted"]:
        pytest.skip("no pool goes through PgBouncer")
    return reach(inventory.first("postgresql"))


@pytest.fixture(scope="module")
def pooled(release, variables):
    """The release on a host that runs such a pool."""
    if "pooled" not in variables["release_roles"]:
        pytest.skip("no pool of this host goes through PgBouncer")
    return release


@pytest.fixture(scope="module")
def console(server, variables):
    """Return a function that asks PgBouncer itself; gives a dict for each row."""

    def ask(question):
        rows = server.check_output(
            "cd / && runuser -u pgbouncer -- psql -XAq -F '\t' -P footer=off -h /run/pgbouncer"
            f" -p {variables['pgbouncer_port']} pgbouncer -c '{question}'"
        ).splitlines()
        return [dict(zip(rows[0].split("\t"), row.split("\t"), strict=True)) for row in rows[1:]]

    return ask


def test_it_is_where_a_pool_chose_it_and_nowhere_else(host, variables):
    here = variables["pgbouncer_wanted"] and "postgresql" in variables["group_names"]
    assert host.file("/lib/systemd/system/pgbouncer.service").exists == here
    assert host.file("/etc/pgbouncer").exists == here
    assert host.user("pgbouncer").exists == here
    assert host.service("pgbouncer").is_running == here


def test_it_comes_up_at_boot_and_after_a_crash(server):
    assert server.service("pgbouncer").is_enabled
    shown = server.check_output(
        "systemctl show -p Restart -p StartLimitIntervalUSec -p User -p NRestarts pgbouncer"
    )
    assert set(shown.splitlines()) == {
        "Restart=always",
        "StartLimitIntervalUSec=0",
        "User=pgbouncer",
        "NRestarts=0",
    }


@pytest.mark.parametrize("password", ["", "wrong"])
def test_nobody_gets_in_without_the_password(server, variables, password):
    done = server.run(
        f"PGPASSWORD={password} psql -w -h 127.0.0.1 -p {variables['pgbouncer_port']}"
        f" -U {variables['celeriac_runner']} -d {variables['app_name']} -c 'select 1'"
    )
    assert done.rc != 0
    assert ("password" in done.stderr) or ("SASL" in done.stderr), done.stderr


def test_it_knows_the_logins_of_its_users_alone_and_no_password(server, sql, variables):
    listed = server.check_output("grep -v '^;' /etc/pgbouncer/userlist.txt").splitlines()
    found = dict(line.replace('"', "").split(" ", 1) for line in listed)
    assert {name.rsplit("_", 1)[0] for name in found} == set(variables["pgbouncer_users"])
    assert all(value.startswith("SCRAM-SHA-256$") for value in found.values())
    there = sql("select rolname || ' ' || rolpassword from pg_authid where rolcanlogin")
    assert {f"{name} {value}" for name, value in found.items()} <= set(there)
    for name in ("userlist.txt", "pgbouncer.ini"):
        file = server.file(f"/etc/pgbouncer/{name}")
        assert (file.user, file.group, file.mode) == ("root", "pgbouncer", 0o640)


def test_a_pool_that_chose_it_shares_sessions_and_others_do_not(pooled, variables):
    user = variables["pgbouncer_users"][0]
    through = {"through": True, "shared": True, "user": user}
    assert pooled.python(ASK, "pooled") == through
    assert pooled.python(ASK, "worker") == {"through": False, "shared": False, "user": user}


def test_between_hosts_it_takes_tls_alone_and_shows_its_name(pooled, variables, many_hosts):
    said = pooled.python(TRY_DOORS, "pooled")
    assert said[""] == ""
    assert "SSL required" in said["sslmode=disable"]
    assert 'does not match host name "another.test"' in said["host=another.test"]


def test_greenlets_share_a_few_sessions(pooled, variables, figure):
    most = int(variables["pgbouncer_connections"])
    script = CROWD.format(greenlets=GREENLETS)
    direct, through = pooled.python(script, "worker"), pooled.python(script, "pooled")
    figure(
        f"pgbouncer: {GREENLETS} greenlets need {direct['sessions']} sessions with PostgreSQL"
        f" without it and {through['sessions']} with it (at most {most})"
    )
    assert direct == {"sessions": GREENLETS, "failed": 0}
    assert through["failed"] == 0
    assert through["sessions"] <= most


def test_no_more_sessions_than_the_budget_counts(console, variables, app_name):
    (row,) = [row for row in console("show databases") if row["name"] == app_name]
    budget = int(variables["release_topology"]["pgbouncer_connections"])
    assert int(row["max_connections"]) == budget == int(variables["pgbouncer_connections"])
    assert int(row["current_connections"]) <= budget


@pytest.fixture(scope="module")
def doors(host, pooled, variables):
    """Return a function that tells which ports the pool's processes are connected to, each time."""
    units = [
        f"{pooled.name}-worker-{pool['name']}@{pooled.id}.service"
        for pool in variables["celery_pools"]
        if pool.get("pgbouncer")
    ]
    pids = host.check_output(f"systemctl show --value -p MainPID {' '.join(units)}").split()

    def look():
        rows = host.check_output("ss -H -t -n -p state established").splitlines()
        mine = [row.split() for row in rows if any(f"pid={pid}," in row for pid in pids)]
        return [int(row[3].rsplit(":", 1)[1]) for row in mine]

    return look


@pytest.mark.usefixtures("reference_project")
@pytest.mark.leaves_traces
def test_durable_tasks_go_through_it_and_only_what_needs_a_session_goes_round(
    doors, variables, site, host, sql
):
    """An order waits for the bank and for the mail server in tasks of the pool."""
    pooler, postgresql = int(variables["pgbouncer_port"]), int(variables["postgresql_port"])
    order = site.place_order()
    until(20, lambda: pooler in doors(), "no task has gone through PgBouncer")
    assert site.finish(order, 120)["step"] == "done"
    keepers = sum(1 for pool in variables["celery_pools"] if pool.get("pgbouncer"))
    until(20, lambda: doors().count(postgresql) == keepers, "more sessions than the keepers' own")
    said = host.check_output("journalctl --no-pager -o cat -u '*-worker-*' -n 2000")
    assert "transaction pooler" not in said
    assert sql("select count(*) from celeriac_outbox where strikes > 0") == ["0"]
