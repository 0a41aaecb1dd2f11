"""What tasks read and write."""

from django.db import models
from django.db.models.functions import Now


class Effect(models.Model):
    """What a task has done: one row each time, so that a second time shows."""

    number = models.IntegerField()
    name = models.CharField(max_length=20)
    at = models.DateTimeField(db_default=Now())

    def __str__(self) -> str:
        return f"{self.name} {self.number}"


class Call(models.Model):
    """A call of a durable task: its row is there if, and only if, the task is owed."""

    at = models.DateTimeField(db_default=Now())

    def __str__(self) -> str:
        return f"call {self.pk}"


class Product(models.Model):
    """What a task that reads one row reads."""

    name = models.CharField(max_length=20)

    def __str__(self) -> str:
        return self.name


class Tick(models.Model):
    """A run of a periodic task: which one it was, and which Beat sent it."""

    run = models.UUIDField()
    entry = models.CharField(max_length=20)
    beat = models.IntegerField(help_text="the process")
    at = models.DateTimeField(db_default=Now())

    def __str__(self) -> str:
        return f"{self.entry} {self.run}"


class Note(models.Model):
    """What a hook, a page or a task of one release has left, in the order in which they came."""

    name = models.CharField(max_length=20)
    version = models.CharField(max_length=30)

    def __str__(self) -> str:
        return f"{self.name} of {self.version}"
