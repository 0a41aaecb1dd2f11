"""What a worker tells about its settings."""

import json

from celery import Celery

from celeriac import inspection


def test_a_worker_tells_celerys_settings_and_no_password(worker, ledger):
    service = worker("prefork", 1, CELERY_RESULT_BACKEND="rpc://").ready()
    told = ledger.run(
        "import json\nprint(json.dumps(app.control.inspect(timeout=5).conf(), default=str))",
    )
    (settings,) = json.loads(told.splitlines()[-1]).values()
    names = {name.upper() for name in settings}
    assert any(name.endswith("BROKER_URL") for name in names), service.log()
    assert not names & {"DATABASES", "CACHES", "INSTALLED_APPS", "SECRET_KEY", "EMAIL_HOST"}


def test_no_url_keeps_its_password_however_deep():
    app = Celery(broker="redis://worker:hush@redis-1:6379/0", set_as_current=False)
    app.conf.result_backend = "db+postgresql://app:hush@data/app"
    app.conf.broker_transport_options = {
        "sentinels": ["redis://x:hush@one", {"a": ("u://:hush@b",)}]
    }
    app.conf.broker_failover_strategy = None
    app.conf.OTHER_SERVICE = "https://api:hush@example.org"
    told = json.dumps(inspection.settings(app), default=str)
    assert "hush" not in told
    assert "redis-1:6379" in told
    assert "OTHER_SERVICE" not in told
