"""The web application, for gunicorn."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
os.environ.setdefault("BENCH_CONN_MAX_AGE", "60")  # a connection to PostgreSQL for each thread
application = get_wsgi_application()
