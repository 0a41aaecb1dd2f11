"""The fixtures of every domain's tests; each domain may have tests in its own folder."""

import os
from urllib.parse import urlsplit, urlunsplit

from django.conf import settings

pytest_plugins = ["tests.fixtures"]


def apart(url: str, number: int) -> str:
    """The same Redis, another of its databases."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=f"/{int(parts.path.strip('/') or 0) + number}"))


# Test processes that run side by side have a PostgreSQL database each; in Redis they take two each.
if number := 2 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]):
    for name in ("CELERY_BROKER_URL", "CACHE_URL"):
        os.environ[name] = apart(os.environ[name], number)
    settings.CELERY_BROKER_URL = os.environ["CELERY_BROKER_URL"]
    settings.CACHES["default"]["LOCATION"] = os.environ["CACHE_URL"]
