"""The exporter's role of PostgreSQL: what migrations let it read, and nothing else."""

import os

import pytest

ROLE = f"celeriac_reader_{os.getpid()}"


@pytest.fixture
def reader(ledger):
    ledger.server.execute(f"DROP ROLE IF EXISTS {ROLE}")
    ledger.server.execute(f"CREATE ROLE {ROLE}")
    yield ROLE
    ledger.server.execute(f"DROP OWNED BY {ROLE}")
    ledger.server.execute(f"DROP ROLE {ROLE}")


def may(ledger, role, right, table):
    return ledger.query("SELECT has_table_privilege(%s, %s, %s)", role, table, right) == [(True,)]


MIGRATE = "from django.core.management import call_command; call_command('migrate', verbosity=0)"


def test_migrations_let_the_reader_read_the_packages_tables_alone(ledger, reader):
    ledger.run(MIGRATE, CELERIAC_READER=reader)
    assert may(ledger, reader, "SELECT", "celeriac_outbox")
    assert may(ledger, reader, "SELECT", "celeriac_minute")
    assert not may(ledger, reader, "UPDATE", "celeriac_outbox")
    assert not may(ledger, reader, "SELECT", "jobs_effect")


def test_without_a_reader_migrations_let_nobody_in(ledger, reader):
    ledger.run(MIGRATE)
    assert not may(ledger, reader, "SELECT", "celeriac_outbox")


def test_a_reader_that_is_not_there_stops_the_migrations_by_name(ledger):
    with pytest.raises(AssertionError, match="nobody_here"):
        ledger.run(MIGRATE, CELERIAC_READER="nobody_here")
