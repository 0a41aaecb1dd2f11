"""Our books, and those of the pretended bank."""

from django.db import models

from orders.models import Order


class Payment(models.Model):
    """What we were paid: the effect of the payment step, once per order."""

    order = models.OneToOneField(Order, on_delete=models.PROTECT, related_name="payment")
    amount_cents = models.PositiveIntegerField()
    reference = models.CharField(max_length=40, unique=True, help_text="The bank's.")
    paid_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-id"]
        indexes = [models.Index(fields=["paid_at"], name="payment_paid_at")]

    def __str__(self) -> str:
        return f"Payment {self.reference}"


class BankEntry(models.Model):
    """The pretended bank's side: one row per key, however often it is asked."""

    key = models.CharField(max_length=64, unique=True)
    amount_cents = models.PositiveIntegerField()
    asked = models.PositiveSmallIntegerField(default=0, help_text="How often it was asked.")
    # NULL until the bank has answered: many may lack one, but none may share one.
    reference = models.CharField(max_length=40, null=True, unique=True)  # noqa: DJ001

    class Meta:
        verbose_name_plural = "bank entries"

    def __str__(self) -> str:
        return self.key
