"""The release before still takes orders while this one's migrations are applied."""

import uuid

import pytest
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from orders import steps
from orders.models import Order, Step

from .fixtures import owed

BEFORE = [("orders", "0002_products")]
FIELDS = {
    "public_id": uuid.uuid4,
    "form_key": uuid.uuid4,
    "file_key": uuid.uuid4,
    "name": "Ada Root",
    "email": "ada@example.org",
    "total_cents": 320,
}


def migrate(*targets: tuple[str, str]):
    executor = MigrationExecutor(connection)
    executor.migrate([*targets])
    return executor.loader.project_state([*targets]).apps


@pytest.fixture
def before(transactional_db):
    """The models of the release before, with its tables; afterwards all is as it was."""
    latest = MigrationExecutor(connection).loader.graph.leaf_nodes()
    yield migrate(*BEFORE)
    migrate(*latest)


@pytest.mark.spec("G11.1")
def test_old_and_new_release_write_the_same_table(before):
    from django.utils import timezone

    old = before.get_model("orders", "Order")

    def take(model, **fields: object):
        values = {name: make() if callable(make) else make for name, make in FIELDS.items()}
        return model.objects.create(**values, **fields)

    waiting = take(old, resume_at=timezone.now())
    migrate(("orders", "0003_durable_tasks"))

    # Both at once, as during a deploy.
    late = take(old, resume_at=timezone.now())
    late.refresh_from_db()
    new = take(Order)
    seen_by_old = old.objects.get(pk=new.pk)
    assert (seen_by_old.claimed_by, seen_by_old.claimed_until) == ("", None)
    # Its sweep leaves new orders alone, and would find them after a rollback.
    assert 200 < (seen_by_old.resume_at - timezone.now()).total_seconds() < 400

    # A message of the release before carries no row; the next step is owed all the same.
    for order in (waiting, late):
        assert steps.run(order.pk, Step.PAYMENT, lambda _: None, lambda *_: None) == "done"
        assert owed(order) == ["orders.pack"]
