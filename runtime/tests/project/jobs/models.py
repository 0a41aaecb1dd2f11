from django.db import models


class Effect(models.Model):
    name = models.CharField(max_length=200)
    pid = models.IntegerField()


class Batch(models.Model):
    """What takes the place of a chord: how many of its parts are left."""

    left = models.IntegerField()
