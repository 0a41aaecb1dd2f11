"""The Django app: the tables of durable tasks; dead letters and history for every task."""

from typing import Any

from django.apps import AppConfig
from django.core import checks


class CeleriacConfig(AppConfig):
    name = "celeriac"
    verbose_name = "Celeriac"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from celeriac import deadletters, history

        deadletters.connect()
        history.connect()
        checks.register(check_database)


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
