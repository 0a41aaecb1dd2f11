"""Find the payments of a day without reading all; the release before goes on paying meanwhile."""

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("payments", "0001_initial")]
    operations = [
        AddIndexConcurrently("payment", models.Index(fields=["paid_at"], name="payment_paid_at"))
    ]
