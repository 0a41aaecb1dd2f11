"""PostgreSQL: nobody gets in without a password, and it is what the inventory says."""

import pytest

testinfra_hosts = ["ansible://postgresql"]
JOURNAL = ("postgresql@*",)


@pytest.fixture(scope="module")
def client(variables):
    """Return a psql command over TCP that never asks."""
    name = variables["app_name"]
    return (
        f"psql -w -h 127.0.0.1 -p {variables['postgresql_port']} -U {name} -d {name} -c 'select 1'"
    )


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


@pytest.mark.spec("D7.3.2")
def test_the_right_password_is_accepted(release, variables):
    user = release.python(
        "import json, os, psycopg\n"
        "with psycopg.connect(os.environ['DATABASE_URL']) as connection:\n"
        "    print(json.dumps(connection.execute('select current_user').fetchone()))"
    )
    assert user == [variables["app_name"]]


@pytest.mark.spec("D7.3.2")
def test_every_password_is_stored_as_scram(sql, variables):
    stored = sql(
        "select rolname from pg_authid where rolcanlogin and rolpassword like 'SCRAM-SHA-256$%'"
    )
    assert {user["name"] for user in variables["postgresql_users"]} <= set(stored)


def test_no_rule_lets_anybody_in_without_proof(sql):
    methods = sql("select distinct auth_method from pg_hba_file_rules")
    assert set(methods) <= {"scram-sha-256", "peer"}


def test_the_app_has_no_right_on_the_server(sql, variables):
    names = ", ".join(f"'{user['name']}'" for user in variables["postgresql_users"])
    mighty = sql(
        "select rolname from pg_roles where (rolsuper or rolcreaterole or rolcreatedb"
        f" or rolreplication) and rolname in ({names})"
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
