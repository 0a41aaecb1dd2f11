"""The operations page: for staff alone, over the real site, and it knows what runs here."""

import re

import pytest

testinfra_hosts = ["ansible://web"]
JOURNAL = ("*-web@*",)
pytestmark = pytest.mark.usefixtures("reference_project")

PATH = "/operations/"


@pytest.mark.spec("D7.2.3")
def test_a_stranger_is_sent_to_the_login(site):
    answer = site.request(PATH)
    assert answer.status == 302
    assert answer.header("Location") == f"/admin/login/?next={PATH}"


@pytest.mark.spec("D7.2.3")
def test_a_stranger_cannot_replay(site):
    assert site.request(f"{PATH}dead-letters/", data={"action": "replay"}).status in (302, 403)


@pytest.fixture
def staff(site, variables):
    """A member of staff who has logged in."""
    answer = site.log_in(variables["app_admin_user"], variables["app_admin_password"])
    assert (answer.status, answer.header("Location")) == (302, PATH)
    return site


@pytest.mark.leaves_traces
@pytest.mark.spec("D7.2.3", "D7.2.1", "G7.4", "G7.6")
def test_staff_sees_every_pool_and_queue(staff, variables, release):
    answer = staff.request(PATH)
    assert answer.status == 200
    for pool in variables["celery_workers"]:
        assert f"{pool['name']}-{release.id}@" in answer.text
        for queue in pool["queues"]:
            assert f">{queue}<" in answer.text
    assert "Redis does not answer" not in answer.text


@pytest.mark.leaves_traces
@pytest.mark.parametrize("kind", ["css", "js"])
def test_nginx_serves_what_it_needs(staff, kind):
    link = re.search(rf'"(/static/celeriac/[^"]+\.{kind})"', staff.request(PATH).text)
    assert link
    answer = staff.request(link[1])
    assert answer.status == 200
    assert "max-age=31536000" in ",".join(answer.all("Cache-Control"))


@pytest.mark.leaves_traces
def test_the_admin_leads_to_it(staff):
    assert f'href="{PATH}"' in staff.request("/admin/").text
