"""Orders leave their lease and their sweep to durable tasks.

The release before still runs while this is applied, so its columns stay in the table, with defaults
for the rows that the new release writes; after a rollback its sweep finds the open ones among them.
A later release removes the columns.
"""

import django.utils.timezone
from django.db import migrations, models

GONE = {
    "claimed_by": "''",
    "claimed_attempt": "0",
    "resends": "0",
    "resume_at": "now() + interval '5 minutes'",
}


class Migration(migrations.Migration):
    dependencies = [("orders", "0002_products")]
    operations = [
        migrations.AddField(
            "order", "task_id", models.CharField(blank=True, db_default="", default="", max_length=255)
        ),
        migrations.AlterField(
            "orderstep", "started_at", models.DateTimeField(default=django.utils.timezone.now)
        ),
        migrations.SeparateDatabaseAndState(
            database_operations=[
                migrations.RunSQL(
                    [f"ALTER TABLE orders_order ALTER {name} SET DEFAULT {value}"
                     for name, value in GONE.items()],
                    [f"ALTER TABLE orders_order ALTER {name} DROP DEFAULT" for name in GONE],
                )
            ],
            state_operations=[
                migrations.RemoveIndex("order", "order_stalled"),
                *(migrations.RemoveField("order", name) for name in [*GONE, "claimed_until"]),
            ],
        ),
    ]
