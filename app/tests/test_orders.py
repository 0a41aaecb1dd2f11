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

from celeriac.models import Outbox
from orders import packing, services
from orders.models import Crate, Invoice, Order, Step
from orders.problems import TemporaryProblem

from .fixtures import move_to


@pytest.mark.django_db
class TestPlacing:
    @pytest.mark.spec("D2.3.2", "D2.3.1")
    @pytest.mark.django_db(transaction=True)
    def test_the_payment_is_sent_after_the_commit(self, place, broker):
        with transaction.atomic():
            place()
            assert broker.llen("payments") == 0
        assert broker.llen("payments") == 1

    @pytest.mark.spec("D2.3.4", "D7.3.4")
    @pytest.mark.django_db(transaction=True)
    def test_a_message_carries_an_id_and_nothing_personal(self, place, broker):
        order = place(name="Ada Secret", email="secret@example.org")
        message = broker.lindex("payments", 0).decode()
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
        assert broker.llen("payments") == 0
        assert not Order.objects.exists()
        assert not Outbox.objects.exists()

    @pytest.mark.parametrize("quantities", [{}, {999: 1}])
    def test_nothing_and_unknown_things_cannot_be_ordered(self, place, quantities):
        with pytest.raises(ValueError, match="known products"):
            place(quantities=quantities)

    def test_the_same_form_key_is_the_same_order(self, place):
        key = uuid.uuid4()
        assert place(form_key=key).pk == place(form_key=key).pk


@pytest.mark.django_db(transaction=True)
class TestWithoutABroker:
    @pytest.mark.spec("G6.1")
    def test_an_order_is_kept_at_once_with_its_task(self, place, own_broker):
        own_broker.stop()
        began = time.monotonic()
        orders = [place(), place()]
        assert time.monotonic() - began < 2
        assert Outbox.objects.filter(task_id__in=[order.task_id for order in orders]).count() == 2


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
        assert services.pack(order.pk) == "done"
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
        for tries in (1, 2):
            with pytest.raises(SoftTimeLimitExceeded):
                services.pack(order.pk, tries)
        assert services.pack(order.pk, 3) == "done"
        assert efforts == [1, 1 / 4, 1 / 16]

    @pytest.mark.spec("G3.4")
    def test_the_invoice_is_written_once_under_an_unguessable_name(self, place):
        order = move_to(place(name="Zoë Łukasz"), Step.INVOICE)
        assert services.invoice(order.pk) == "done"
        assert services.invoice(order.pk) == "skipped"
        name = Invoice.objects.get().document.name
        assert name == f"orders/{order.file_key}/invoice.pdf"
        assert default_storage.open(name).read().startswith(b"%PDF-")

    def test_a_full_disk_is_told_and_tried_again(self, place, settings, tmp_path):
        settings.MEDIA_ROOT = tmp_path / "a-file" / "media"
        (tmp_path / "a-file").write_text("in the way")
        order = move_to(place(), Step.INVOICE)
        with pytest.raises(TemporaryProblem, match="trying again"):
            services.invoice(order.pk)

    def test_the_web_server_may_read_the_files(self, place):
        order = move_to(place(), Step.INVOICE)
        services.invoice(order.pk)
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
