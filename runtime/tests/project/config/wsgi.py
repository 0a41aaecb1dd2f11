import os
import time

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
if os.environ.get("PROJECT_BROKEN"):
    raise RuntimeError("broken on purpose")
time.sleep(float(os.environ.get("PROJECT_IMPORT_SECONDS", "0")))
application = get_wsgi_application()
