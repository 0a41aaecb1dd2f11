from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="Dead",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("task", models.CharField(max_length=255)),
                (
                    "queue",
                    models.CharField(
                        help_text="The list in Redis: queue and priority.", max_length=255
                    ),
                ),
                ("message", models.TextField()),
                ("error", models.TextField(blank=True)),
                ("task_id", models.CharField(max_length=255, unique=True)),
                ("durable", models.BooleanField()),
                ("reason", models.CharField(max_length=32)),
                ("deaths", models.PositiveIntegerField(default=1)),
                ("died_at", models.DateTimeField(db_index=True)),
            ],
            options={
                "verbose_name": "dead letter",
            },
        ),
        migrations.CreateModel(
            name="Worker",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("name", models.CharField(max_length=255)),
                ("seen_at", models.DateTimeField()),
                ("held", models.JSONField()),
            ],
        ),
        migrations.CreateModel(
            name="Head",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("queue", models.CharField(max_length=255)),
                ("at", models.DateTimeField()),
                ("seq", models.BigIntegerField()),
            ],
            options={
                "indexes": [models.Index(fields=["queue", "at"], name="celeriac_head_at")],
            },
        ),
        migrations.CreateModel(
            name="Outbox",
            fields=[
                ("task_id", models.CharField(max_length=255)),
                ("task", models.CharField(max_length=255)),
                (
                    "queue",
                    models.CharField(
                        help_text="The list in Redis: queue and priority.", max_length=255
                    ),
                ),
                ("message", models.TextField()),
                ("error", models.TextField(blank=True)),
                ("seq", models.BigAutoField(primary_key=True, serialize=False)),
                ("due_at", models.DateTimeField()),
                ("sent_at", models.DateTimeField(null=True)),
                ("sends", models.PositiveSmallIntegerField()),
                ("created_at", models.DateTimeField()),
            ],
            options={
                "verbose_name": "task in the outbox",
                "verbose_name_plural": "outbox",
                "indexes": [
                    models.Index(
                        condition=models.Q(("sent_at__isnull", True)),
                        fields=["due_at"],
                        name="celeriac_outbox_due",
                    ),
                    models.Index(
                        condition=models.Q(("sent_at__isnull", False)),
                        fields=["queue", "seq"],
                        name="celeriac_outbox_sent",
                    ),
                ],
            },
        ),
        # Rows come and go: clean up often, or looking for the lowest one gets slow.
        migrations.RunSQL(
            "ALTER TABLE celeriac_outbox SET (autovacuum_vacuum_scale_factor = 0,"
            " autovacuum_vacuum_threshold = 2000, autovacuum_analyze_threshold = 10000)",
            migrations.RunSQL.noop,
        ),
    ]
