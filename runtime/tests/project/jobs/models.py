from django.db import models


class Effect(models.Model):
    name = models.CharField(max_length=200)
    pid = models.IntegerField()
