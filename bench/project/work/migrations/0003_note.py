from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('work', '0002_call'),
    ]

    operations = [
        migrations.CreateModel(
            name='Note',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', models.CharField(max_length=20)),
                ('version', models.CharField(max_length=30)),
            ],
        ),
    ]
