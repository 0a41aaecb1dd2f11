"""Settings of the project that the benchmarks run; BENCH_RUNTIME=no leaves celeriac out."""

import os
from urllib.parse import parse_qsl, urlsplit

RUNTIME = os.environ.get("BENCH_RUNTIME", "yes") == "yes"
DATABASE = urlsplit(os.environ["DATABASE_URL"])

SECRET_KEY = os.environ["SECRET_KEY"]
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "config.urls"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["work", "django_celery_beat", *(["celeriac"] if RUNTIME else [])]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": DATABASE.hostname,
        "PORT": DATABASE.port,
        "USER": DATABASE.username,
        "PASSWORD": DATABASE.password,
        "NAME": DATABASE.path.lstrip("/"),
        # Between hosts: whom to believe; a server that does not answer is given up soon.
        "OPTIONS": {**dict(parse_qsl(DATABASE.query)), "connect_timeout": 5},
        # Of the web server only, see wsgi.py: what workers do with theirs is measured.
        "CONN_MAX_AGE": int(os.environ.get("BENCH_CONN_MAX_AGE", "0")),
    }
}

CELERY_BROKER_URL = os.environ["CELERY_BROKER_URL"]
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "visibility_timeout": int(os.environ.get("BENCH_VISIBILITY_TIMEOUT", "3600")),
    "max_connections": 100,
    "socket_timeout": 5,
    "socket_connect_timeout": 3,
    "socket_keepalive": True,
}
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_DEFAULT_QUEUE = "work"
CELERY_TASK_TIME_LIMIT = 60
CELERY_TASK_SOFT_TIME_LIMIT = None
