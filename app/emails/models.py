"""The mails we send."""

from django.db import models

from orders.models import Order


class Mail(models.Model):
    """One mail; its unique key keeps a step that runs twice from writing a second one."""

    key = models.CharField(max_length=80, unique=True)
    order = models.ForeignKey(Order, on_delete=models.CASCADE, related_name="mails")
    to = models.EmailField()
    subject = models.CharField(max_length=120)
    # The same for every try, so that a mail that did go out twice is shown once by mail readers.
    message_id = models.CharField(max_length=200, unique=True)
    tries = models.PositiveSmallIntegerField(default=0)
    created_at = models.DateTimeField(auto_now_add=True)
    sent_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return self.subject
