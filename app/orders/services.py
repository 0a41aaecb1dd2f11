"""What the shop does with orders. Views and tasks call these; none of them knows about requests."""

import logging
import uuid

from django.conf import settings
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.db import IntegrityError, transaction
from django.utils import timezone

from . import documents, packing, steps
from .models import Crate, Invoice, Notice, Order, OrderLine, Product, Step
from .problems import PermanentProblem, TemporaryProblem

logger = logging.getLogger(__name__)


def place_order(
    *, name: str, email: str, card: str, quantities: dict[int, int], form_key: uuid.UUID
) -> Order:
    """Save an order and send it on its way. The same form key again returns the same order.

    `quantities` maps product ids to positive numbers; unknown or withdrawn ones raise ValueError.
    """
    products = Product.objects.filter(on_sale=True).in_bulk(quantities)
    if not quantities or len(products) != len(quantities) or min(quantities.values()) < 1:
        raise ValueError("an order needs known products and positive quantities")
    try:
        with transaction.atomic():
            order = Order.objects.create(
                form_key=form_key,
                name=name,
                email=email,
                card=card,
                total_cents=sum(products[pk].price_cents * n for pk, n in quantities.items()),
            )
            OrderLine.objects.bulk_create(
                OrderLine(
                    order=order,
                    product=products[pk],
                    quantity=n,
                    price_cents=products[pk].price_cents,
                )
                for pk, n in quantities.items()
            )
            steps.start(order)
    except IntegrityError:
        existing = Order.objects.filter(form_key=form_key).first()
        if existing is None:
            raise
        return existing
    logger.info("order %s placed", order.number)
    return order


def pack(order_id: int, tries: int = 1) -> str:
    """The packing step: which crate, and how everything lies in it."""
    # A try that ran into its time limit is followed by one that thinks less.
    effort = settings.SHOP_PACKING_EFFORT / 4 ** (tries - 1)
    return steps.run(
        order_id, Step.PACKING, lambda order: _find_crate(order, effort), _record_crate, tries
    )


def invoice(order_id: int, tries: int = 1) -> str:
    """The invoice step: a PDF under an unguessable name."""
    return steps.run(order_id, Step.INVOICE, _write_invoice, _record_invoice, tries)


def count_today() -> Notice:
    """Count the orders since midnight (UTC) for the front page."""
    now = timezone.now()
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    count = Order.objects.filter(created_at__gte=today).count()
    notice, _ = Notice.objects.update_or_create(
        pk=1, defaults={"orders_today": count, "counted_at": now}
    )
    return notice


def _find_crate(order: Order, effort: float) -> tuple[int, str]:
    roots = [
        packing.Root(line.product.slug, line.product.colour, line.product.diameter_cm / 2)
        for line in order.lines.select_related("product")
        for _ in range(line.quantity)
    ]
    try:
        packed = packing.pack(roots, seed=order.pk, effort=effort)
    except ValueError as error:
        raise PermanentProblem("This order is too large for our largest crate.") from error
    return packed.side_cm, _store(order, "crate.svg", documents.crate_picture(packed))


def _record_crate(order: Order, result: tuple[int, str]) -> None:
    side_cm, picture = result
    Crate.objects.create(order=order, side_cm=side_cm, picture=picture)


def _write_invoice(order: Order) -> str:
    return _store(order, "invoice.pdf", documents.invoice(order))


def _record_invoice(order: Order, document: str) -> None:
    Invoice.objects.create(order=order, document=document)


def _store(order: Order, name: str, content: bytes) -> str:
    """Write a file of the order, over the one of an earlier attempt."""
    try:
        return default_storage.save(f"orders/{order.file_key}/{name}", ContentFile(content))
    except OSError as error:
        logger.error("cannot write %s: %s", name, error)
        raise TemporaryProblem("We could not print your papers. We are trying again.") from error
