import os
import sys
import time

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
if os.environ.get("PROJECT_BROKEN"):
    raise RuntimeError("broken on purpose")
time.sleep(float(os.environ.get("PROJECT_IMPORT_SECONDS", "0")))
application = get_wsgi_application()
print(f"loaded by {os.getpid()}", file=sys.stderr, flush=True)
if os.environ.get("PROJECT_ASKS_AT_IMPORT"):
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
