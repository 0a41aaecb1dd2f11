"""The Django app: the tables of durable tasks; dead letters and history for every task."""

import os
from typing import Any

from django.apps import AppConfig
from django.core import checks
from django.db.models.signals import post_migrate


class CeleriacConfig(AppConfig):
    name = "celeriac"
    verbose_name = "Celeriac"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from celeriac import deadletters, history, logs, rivals

        post_migrate.connect(let_read, sender=self)
        deadletters.connect()
        history.connect()
        logs.connect()
        rivals.connect()
        checks.register(check_database)


def let_read(sender: Any, using: str, **_: Any) -> None:
    """Let the role named by CELERIAC_READER, the exporter's, read these tables and no others."""
    from django.db import connections

    from celeriac.ledger import DATABASE

    reader = os.environ.get("CELERIAC_READER", "")
    if not reader or using != DATABASE:
        return
    with connections[using].cursor() as cursor:
        quote = connections[using].ops.quote_name
        tables = ", ".join(quote(model._meta.db_table) for model in sender.get_models())
        cursor.execute(f"GRANT SELECT ON {tables} TO {quote(reader)}")


def check_database(app_configs: Any, **_: Any) -> list[checks.CheckMessage]:
    """Refuse what the outbox cannot work with, before it is needed."""
    from django.db import connections

    from celeriac.ledger import DATABASE

    vendor = connections[DATABASE].vendor
    if vendor == "postgresql":
        return []
    return [
        checks.Error(
            f"Durable tasks need PostgreSQL, but DATABASES[{DATABASE!r}] is {vendor}.",
            hint="Use django.db.backends.postgresql there, or remove 'celeriac' from "
            "INSTALLED_APPS and the base class celeriac.Task from the tasks.",
            id="celeriac.E001",
        )
    ]
