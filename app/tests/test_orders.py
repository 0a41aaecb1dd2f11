"""Placing, packing and billing an order."""

import base64
import itertools
import json
import math
import os
import time
import uuid

import pytest
from celery.exceptions import SoftTimeLimitExceeded
from django.core.files.storage import default_storage
from django.db import transaction
from kombu import pools

from config import celery_app
from orders import packing, services, steps
from orders.models import Crate, Invoice, Order, Step
from orders.problems import TemporaryProblem

from .conftest import free_port, move_to

ATTEMPT = steps.Attempt("task-1", 0)


@pytest.mark.django_db
class TestPlacing:
    @pytest.mark.spec("D2.3.2", "D2.3.1")
    @pytest.mark.django_db(transaction=True)
    def test_the_payment_is_sent_after_the_commit(self, place, broker):
        with transaction.atomic():
            place()
            assert broker.llen("default") == 0
        assert broker.llen("default") == 1

    @pytest.mark.spec("D2.3.4", "D7.3.4")
    @pytest.mark.django_db(transaction=True)
    def test_a_message_carries_an_id_and_nothing_personal(self, place, broker):
        order = place(name="Ada Secret", email="secret@example.org")
        message = broker.lindex("default", 0).decode()
        body = json.loads(base64.b64decode(json.loads(message)["body"]))
        assert body[0] == [order.pk]
        assert body[1] == {}
        assert "secret" not in message.lower()

    @pytest.mark.django_db(transaction=True)
    def test_a_broken_off_order_sends_nothing(self, place, broker):
        def place_and_fail() -> None:
            with transaction.atomic():
                place()
                raise RuntimeError

        with pytest.raises(RuntimeError):
            place_and_fail()
        assert broker.llen("default") == 0
        assert not Order.objects.exists()

    @pytest.mark.parametrize("quantities", [{}, {999: 1}])
    def test_nothing_and_unknown_things_cannot_be_ordered(self, place, quantities):
        with pytest.raises(ValueError, match="known products"):
            place(quantities=quantities)

    def test_the_same_form_key_is_the_same_order(self, place):
        key = uuid.uuid4()
        assert place(form_key=key).pk == place(form_key=key).pk


@pytest.mark.django_db(transaction=True)
class TestWithoutABroker:
    @pytest.fixture
    def no_broker(self, monkeypatch):
        """Celery's own producer, pointed at a port where nobody listens."""
        nowhere = celery_app.connection_for_write(f"redis://127.0.0.1:{free_port()}/0")
        monkeypatch.setattr(celery_app.amqp, "_producer_pool", pools.producers[nowhere])

    @pytest.mark.spec("G6.1")
    def test_an_order_is_kept_and_resumed_later(self, place, broker, no_broker, monkeypatch):
        began = time.monotonic()
        order = place()
        assert time.monotonic() - began < 2
        assert broker.llen("default") == 0
        monkeypatch.undo()
        Order.objects.filter(pk=order.pk).update(resume_at=order.created_at)
        steps._broker_away_until = 0.0
        assert steps.resume_stalled() == 1
        assert broker.llen("default") == 1

    def test_after_a_failure_the_broker_is_left_alone_for_a_while(self, place, no_broker, caplog):
        place()
        caplog.clear()
        place()
        assert "no broker" in caplog.text


def overlaps(packed: packing.Packed) -> list[tuple[packing.Root, packing.Root]]:
    return [
        (one, other)
        for one, other in itertools.combinations(packed.roots, 2)
        if math.hypot(one.x - other.x, one.y - other.y) < one.radius + other.radius - 0.03
    ]


