"""What we tell people: customers on the page of their order, staff by e-mail and webhook."""

from django.db import models

from orders.models import Order


class Message(models.Model):
    """A line on the page of an order. Each kind once per order, however often its task runs."""

    order = models.ForeignKey(Order, on_delete=models.CASCADE, related_name="messages")
    kind = models.CharField(max_length=10)
    text = models.CharField(max_length=200)
    created_at = models.DateTimeField(auto_now_add=True, db_index=True)

    class Meta:
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint(fields=["order", "kind"], name="one_message_of_a_kind")
        ]

    def __str__(self) -> str:
        return self.text


class Alert(models.Model):
    """A dead letter that staff hear of; one that dies again is another alert."""

    task_id = models.CharField(max_length=255)
    deaths = models.PositiveIntegerField()
    task = models.CharField(max_length=255)
    reason = models.CharField(max_length=32)
    created_at = models.DateTimeField(auto_now_add=True, db_index=True)
    owed_at = models.DateTimeField(null=True, help_text="When a digest with it was owed.")
    mailed_at = models.DateTimeField(null=True)
    posted_at = models.DateTimeField(null=True, help_text="To the webhook.")

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(fields=["task_id", "deaths"], name="one_alert_per_death")
        ]

    def __str__(self) -> str:
        return f"{self.task}: {self.reason}"
