"""Taking the money for an order."""

from orders import steps
from orders.models import Order, Step
from orders.problems import PermanentProblem, TemporaryProblem

from .gateway import Declined, GatewayUnavailable, gateway
from .models import Payment


def charge(order_id: int, tries: int = 1) -> str:
    """The payment step: charged once, by the bank's key and by our unique row."""
    return steps.run(order_id, Step.PAYMENT, _charge, _record, tries)


def _charge(order: Order) -> str:
    try:
        return gateway().charge(
            key=f"order-{order.public_id}", amount_cents=order.total_cents, card=order.card
        )
    except GatewayUnavailable as error:
        raise TemporaryProblem("The bank does not answer. We are trying again.") from error
    except Declined as error:
        raise PermanentProblem(
            "Your bank declined the payment. You have not been charged."
        ) from error


def _record(order: Order, reference: str) -> None:
    Payment.objects.create(order=order, amount_cents=order.total_cents, reference=reference)
