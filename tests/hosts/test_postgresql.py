"""PostgreSQL: nobody gets in without a password, or does more than they need."""

import json
import re
import shlex

import pytest

testinfra_hosts = ["ansible://postgresql"]
JOURNAL = ("postgresql@*",)


@pytest.fixture(scope="module")
def client(variables):
    """Return a psql command over TCP that never asks, as the login that the app uses."""
    name = variables["app_name"]
    login = variables["celeriac_writer"]
    return (
        f"psql -w -h 127.0.0.1 -p {variables['postgresql_port']} -U {login} -d {name} -c 'select 1'"
    )


@pytest.fixture(scope="module")
def ask(release):
    """Return a function that runs statements with the environment of a role; gives the answers."""

    def run(role: str, *statements: str) -> list:
        return release.python(SESSION.format(statements=statements), role)

    return run


SESSION = """
import json, os, psycopg
answers = []
for statement in {statements!r}:
    with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
        try:
            cursor = connection.execute(statement)
            answers.append(cursor.fetchall() if cursor.description else "done")
        except psycopg.Error as error:
            answers.append(type(error).__name__)
        connection.rollback()
print(json.dumps(answers, default=str))
"""


@pytest.mark.spec("D7.3.2")
def test_without_a_password_nobody_connects(host, client):
    result = host.run(client)
    assert result.rc != 0
    assert "no password supplied" in result.stderr


@pytest.mark.spec("D7.3.2")
def test_a_wrong_password_is_refused(host, client):
    result = host.run(f"PGPASSWORD=wrong {client}")
    assert result.rc != 0
    assert "password authentication failed" in result.stderr


@pytest.fixture(scope="module")
def users(variables):
    """Who a process of each role is, without what the inventory has switched on."""
    name = variables["app_name"]
    writer = name if variables["app_alters_tables"] else f"{name}_app"
    found = {"web": writer, "worker": writer, "beat": writer}
    return found | {"metrics": f"{name}_exporter", "manage": name}


@pytest.mark.spec("D7.3.2")
@pytest.mark.parametrize("role", ["web", "worker", "beat", "metrics", "manage"])
def test_a_process_gets_in_with_its_password_and_is_its_user(ask, variables, users, role):
    if role not in variables["release_roles"]:
        pytest.skip("this host does not run it")
    assert ask(role, "select current_user") == [[[users[role]]]]


NO_RIGHT = "InsufficientPrivilege"
NOT_THE_APPS = [
    "create table a_test (id int)",
    "create schema a_test",
    "drop table django_migrations",
    "alter table django_migrations add column a_test int",
    "truncate django_migrations",
    "create role a_test",
    "select pg_read_file('/etc/passwd')",
    "select passwd from pg_shadow",
    "copy (select 1) to program 'true'",
    "select pg_reload_conf()",
]


@pytest.fixture(scope="module")
def runs_here(variables):
    """A role of this host that runs the app."""
    if variables["app_alters_tables"]:
        pytest.skip("the inventory lets the app alter tables")
    role = next((role for role in ("web", "worker") if role in variables["release_roles"]), None)
    return role or pytest.skip("nothing on this host runs the app")


def test_the_app_reads_and_writes(ask, runs_here):
    assert ask(
        runs_here,
        "update django_migrations set app = app",
        "delete from django_migrations where id = -1",
        "create temporary table a_test (id int)",
        "select last_value > 0 from django_migrations_id_seq",
        "select nextval('django_migrations_id_seq') > 0",
    ) == ["done", "done", "done", [[True]], [[True]]]


@pytest.mark.parametrize("statement", NOT_THE_APPS)
def test_the_app_does_nothing_else(ask, runs_here, statement):
    assert ask(runs_here, statement) == [NO_RIGHT]


def test_tables_to_come_are_the_apps_to_write_as_well(sql, variables, runs_here):
    name = variables["app_name"]
    made = (
        f"begin; set local role {name}; create table a_test (id serial);"
        " select has_table_privilege('{0}', 'a_test', 'select, insert, update, delete')"
        " and has_sequence_privilege('{0}', 'a_test_id_seq', 'usage'); rollback"
    )
    assert sql(made.format(f"{name}_app")) == ["t"]


def test_management_commands_are_the_owner(ask):
    assert ask("manage", "create table a_test (id int)") == ["done"]


@pytest.mark.usefixtures("reference_project")
def test_the_exporter_reads_what_it_shows_and_nothing_of_customers(ask, variables):
    if "metrics" not in variables["release_roles"]:
        pytest.skip("no exporter on this host")
    assert ask(
        "metrics",
        "select count(*) >= 0 from celeriac_outbox",
        "select count(*) > 0 from pg_stat_activity where query <> ''",
        "select * from orders_order",
        "delete from celeriac_outbox",
    ) == [[[True]], [[True]], NO_RIGHT, NO_RIGHT]


