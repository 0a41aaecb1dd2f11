"""Sales reports, and the figures of the days that they are made of."""

from django.conf import settings
from django.db import models
from django.urls import reverse

from celeriac.models import Dead, Outbox


class Day(models.Model):
    """What one day sold. Counted when the day is over, and never again: every report reads it."""

    day = models.DateField(unique=True)
    orders = models.PositiveIntegerField()
    cents = models.PositiveBigIntegerField()
    products = models.JSONField(help_text="Name, quantity and cents of each.")

    class Meta:
        ordering = ["day"]

    def __str__(self) -> str:
        return f"{self.day}"


class Report(models.Model):
    """One report, from the first day to the last, both included."""

    # The period, if it is over: then the same report serves whoever asks again.
    key = models.CharField(max_length=80, unique=True)
    first_day = models.DateField()
    last_day = models.DateField()
    asked_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True
    )
    asked_at = models.DateTimeField(auto_now_add=True, db_index=True)
    # The ids of the tasks that work on it lead to their dead letters, and to the stored result.
    part_ids = models.JSONField(default=list)
    write_id = models.CharField(max_length=255, blank=True)
    orders = models.PositiveIntegerField(default=0)
    cents = models.PositiveBigIntegerField(default=0)
    # In the database, so that any web server can hand it out, to staff only.
    csv = models.TextField(blank=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        if self.first_day == self.last_day:
            return f"Sales of {self.first_day:%-d %B %Y}"
        return f"Sales from {self.first_day:%-d %B %Y} to {self.last_day:%-d %B %Y}"

    def get_absolute_url(self) -> str:
        return reverse("reports:report", args=[self.pk])

    @property
    def letters(self) -> models.QuerySet[Dead]:
        """The dead letters of its tasks, for which it waits."""
        return Dead.objects.filter(task_id__in=[*self.part_ids, self.write_id])

    @property
    def owed(self) -> models.QuerySet[Outbox]:
        """Its tasks that are not done yet."""
        return Outbox.objects.filter(task_id__in=[*self.part_ids, self.write_id])
