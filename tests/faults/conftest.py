"""Tests that disturb the hosts: only where an inventory is named, and never in production."""

from pathlib import Path

import pytest

from support import inventory as inventories
from support.hosts import show, until


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Stay away from hosts that nobody has named."""
    path = config.getoption("ansible_inventory")
    if path is None:
        return True
    found = inventories.load(path)
    environment = found.of(found.first("web"))["celeriac_environment"]
    if environment == "production":
        raise pytest.UsageError("tests/faults kill processes; they do not run in production")
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Look first, disturb afterwards."""
    items.sort(key=lambda item: item.path.parent.name == "faults")


@pytest.fixture
def running(host, variables):
    """Return a function that lists the app's units that run, without the socket's placeholder."""
    name = variables["app_name"]

    def units() -> set[str]:
        found = show(host, f"{name}-*.service")
        return {
            unit
            for unit, properties in found.items()
            if properties["ActiveState"] not in ("inactive", "failed")
        } - {f"{name}-web.service"}

    return units


# Where the locks of running tasks begin (ledger.py of the runtime package).
TASK_LOCKS = 0x63656C << 40


@pytest.fixture
def in_the_middle(sql):
    """Return a function that waits until a worker is in the middle of this step of an order.

    It holds the lock of the task's row (atomic=False), or has deleted the row.
    """

    def wait(step: str, *paths: str) -> None:
        identities = ", ".join(f"'{path.strip('/').split('/')[-1]}'" for path in paths)
        query = (
            "select count(*) from orders_order r join celeriac_outbox o using (task_id), pg_locks l"
            f" where public_id in ({identities}) and step = '{step}' and l.granted and"
            " (l.locktype = 'advisory' and l.objsubid = 1"
            f" and (l.classid::bigint << 32) + l.objid::bigint = {TASK_LOCKS} + o.seq"
            " or l.locktype = 'transactionid' and l.transactionid = o.xmax)"
        )
        until(20, lambda: sql(query) != ["0"], f"no worker was in the middle of {step}")

    return wait


@pytest.fixture
def at_the_bank(in_the_middle):
    """Return a function that waits until a worker is in the middle of one of these payments."""
    return lambda *paths: in_the_middle("payment", *paths)


@pytest.fixture
def effects(sql, host):
    """Return a function that counts what came of an order, by kind."""

    def count(path: str) -> dict[str, int]:
        identity = path.strip("/").split("/")[-1]
        tables = {
            "payments": "payments_payment",
            "crates": "orders_crate",
            "invoices": "orders_invoice",
            "mails written": "emails_mail",
        }
        found = {
            what: int(
                sql(
                    f"select count(*) from {table} e join orders_order o on o.id = e.order_id"
                    f" where public_id = '{identity}'"
                )[0]
            )
            for what, table in tables.items()
        }
        found["charges at the bank"] = int(
            sql(
                "select count(*) from payments_bankentry where reference is not null"
                f" and key = 'order-{identity}'"
            )[0]
        )
        arrived = host.check_output(
            f"grep -rl 'confirmation-{identity}@' /var/lib/mail-sink/new | wc -l"
        )
        return found | {"mails arrived": int(arrived)}

    return count
