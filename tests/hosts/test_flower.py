"""Flower: shows every worker, asks for its password, and gives its metrics to nobody outside."""

import json
import re

import pytest

testinfra_hosts = ["ansible://flower"]
JOURNAL = ("*-flower*",)


@pytest.fixture
def login(variables):
    """The operator's login."""
    return variables["nginx_flower_user"], variables["nginx_flower_password"]


@pytest.fixture(scope="module")
def path(variables):
    """Flower's path on the site."""
    return variables["nginx_flower_path"]


@pytest.fixture(scope="module")
def inside(host, variables):
    """Return a function that asks Flower on its own host, without a password: status and body."""
    base = f"http://127.0.0.1:{variables['flower_port']}{variables['nginx_flower_path']}"

    def ask(page: str) -> tuple[int, str]:
        code = (
            "import json, urllib.request, urllib.error\n"
            "try: answer = urllib.request.urlopen({!r}, timeout=10)\n"
            "except urllib.error.HTTPError as error: answer = error\n"
            "print(json.dumps([answer.status, answer.read().decode()]))"
        ).format(f"{base}{page}")
        return tuple(json.loads(host.check_output("python3 -c %s", code)))

    return ask


@pytest.mark.spec("D5.1.1", "D7.3.3")
def test_without_a_password_it_is_401(site, path):
    assert site.request(path).status == 401


@pytest.mark.spec("D5.1.1")
@pytest.mark.parametrize(("user", "password"), [("admin", "wrong"), ("", ""), ("root", "admin")])
def test_with_a_wrong_password_it_is_401(site, path, user, password):
    assert site.request(path, login=(user, password)).status == 401


@pytest.mark.spec("D5.1.1", "D5.1.3", "D7.2.3", "G7.1", "D5.1.4", "D1.1.4")
def test_with_the_password_it_is_200(site, path, login):
    answer = site.request(path, login=login)
    assert answer.status == 200
    assert "Flower" in answer.text


def test_its_own_scripts_and_styles_arrive(site, path, login):
    page = site.request(path, login=login).text
    found = re.findall(r'href="([^"]+\.css[^"]*)"', page)
    assert found
    assert {site.request(link, login=login).status for link in found} == {200}


@pytest.mark.spec("D5.1.3")
def test_its_path_without_the_last_slash_leads_to_it(site, path):
    answer = site.request(path.rstrip("/"))
    assert answer.status == 301
    assert answer.header("Location") == f"https://{site.host_header}{path}"


@pytest.mark.parametrize("page", ["metrics", "healthcheck"])
@pytest.mark.parametrize("how", ["{}", "{}/", "/{}", "%6d{}", "./{}", "{}?x=1", "x/../{}"])
def test_from_outside_its_open_pages_do_not_exist(site, path, login, page, how):
    page = page[1:] if how.startswith("%6d") and page == "metrics" else page
    assert site.request(path + how.format(page)).status in (401, 404)


@pytest.mark.parametrize("page", ["metrics", "healthcheck"])
def test_from_outside_they_do_not_exist_even_with_the_password(site, path, login, page):
    assert site.request(path + page, login=login).status == 404


@pytest.mark.spec("D5.2.1", "D6.4.5", "D6.4.3")
@pytest.mark.parametrize("page", ["metrics", "healthcheck"])
def test_on_its_own_host_they_answer(inside, page):
    status, body = inside(page)
    assert status == 200
    assert body


def test_on_its_own_host_it_asks_for_the_password_too(inside):
    assert inside("workers")[0] == 401


@pytest.mark.parametrize(
    "page", ["api/worker/shutdown/{}", "api/worker/pool/grow/{}", "api/task/revoke/{}"]
)
def test_it_shows_and_changes_nothing(site, path, login, variables, page):
    """A stolen password stops no worker."""
    refused = 403 if variables["flower_read_only"] else 404
    answer = site.request(path + page.format("nobody@nowhere"), data={"n": "1"}, login=login)
    assert answer.status == refused, answer.text[:300]
    assert site.request(f"{path}api/tasks?limit=1", login=login).status == 200


@pytest.mark.spec("D7.1.3", "G7.6", "G7.1")
def test_it_sees_every_pool_as_online(inside, pool, release):
    online = [
        line
        for line in inside("metrics")[1].splitlines()
        if line.startswith(f'flower_worker_online{{worker="{pool["name"]}-{release.id}@')
    ]
    assert online
    assert {line.rsplit(" ", 1)[1] for line in online} == {"1.0"}


@pytest.mark.spec("D5.1.2")
def test_it_keeps_what_it_knows(host, app_name, variables):
    """But not of all times: it has that in memory."""
    folder = host.file(f"/var/lib/{app_name}-flower")
    assert folder.mode == 0o700
    assert folder.user == f"{app_name}-flower"
    settings = host.file(f"/etc/{app_name}/flower.env").content_string
    assert 'FLOWER_PERSISTENT="True"' in settings
    assert f'FLOWER_MAX_TASKS="{variables["flower_max_tasks"]}"' in settings
