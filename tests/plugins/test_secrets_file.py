"""Secrets in a file of variables, and which values of one are valid."""

import importlib.util

import pytest
import yaml
from ansible.errors import AnsibleLookupError

from support.inventory import ROOT


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


edited = load(ROOT / "plugins/action/secrets_file.py").edited
lookup = load(ROOT / "plugins/lookup/valid_secrets.py").LookupModule


class AsItIs:
    """Stands in for Ansible's templar."""

    def template(self, value):
        return value


def valid(name, **variables):
    return lookup(templar=AsItIs()).run([name], variables)


def test_lines_of_others_stay_and_a_name_is_there_once():
    before = "---\n# ours\nvault_a: old\nvault_ab: stays\nvault_a: older\n"
    after = edited(before, {"vault_a": 'new "one": #1\nline'}, [])
    assert yaml.safe_load(after) == {"vault_ab": "stays", "vault_a": 'new "one": #1\nline'}
    assert "# ours" in after


def test_what_shall_not_be_there_is_removed():
    assert yaml.safe_load(edited("vault_a: x\nvault_b: y\n", {}, ["vault_b", "vault_c"])) == {
        "vault_a": "x"
    }


def test_the_value_in_use_comes_first():
    found = {"vault_a": "now", "vault_a_previous": "before", "vault_a_next": "soon"}
    assert valid("vault_a", **found) == ["now", "soon", "before"]


@pytest.mark.parametrize("other", ["", None, "now"])
def test_no_value_counts_twice_or_empty(other):
    assert valid("vault_a", vault_a="now", vault_a_previous=other) == ["now"]


def test_a_secret_that_is_not_there_is_named():
    with pytest.raises(AnsibleLookupError, match="vault_gone"):
        valid("vault_gone", vault_a="now")
