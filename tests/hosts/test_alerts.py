"""A task that fails: it is a dead letter, and somebody is told."""

import re
from pathlib import Path

import pytest

from support.hosts import until

testinfra_hosts = ["ansible://web"]
JOURNAL = ("*-worker-*", "*-beat@*", "mail-sink.service")
pytestmark = [pytest.mark.leaves_traces, pytest.mark.usefixtures("reference_project")]

# Beat looks every 15 s, and the digest waits for another 15.
TOLD_WITHIN = 75


@pytest.fixture(autouse=True)
def _notifications(variables):
    if not (Path(variables["app_path"]) / "notifications").is_dir():
        pytest.skip("the domain that tells staff was deleted")


@pytest.fixture
def failed(release):
    """The id of a task that cannot be done: it is given what is no number."""
    task_id = release.django(
        "from celery import current_app as app\n"
        "print(json.dumps(app.tasks['orders.invoice'].delay('no number').id))"
    )
    yield task_id
    release.django(
        "from celeriac.models import Dead\n"
        f"print(json.dumps(Dead.objects.filter(task_id={task_id!r}).delete()[0]))"
    )


@pytest.mark.spec("G7.5", "G6.6", "G6.5", "D7.2.5", "G1.6")
def test_staff_are_told_of_a_failed_task(failed, sql, variables, said_by):
    letter = f"select reason from celeriac_dead where task_id = '{failed}'"
    assert until(20, lambda: sql(letter), "there is no dead letter") == ["ValueError"]
    if "mail_sink" not in variables["group_names"]:
        pytest.skip("mail leaves this deployment")
    # On the host of the worker that told them.
    show = f"grep -rlZ {failed} /var/lib/mail-sink/new | xargs -0r cat"
    said = until(TOLD_WITHIN, lambda: said_by(["mail_sink"], show).strip(), "nobody was told")
    assert len(re.findall(r"^To: ", said, re.MULTILINE)) == 1, "told more than once"
    assert f"To: {variables['app_env']['SHOP_STAFF_EMAIL']}" in said
    assert "orders.invoice" in said
    assert "/admin/celeriac/dead/" in said
