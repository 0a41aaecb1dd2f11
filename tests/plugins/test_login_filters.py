"""Logins in URLs, and those of PostgreSQL."""

import importlib.util
from urllib.parse import unquote, urlsplit

from support.inventory import ROOT

spec = importlib.util.spec_from_file_location("logins", ROOT / "plugins/filter/logins.py")
logins = importlib.util.module_from_spec(spec)
spec.loader.exec_module(logins)


def test_a_password_of_any_characters_survives_a_url():
    url = logins.with_login(
        "redis://redis-1:6379/0?ssl_cert_reqs=required", "worker", "a/b@c:d#e %f"
    )
    parts = urlsplit(url)
    assert (parts.username, unquote(parts.password)) == ("worker", "a/b@c:d#e %f")
    assert (parts.hostname, parts.port, parts.path) == ("redis-1", 6379, "/0")
    assert parts.query == "ssl_cert_reqs=required"


def test_a_login_moves_from_a_url_to_a_line_of_netrc():
    url = "https://shop:a%2Fb@mirror.example.org:8443/simple?x=1"
    assert logins.without_login(url) == "https://mirror.example.org:8443/simple?x=1"
    assert logins.netrc(url) == "machine mirror.example.org login shop password a/b\n"


def test_a_url_without_a_login_stays_as_it_is():
    assert logins.without_login("https://mirror.example.org/simple") == (
        "https://mirror.example.org/simple"
    )
    assert logins.netrc("https://mirror.example.org/simple") == ""


def test_each_password_is_a_login_of_its_own():
    found = logins.postgresql_logins([{"name": "shop_app", "passwords": ["one", "two"]}])
    assert [login["user"] for login in found] == ["shop_app", "shop_app"]
    assert [login["password"] for login in found] == ["one", "two"]
    assert len({login["name"] for login in found}) == 2
    assert found[0]["name"] == logins.postgresql_login("shop_app", "one")


def test_the_name_of_a_login_stays_the_same():
    assert logins.postgresql_login("shop", "secret") == "shop_2bb80d53"
