"""Writing to customers over SMTP."""

import logging
import smtplib

from django.conf import settings
from django.core.mail import EmailMultiAlternatives
from django.db.models import F
from django.db.models.functions import Now
from django.template.loader import render_to_string

from orders import steps
from orders.models import Order, Step
from orders.problems import PermanentProblem, TemporaryProblem

from .models import Mail

logger = logging.getLogger(__name__)


def confirm(order_id: int, tries: int = 1) -> str:
    """The e-mail step. The mail goes out once; `_send` says what could double it."""
    return steps.run(order_id, Step.EMAIL, _send, _record, tries)


def _send(order: Order) -> None:
    """Send the confirmation, unless its row says that it went out.

    SMTP has no key against doubles: a worker killed between the server's "accepted" and the next
    statement sends it again, with the same Message-ID.
    """
    mail, _ = Mail.objects.get_or_create(
        key=f"confirmation-{order.public_id}",
        defaults={
            "order": order,
            "to": order.email,
            "subject": f"Your order {order.number} is packed",
            "message_id": f"<confirmation-{order.public_id}@{settings.ALLOWED_HOSTS[0]}>",
        },
    )
    if mail.sent_at:
        logger.info("the mail went out before, not sent again")
        return
    Mail.objects.filter(pk=mail.pk).update(tries=F("tries") + 1)
    try:
        _message(mail, order).send()
    except smtplib.SMTPRecipientsRefused as error:
        if all(code >= 500 for code, _ in error.recipients.values()):
            raise PermanentProblem(
                "The mail server refused your address, so there is no e-mail. All else is done."
            ) from error
        raise TemporaryProblem("The mail server is busy. We are trying again.") from error
    except (smtplib.SMTPException, OSError) as error:
        logger.warning("mail not sent: %s", error)
        raise TemporaryProblem("The mail server does not answer. We are trying again.") from error
    Mail.objects.filter(pk=mail.pk).update(sent_at=Now())


def _record(order: Order, result: None) -> None:
    """The mail's own row is the record; it was written the moment the server had accepted it."""


def _message(mail: Mail, order: Order) -> EmailMultiAlternatives:
    context = {
        "order": order,
        "lines": order.lines.select_related("product"),
        "url": settings.SHOP_URL + order.get_absolute_url(),
    }
    message = EmailMultiAlternatives(
        subject=mail.subject,
        body=render_to_string("emails/confirmation.txt", context),
        to=[mail.to],
        headers={"Message-ID": mail.message_id},
    )
    message.attach_alternative(render_to_string("emails/confirmation.html", context), "text/html")
    return message
