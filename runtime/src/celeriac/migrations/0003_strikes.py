from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("celeriac", "0002_history")]

    operations = [
        migrations.AddField(
            model_name="outbox",
            name="strikes",
            field=models.PositiveSmallIntegerField(default=0),
        ),
        # The release before inserts rows without it.
        migrations.RunSQL(
            "ALTER TABLE celeriac_outbox ALTER COLUMN strikes SET DEFAULT 0",
            migrations.RunSQL.noop,
        ),
    ]
