"""The screen of playbooks/status.yml says what an operator must see."""

import importlib.util
from datetime import UTC, datetime

from support.inventory import ROOT

spec = importlib.util.spec_from_file_location("status_filters", ROOT / "plugins/filter/status.py")
filters = importlib.util.module_from_spec(spec)
spec.loader.exec_module(filters)

UNITS = """Id=shop-web.service
ActiveState=active

Id=shop-web@new.service
ActiveState=active
StatusText=serving with 5 workers
StateChangeTimestamp=Fri 2026-11-20 15:00:00 UTC
NRestarts=2

Id=shop-worker-cpu@old.service
ActiveState=deactivating
StatusText=2 tasks left
StateChangeTimestamp=Fri 2026-11-20 15:01:00 UTC
NRestarts=0
"""


def screen(**changes) -> str:
    """Return the screen of one host."""
    said = {
        "app_name": "shop",
        "status_releases": {"current": "new", "releases": ["new", "old"]},
        "status_host": {"steps": [{"stdout": UNITS}, {"stdout": ""}, {"stdout": ""}]},
        "status_app": {"steps": [{"stdout": "Beat: one leads\ndead letters: 0\n"}]},
        "status_deploys": {"holder": {}, "history": ["yesterday"]},
    }
    return "\n".join(filters.status_screen({"one": said | changes}, ["one"], "one"))


def test_it_names_releases_units_app_and_deploys():
    said = screen()
    for words in (
        "one: release new; others to go back to: old",
        "shop-web@new.service active since Fri 2026-11-20 15:00:00 UTC, 2 restarts: serving with",
        "shop-worker-cpu@old.service drains since",
        "2 tasks left",
        "Beat: one leads",
        "  yesterday",
    ):
        assert words in said
    assert "shop-web.service" not in said


def test_an_app_that_does_not_answer_leaves_the_rest():
    said = screen(status_app={"failed": True, "msg": "no database"})
    assert "the app did not answer: no database" in said
    assert "shop-web@new.service" in said


def test_a_host_that_does_not_answer_is_named():
    assert "one: did not answer" in screen(status_host={"unreachable": True})


def test_a_running_deploy_and_what_is_out_of_service_are_shown():
    holder = {"what": "deploy", "who": "alice", "machine": "desk", "process": 12}
    steps = [{"stdout": UNITS}, {"stdout": ""}, {"stdout": "shop-worker-cpu\n"}]
    said = screen(status_deploys={"holder": holder, "history": []}, status_host={"steps": steps})
    assert "a deploy runs: alice@desk, process 12" in said
    assert "out of service: shop-worker-cpu" in said


def test_certificates_have_their_days():
    text = "/etc/ssl/celeriac/shop.crt notAfter=Dec 20 15:00:00 2026 GMT\n"
    (line,) = filters.certificate_lines(text, datetime(2026, 11, 20, tzinfo=UTC))
    assert line == "  /etc/ssl/celeriac/shop.crt until 2026-12-20 (30 days)"


def test_without_the_first_web_server_the_rest_is_shown():
    """Ansible never asked it, or it went away meanwhile."""
    for away in ({}, {"unreachable": True, "msg": "no route"}):
        said = screen(status_app=away, status_deploys=away)
        assert "the app did not answer" in said
        assert "shop-web@new.service" in said
