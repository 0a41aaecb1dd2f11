"""A project small enough to read; tests override settings by PROJECT_SETTINGS (JSON)."""

import json
import os
from urllib.parse import urlparse

SECRET_KEY = "only for tests"
ALLOWED_HOSTS = ["example.org"]
ROOT_URLCONF = "config.urls"
INSTALLED_APPS = ["django.contrib.contenttypes", "django_celery_beat", "celeriac", "jobs"]
MIDDLEWARE = ["django.middleware.common.CommonMiddleware"]
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

_url = urlparse(os.environ["DATABASE_URL"])
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": _url.hostname,
        "PORT": _url.port,
        "USER": _url.username,
        "PASSWORD": _url.password,
        "NAME": _url.path.lstrip("/"),
    }
    | json.loads(os.environ.get("PROJECT_DATABASE", "{}"))
}

CELERY_BROKER_URL = os.environ.get("CELERY_BROKER_URL")
CELERY_BROKER_TRANSPORT_OPTIONS = {"visibility_timeout": 600, "max_connections": 100}
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_TIME_LIMIT = 120
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_TASK_DEFAULT_QUEUE = "default"

if level := os.environ.get("PROJECT_LOGS"):
    from celeriac import logs

    LOGGING = logs.config(level)

globals().update(json.loads(os.environ.get("PROJECT_SETTINGS", "{}")))
