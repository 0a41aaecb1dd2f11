"""Settings of the shop. What differs between machines comes from environment variables."""

from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

from celeriac import logs

from . import env

BASE_DIR = Path(__file__).resolve().parent.parent

DEBUG = env.boolean("DEBUG", default=False)
SECRET_KEY = env.text("SECRET_KEY", write="<50 or more random characters>")
# Keys that what was signed before, or will be after a change, is still known by.
SECRET_KEY_FALLBACKS = [
    key for key in env.text("SECRET_KEY_FALLBACKS", write="<keys>", default="").split(",") if key
]
APP_DOMAIN = env.text(
    "APP_DOMAIN", write="shop.example.org", default="localhost" if DEBUG else env._UNSET
)
DATA_DIR = Path(env.text("APP_DATA_DIR", write="/var/lib/shop", default=BASE_DIR / "data"))

ALLOWED_HOSTS = [name.strip() for name in APP_DOMAIN.split(",")]
if any("/" in name or ":" in name or not name for name in ALLOWED_HOSTS):
    raise ImproperlyConfigured(
        f"APP_DOMAIN is {APP_DOMAIN!r}. Write host names only, without scheme or port, as"
        " APP_DOMAIN=shop.example.org"
    )
if DEBUG:
    ALLOWED_HOSTS += ["localhost", "127.0.0.1", "[::1]"]

# The domains: each is a folder, and a queue for its tasks. What computes and what waits never share
# one: cpu (prefork) consumes default, orders and reports; io (gevent) payments, emails and
# notifications.
DOMAINS = {
    "orders": "orders",
    "payments": "payments",
    "emails": "emails",
    "notifications": "notifications",
    "reports": "reports",
    "maintenance": "default",
}

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django_celery_beat",
    "django_celery_results",
    # Its tables hold the tasks that are owed and those that died.
    "celeriac",
    *DOMAINS,
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "config.urls"
WSGI_APPLICATION = "config.wsgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

# Database and cache

DATABASES = {"default": env.database("DATABASE_URL")}
if env.text("DATABASE_DIRECT_URL", write="postgres://…", default=""):
    # The first leads to PgBouncer, which gives a session for a transaction; this one goes round it.
    DATABASES["celeriac"] = env.database("DATABASE_DIRECT_URL")
    DATABASES["default"]["DISABLE_SERVER_SIDE_CURSORS"] = True
for _database in DATABASES.values():
    # Web threads and prefork children keep their connection for a minute.
    _database |= {"CONN_MAX_AGE": 60, "CONN_HEALTH_CHECKS": True}
    _database["OPTIONS"].setdefault("connect_timeout", 5)
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": env.url("CACHE_URL", ("redis", "rediss"), write="redis://127.0.0.1:6380/0"),
        "OPTIONS": {"socket_timeout": 2, "socket_connect_timeout": 2},
    }
}

# Security: nginx in front ends TLS, sends X-Forwarded-Proto, HSTS and the Content-Security-Policy.

SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
SECURE_SSL_REDIRECT = not DEBUG
SECURE_REDIRECT_EXEMPT = [r"^health/$"]
SECURE_REFERRER_POLICY = "same-origin"
SESSION_COOKIE_SECURE = not DEBUG
CSRF_COOKIE_SECURE = not DEBUG
CSRF_COOKIE_HTTPONLY = True
X_FRAME_OPTIONS = "DENY"
# W004 asks for HSTS, which nginx sends.
SILENCED_SYSTEM_CHECKS = ["security.W004"]

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]

# Language and time

LANGUAGE_CODE = "en-gb"
TIME_ZONE = "UTC"
USE_TZ = True

# Files

STATIC_URL = "/static/"
STATIC_ROOT = DATA_DIR / "static"
STATICFILES_DIRS = [BASE_DIR / "static"]
MEDIA_URL = "/media/"
MEDIA_ROOT = DATA_DIR / "media"
# Workers write papers that web servers hand out: in a folder, or in the database where these are on
# different hosts. A step that runs again writes the same file again, not a second one beside it.
APP_FILES = env.text("APP_FILES", write="folder", default="folder")
if APP_FILES not in ("folder", "database"):
    raise ImproperlyConfigured(
        f"APP_FILES is {APP_FILES!r}. Write APP_FILES=folder or APP_FILES=database"
    )
STORAGES = {
    "default": {"BACKEND": "celeriac.files.DatabaseStorage"}
    if APP_FILES == "database"
    else {
        "BACKEND": "django.core.files.storage.FileSystemStorage",
        "OPTIONS": {"allow_overwrite": True},
    },
    # Hashed names: pages of the old release find their files while the new one comes up.
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.ManifestStaticFilesStorage"},
}
# nginx is another user; the folder above keeps everybody else out.
FILE_UPLOAD_PERMISSIONS = 0o644
FILE_UPLOAD_DIRECTORY_PERMISSIONS = 0o755

# E-mail

EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
globals().update(env.mail("EMAIL_URL"))
# Seconds for each answer of the mail server: this is what ends a stuck task on gevent.
EMAIL_TIMEOUT = 5
DEFAULT_FROM_EMAIL = env.text(
    "DEFAULT_FROM_EMAIL", write="shop@example.org", default=f"Knobbly <hello@{ALLOWED_HOSTS[0]}>"
)
SERVER_EMAIL = DEFAULT_FROM_EMAIL
# Who hears of tasks that need a hand: addresses, and a chat's webhook. Neither has to be there.
ADMINS = [
    ("Staff", address.strip())
    for address in env.text("SHOP_STAFF_EMAIL", write="staff@example.org", default="").split(",")
    if address.strip()
]
SHOP_ALERT_WEBHOOK = env.optional_url(
    "SHOP_ALERT_WEBHOOK", ("https", "http"), write="https://chat.example.org/hooks/shop"
)

# Celery. Tasks are durable: PostgreSQL owes them until their effect is there, Redis carries them.

CELERY_BROKER_URL = env.url(
    "CELERY_BROKER_URL", ("redis", "rediss"), write="redis://127.0.0.1:6379/0"
)
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None
CELERY_BROKER_TRANSPORT_OPTIONS = {
    # Longer than the longest task; a copy that comes after it finds its row taken, and is dropped.
    "visibility_timeout": 600,
    "unacked_restore_interval": 10,
    "unacked_restore_throttle": 1,
    # Without these a publish to a frozen Redis hangs for ever.
    "socket_timeout": 5,
    "socket_connect_timeout": 3,
    "socket_keepalive": True,
    "health_check_interval": 25,
    # Above the concurrency of the largest gevent pool; kombu's 10 makes its acks fail.
    "max_connections": 300,
}
CELERY_TIMEZONE = "UTC"
CELERY_TASK_SERIALIZER = "json"
CELERY_RESULT_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]

CELERY_TASK_DEFAULT_QUEUE = "default"
CELERY_TASK_CREATE_MISSING_QUEUES = True
CELERY_TASK_ROUTES = {f"{domain}.*": {"queue": queue} for domain, queue in DOMAINS.items()}

# For Celery's own tasks, which are not durable, and for a drain that ends before its tasks do.
CELERY_TASK_ACKS_LATE = True
# reject_on_worker_lost would run a task that kills its worker for ever; this counts as a retry.
CELERY_TASK_RETRY_ON_WORKER_LOST = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
# Of tasks that wait for others and have no limit of their own (seconds): network timeouts end them
# long before, this what those do not see.
CELERY_TASK_TIME_LIMIT = 100

# Results cost more than most tasks: only the audited ones keep theirs (ignore_result=False).
CELERY_TASK_IGNORE_RESULT = True
CELERY_RESULT_BACKEND = "django-db"
CELERY_RESULT_EXTENDED = True
CELERY_RESULT_EXPIRES = 7 * 24 * 3600

CELERY_BEAT_SCHEDULER = "django_celery_beat.schedulers:DatabaseScheduler"
# Write down each run at once: a killed Beat must not forget what it has sent.
CELERY_BEAT_SYNC_EVERY = 1

# Logs go to stderr; the journal keeps them

LOG_LEVEL = env.text("LOG_LEVEL", write="INFO", default="INFO").upper()
if LOG_LEVEL not in ("DEBUG", "INFO", "WARNING", "ERROR"):
    raise ImproperlyConfigured(
        f"LOG_LEVEL is {LOG_LEVEL!r}. Write LOG_LEVEL=DEBUG, INFO, WARNING or ERROR"
    )
LOG_FORMAT = env.text("LOG_FORMAT", write="json", default="plain" if DEBUG else "json")
if LOG_FORMAT not in ("json", "plain"):
    raise ImproperlyConfigured(f"LOG_FORMAT is {LOG_FORMAT!r}. Write LOG_FORMAT=json or plain")
LOGGING = logs.config(LOG_LEVEL, LOG_FORMAT)

# The shop

# Where links in e-mails lead; set it when the site is not on port 443.
SHOP_URL = env.url(
    "SHOP_URL",
    ("https", "http"),
    write="https://shop.example.org",
    default=f"https://{ALLOWED_HOSTS[0]}",
).rstrip("/")
# The bank's address; without one a bank is pretended, with books in our own database.
SHOP_BANK_URL = env.optional_url("SHOP_BANK_URL", ("https", "http"), write="https://bank.example")
# Seconds that the pretended bank takes, and how hard the crate is thought about; 0 for load tests.
SHOP_BANK_SECONDS = env.number("SHOP_BANK_SECONDS", default=1.5, least=0, most=10)
SHOP_PACKING_EFFORT = env.number("SHOP_PACKING_EFFORT", default=1, least=0, most=10)
# Seconds until a customer hears that an order in trouble takes longer, and until staff hear of a
# dead letter that nobody has seen to.
SHOP_LATE_SECONDS = env.number("SHOP_LATE_SECONDS", default=120, least=0, most=3600)
SHOP_ALERT_SECONDS = env.number("SHOP_ALERT_SECONDS", default=15, least=0, most=3600)
SHOP_KEEP_PERSONAL_DATA_DAYS = 90