@pytest.mark.spec("D7.3.2")
def test_every_password_is_stored_as_scram(sql, variables):
    logins = "select rolname, rolpassword like 'SCRAM-SHA-256$%' from pg_authid where rolcanlogin"
    found = dict(line.split("|") for line in sql(logins) if not line.startswith("postgres|"))
    assert found == dict.fromkeys(found, "t")
    wanted = {user["name"] for user in variables["postgresql_users"]}
    assert {login.rsplit("_", 1)[0] for login in found} == wanted


def test_a_user_has_as_many_logins_as_valid_passwords(sql, variables):
    found = sql("select rolname from pg_roles where rolcanlogin and rolname <> 'postgres'")
    users = {user["name"]: len(user["passwords"]) for user in variables["postgresql_users"]}
    logins = [re.fullmatch(r"(.*)_[0-9a-f]{8}", login)[1] for login in found]
    assert {name: logins.count(name) for name in users} == users


def test_no_rule_lets_anybody_in_without_proof(sql):
    methods = sql("select distinct auth_method from pg_hba_file_rules")
    assert set(methods) <= {"scram-sha-256", "peer"}


def test_nobody_but_postgres_has_a_right_on_the_server(sql):
    mighty = sql(
        "select rolname from pg_roles where (rolsuper or rolcreaterole or rolcreatedb"
        " or rolreplication or rolbypassrls) and rolname <> 'postgres'"
    )
    assert mighty == []


def test_the_databases_belong_to_their_owners(sql, variables):
    found = sql(
        "select datname || ' ' || pg_get_userbyid(datdba) || ' ' || pg_encoding_to_char(encoding)"
        " from pg_database"
    )
    wanted = {f"{item['name']} {item['owner']} UTF8" for item in variables["postgresql_databases"]}
    assert wanted <= set(found)


def test_it_runs_with_the_inventorys_settings(sql, variables):
    wanted = variables["postgresql_config_base"] | variables["postgresql_config"]
    applied = sql("select name || '=' || setting from pg_file_settings where applied")
    found = dict(line.split("=", 1) for line in applied)
    assert {name: found.get(name) for name in wanted} == {
        name: as_postgresql_says(value) for name, value in wanted.items()
    }


def as_postgresql_says(value) -> str:
    """Return a parameter's value as its file says it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def test_no_setting_waits_for_a_restart(sql):
    assert sql("select name from pg_settings where pending_restart") == []


def test_it_comes_up_at_boot_and_after_a_crash(host):
    unit = host.check_output(
        "systemctl list-units --plain --no-legend 'postgresql@*' | cut -d' ' -f1"
    )
    assert host.service(unit).is_running
    # A line that the generator of Debian's package writes, or one of `systemctl enable`.
    assert host.check_output(f"systemctl show --value -p WantedBy {unit}") != ""
    assert host.check_output(f"systemctl show --value -p Restart {unit}") in (
        "always",
        "on-failure",
    )


COMPILED = (
    "set jit = on; set jit_above_cost = 0; set jit_inline_above_cost = 0;"
    " set jit_optimize_above_cost = 0; explain (analyze, timing off)"
    " select sum(n * 2 + 1) from generate_series(1, 1000) as n where n % 3 = 0"
)


def test_a_compiled_query_runs_or_is_not_compiled_and_crashes_nothing(host, sql, variables):
    """Any session may ask for it, so the sandbox must fit what the inventory says."""
    wanted = variables["postgresql_config_base"] | variables["postgresql_config"]
    unit = host.check_output(
        "systemctl list-units --plain --no-legend 'postgresql@*' | cut -d' ' -f1"
    )
    before = host.check_output(f"systemctl show --value -p MainPID -p NRestarts {unit}")
    started = sql("select pg_postmaster_start_time()")
    plan = "\n".join(sql(COMPILED))  # says so only where it also shows costs
    assert ("JIT:" in plan) == bool(wanted["jit"]), plan
    said = host.check_output(f"journalctl --no-pager -o cat -u {unit} -n 50")
    assert "was terminated by signal" not in said
    assert sql("select pg_postmaster_start_time()") == started
    assert host.check_output(f"systemctl show --value -p MainPID -p NRestarts {unit}") == before


@pytest.mark.parametrize(("limit", "enough"), [(None, True), (12, False)])
def test_the_app_cannot_use_up_the_connections(release, sql, variables, limit, enough):
    """With what the server really allows: two releases together, and some are kept for people."""
    allowed = limit or int(sql("show max_connections")[0])
    topology = variables["release_topology"] | {"postgresql_max_connections": allowed}
    done = release.shell(
        f"echo {shlex.quote(json.dumps(topology))} |"
        f" {release.home}/venv/bin/python -m celeriac.check --app {release.celery_app}"
    )
    assert ("PostgreSQL allows" not in done.stdout) == enough, done.stdout + done.stderr
    assert (done.rc == 0) == enough
