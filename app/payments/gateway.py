"""The bank, behind a small interface: `charge` is all that the shop knows of it."""

import secrets
import time
from http import HTTPStatus
from typing import Protocol

from django.conf import settings
from django.db.models import F

from config.http import post_json

from .models import BankEntry


class GatewayUnavailable(Exception):
    """No answer, or none in time: nobody knows whether the charge went through."""


class Declined(Exception):
    """The bank says no."""


class Gateway(Protocol):
    def charge(self, *, key: str, amount_cents: int, card: str) -> str:
        """Take the money and return the bank's reference.

        The same key never charges twice, and returns the first reference again. Raises Declined or
        GatewayUnavailable.
        """


class HttpBank:
    """A bank that is asked over HTTP, with the key that keeps it from charging twice."""

    # For each answer, longer than any good one takes: this is what ends a stuck task on gevent.
    SECONDS = 7

    def __init__(self, url: str) -> None:
        self.url = url

    def charge(self, *, key: str, amount_cents: int, card: str) -> str:
        try:
            status, said = post_json(
                self.url,
                {"amount_cents": amount_cents, "card": card},
                timeout=self.SECONDS,
                headers={"Idempotency-Key": key},
            )
        except OSError as error:
            raise GatewayUnavailable(f"no answer: {error}") from error
        if status == HTTPStatus.PAYMENT_REQUIRED:
            raise Declined
        if status != HTTPStatus.OK or not isinstance(said.get("reference"), str):
            # Whatever it means, nobody knows whether it charged: the key is asked again.
            raise GatewayUnavailable(f"the bank answers {status}")
        return said["reference"]


class PretendBank:
    """A bank inside this process, with books of its own, that takes its time as a real one does."""

    def charge(self, *, key: str, amount_cents: int, card: str) -> str:
        time.sleep(settings.SHOP_BANK_SECONDS)
        entry, _ = BankEntry.objects.get_or_create(key=key, defaults={"amount_cents": amount_cents})
        BankEntry.objects.filter(pk=entry.pk).update(asked=F("asked") + 1)
        entry.refresh_from_db()
        if card == "declined":
            raise Declined
        if card == "flaky" and entry.asked < 3:
            raise GatewayUnavailable("the bank does not answer")
        BankEntry.objects.filter(pk=entry.pk, reference=None).update(
            reference=f"BANK-{secrets.token_hex(8)}"
        )
        entry.refresh_from_db()
        return entry.reference


def gateway() -> Gateway:
    """The bank of SHOP_BANK_URL, or without one the pretended bank."""
    return HttpBank(settings.SHOP_BANK_URL) if settings.SHOP_BANK_URL else PretendBank()
