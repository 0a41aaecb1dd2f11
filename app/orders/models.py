"""Products, orders and how far each order has come."""

import uuid

from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import Q
from django.templatetags.static import static
from django.urls import reverse
from django.utils import timezone

from celeriac.models import Dead


class Product(models.Model):
    name = models.CharField(max_length=60)
    slug = models.SlugField(unique=True)
    blurb = models.CharField(max_length=120)
    price_cents = models.PositiveIntegerField(validators=[MinValueValidator(1)])
    diameter_cm = models.PositiveSmallIntegerField(help_text="How much room it takes in the crate.")
    colour = models.CharField(max_length=7, help_text="As #rrggbb, for the picture of the crate.")
    position = models.PositiveSmallIntegerField(default=0)
    on_sale = models.BooleanField(default=True)

    class Meta:
        ordering = ["position", "name"]

    def __str__(self) -> str:
        return self.name

    @property
    def picture_url(self) -> str:
        """The product's own picture, or the shop's mark for one that staff have added."""
        try:
            return static(f"orders/{self.slug}.svg")
        except ValueError:
            return static("shop/mark.svg")


class Step(models.TextChoices):
    """What an order waits for. The order of the work is in steps.py."""

    PAYMENT = "payment", "Payment"
    PACKING = "packing", "Packing"
    INVOICE = "invoice", "Invoice"
    EMAIL = "email", "E-mail"
    DONE = "done", "Done"
    FAILED = "failed", "Failed"


class Card(models.TextChoices):
    """How the pretended bank behaves for this order."""

    GOOD = "good", "pays at once"
    FLAKY = "flaky", "answers only at the third try"
    DECLINED = "declined", "is declined"


class Order(models.Model):
    public_id = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    # One per shown form, so that a double click or a repeated POST is one order.
    form_key = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    # Names the files made for this order; a step that runs twice writes the same file.
    file_key = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    name = models.CharField(max_length=80)
    email = models.EmailField()
    card = models.CharField(max_length=10, choices=Card.choices, default=Card.GOOD)
    total_cents = models.PositiveIntegerField()
    created_at = models.DateTimeField(auto_now_add=True, db_index=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    step = models.CharField(max_length=10, choices=Step.choices, default=Step.PAYMENT)
    failed_step = models.CharField(max_length=10, choices=Step.choices, blank=True)
    note = models.CharField(max_length=200, blank=True, help_text="Shown to the customer.")

    # The durable task of the step: owed, running, or a dead letter. The database's own default is
    # for a release before this field, which still takes orders while this one is deployed.
    task_id = models.CharField(max_length=255, blank=True, default="", db_default="")

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"Order {self.number}"

    def get_absolute_url(self) -> str:
        return reverse("orders:order", args=[self.public_id])

    @property
    def number(self) -> str:
        """What people call the order."""
        return f"K-{self.pk:05d}"

    @property
    def is_finished(self) -> bool:
        return self.step in (Step.DONE, Step.FAILED)

    @property
    def is_stuck(self) -> bool:
        """Whether the step's task is a dead letter, so that the order waits for staff."""
        waits = bool(self.task_id) and not self.is_finished
        return waits and Dead.objects.filter(task_id=self.task_id).exists()


class OrderLine(models.Model):
    order = models.ForeignKey(Order, on_delete=models.CASCADE, related_name="lines")
    product = models.ForeignKey(Product, on_delete=models.PROTECT)
    quantity = models.PositiveSmallIntegerField(validators=[MinValueValidator(1)])
    price_cents = models.PositiveIntegerField()

    class Meta:
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint(fields=["order", "product"], name="one_line_per_product"),
            models.CheckConstraint(condition=Q(quantity__gte=1), name="line_quantity_positive"),
        ]

    def __str__(self) -> str:
        return f"{self.quantity} x {self.product}"

    @property
    def total_cents(self) -> int:
        return self.quantity * self.price_cents


class OrderStep(models.Model):
    """When a step of an order was done, and at which try."""

    order = models.ForeignKey(Order, on_delete=models.CASCADE, related_name="steps")
    step = models.CharField(max_length=10, choices=Step.choices)
    attempts = models.PositiveSmallIntegerField(default=0)
    started_at = models.DateTimeField(default=timezone.now)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint(fields=["order", "step"], name="one_row_per_order_and_step")
        ]

    def __str__(self) -> str:
        return f"{self.get_step_display()} of {self.order}"


class Crate(models.Model):
    """How the order lies in its crate: the effect of the packing step, once per order."""

    order = models.OneToOneField(Order, on_delete=models.CASCADE, related_name="crate")
    side_cm = models.PositiveSmallIntegerField()
    picture = models.FileField()
    packed_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"Crate of {self.order}"


class Invoice(models.Model):
    """The effect of the invoice step, once per order."""

    order = models.OneToOneField(Order, on_delete=models.CASCADE, related_name="invoice")
    document = models.FileField()
    issued_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"Invoice of {self.order}"


class Notice(models.Model):
    """The one row behind the line on the front page, renewed every minute by Beat."""

    orders_today = models.PositiveIntegerField(default=0)
    counted_at = models.DateTimeField()

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(pk=1), name="only_one_notice")]

    def __str__(self) -> str:
        return f"{self.orders_today} orders at {self.counted_at:%H:%M}"