class TestPacking:
    @pytest.mark.parametrize("count", [1, 2, 7, 20, 54])
    @pytest.mark.parametrize("effort", [0, 0.1])
    def test_every_root_has_a_place_of_its_own(self, count, effort):
        roots = [packing.Root("r", "#fff", radius) for radius in [7, 3, 4.5, 4, 3.5, 3] * 9][:count]
        packed = packing.pack(roots, seed=1, effort=effort)
        assert len(packed.roots) == count
        assert not overlaps(packed)
        for root in packed.roots:
            assert root.radius - 0.03 <= root.x <= packed.side_cm - root.radius + 0.03
            assert root.radius - 0.03 <= root.y <= packed.side_cm - root.radius + 0.03

    def test_the_same_order_gives_the_same_crate(self):
        roots = [packing.Root("r", "#fff", 4)] * 5
        assert packing.pack(roots, 7, 0.05) == packing.pack(roots, 7, 0.05)
        assert packing.pack(roots, 7, 0.05) != packing.pack(roots, 8, 0.05)

    def test_thinking_finds_a_smaller_crate(self):
        roots = [packing.Root("r", "#fff", radius) for radius in (7, 7, 4, 4, 3)]
        assert packing.pack(roots, 1, 0.3).side_cm < packing.pack(roots, 1, 0).side_cm

    def test_too_much_is_refused(self):
        with pytest.raises(ValueError, match="do not fit"):
            packing.pack([packing.Root("r", "#fff", 30)] * 9, 1, 0)


@pytest.mark.django_db
class TestPapers:
    def test_the_crate_is_drawn(self, place):
        order = move_to(place(), Step.PACKING)
        assert services.pack(order.pk, ATTEMPT) == "done"
        picture = default_storage.open(Crate.objects.get().picture.name).read()
        assert picture.startswith(b"<svg")
        assert picture.count(b"<circle") == sum(line.quantity for line in order.lines.all())
        assert b"<script" not in picture
        assert b"style" not in picture

    @pytest.mark.spec("G3.6")
    def test_after_a_time_limit_the_next_attempt_thinks_less(self, place, settings, monkeypatch):
        settings.SHOP_PACKING_EFFORT = 1
        order = move_to(place(), Step.PACKING)
        efforts = []

        def pack(roots, seed, effort):
            efforts.append(effort)
            if effort > 0.1:
                raise SoftTimeLimitExceeded
            return packing.Packed(20, ())

        monkeypatch.setattr(packing, "pack", pack)
        for number in range(2):
            with pytest.raises(TemporaryProblem, match="longer than usual"):
                services.pack(order.pk, steps.Attempt("task-1", number))
        assert services.pack(order.pk, steps.Attempt("task-1", 2)) == "done"
        assert efforts == [1, 1 / 4, 1 / 16]

    @pytest.mark.spec("G3.4")
    def test_the_invoice_is_written_once_under_an_unguessable_name(self, place):
        order = move_to(place(name="Zoë Łukasz"), Step.INVOICE)
        assert services.invoice(order.pk, ATTEMPT) == "done"
        assert services.invoice(order.pk, ATTEMPT) == "skipped"
        name = Invoice.objects.get().document.name
        assert name == f"orders/{order.file_key}/invoice.pdf"
        assert default_storage.open(name).read().startswith(b"%PDF-")

    def test_a_full_disk_is_told_and_tried_again(self, place, settings, tmp_path):
        settings.MEDIA_ROOT = tmp_path / "a-file" / "media"
        (tmp_path / "a-file").write_text("in the way")
        order = move_to(place(), Step.INVOICE)
        with pytest.raises(TemporaryProblem):
            services.invoice(order.pk, ATTEMPT)
        order.refresh_from_db()
        assert "trying again" in order.note

    def test_the_web_server_may_read_the_files(self, place):
        order = move_to(place(), Step.INVOICE)
        services.invoice(order.pk, ATTEMPT)
        path = Invoice.objects.get().document.path
        assert os.stat(path).st_mode & 0o777 == 0o644
        assert os.stat(os.path.dirname(path)).st_mode & 0o777 == 0o755


@pytest.mark.django_db
def test_orders_of_today_are_counted(place):
    place()
    old = place()
    Order.objects.filter(pk=old.pk).update(created_at="2020-01-01T00:00Z")
    assert services.count_today().orders_today == 1
    assert services.count_today().pk == 1
