"""No secret of the inventory is where anybody but root could read it."""

import pytest

from support.secrets import PLACES, search

testinfra_hosts = ["ansible://all"]


@pytest.fixture(scope="module")
def found(host, inventory):
    """Where the secrets of the inventory appear on the host, by kind of place."""
    return search(host, inventory.path)


@pytest.mark.spec("D7.3.4", "D6.3.2")
@pytest.mark.parametrize("place", PLACES)
def test_no_secret_is_in(found, place):
    assert found[place] == []


@pytest.mark.spec("D6.3.2")
def test_what_must_know_a_secret_has_it_in_a_file_of_roots(found, release, variables):
    """Also shows that the search finds what is there; a host without the app knows nothing."""
    known = {secret for secret, path, *_ in found["files of ours"] if release.id in path}
    if not set(variables["celeriac_app_groups"]) & set(variables["group_names"]):
        assert known == set()
        return
    assert known >= {
        "vault_postgresql_password",
        "vault_postgresql_app_password",
        "vault_secret_key",
    }
    roles = {"web": "producer", "worker": "worker", "beat": "beat"}
    wanted = {user for role, user in roles.items() if role in variables["release_roles"]}
    users = {f"vault_redis_{user}_password" for user in roles.values()}
    assert known & users == {f"vault_redis_{user}_password" for user in wanted}


@pytest.mark.spec("D6.3.2")
def test_every_file_with_a_secret_is_roots_alone(found):
    assert [row for row in found["files of ours"] if row[2:] != ["0600", 0]] == []


def test_the_operators_password_is_only_where_it_is_needed(found):
    places = {
        path for secret, path, *_ in found["files of ours"] if secret == "vault_admin_password"
    }
    assert {path for path in places if not path.endswith((".once", "flower.env"))} == set()


def test_the_key_of_the_ca_is_not_on_the_host(found):
    assert "vault_ca_key" in found["looked for"]
    assert [row for row in found["files of ours"] if row[0] == "vault_ca_key"] == []
