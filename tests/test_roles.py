"""Every role keeps its contract: defaults and argument_specs agree, and a README explains it."""

from pathlib import Path

import pytest
import yaml

from support.inventory import ROOT

ROLES = sorted(path for path in (ROOT / "roles").iterdir() if path.is_dir())


@pytest.fixture(params=ROLES, ids=lambda path: path.name)
def role(request) -> Path:
    """The folder of one role."""
    return request.param


def options(role: Path) -> dict:
    """Return the options of the role's main entry point."""
    return yaml.safe_load((role / "meta/argument_specs.yml").read_text())["argument_specs"]["main"][
        "options"
    ]


def defaults(role: Path) -> dict:
    """Return the role's defaults."""
    path = role / "defaults/main.yml"
    return (yaml.safe_load(path.read_text()) or {}) if path.exists() else {}


def test_it_has_a_contract(role):
    assert (role / "meta/argument_specs.yml").exists()


def test_every_default_is_the_one_of_the_contract(role):
    stated = {name: spec["default"] for name, spec in options(role).items() if "default" in spec}
    # Folded text ends with a line break in one file and not in the other.
    assert {name: tidy(value) for name, value in defaults(role).items()} == {
        name: tidy(value) for name, value in stated.items()
    }


def tidy(value):
    """Return text without the blanks around it, anything else as it is."""
    return value.strip() if isinstance(value, str) else value


def test_what_is_required_has_no_default(role):
    required = {name for name, spec in options(role).items() if spec.get("required")}
    assert required & set(defaults(role)) == set()


def test_every_option_is_explained(role):
    assert [name for name, spec in options(role).items() if not spec.get("description")] == []


def test_its_own_names_begin_with_its_name(role):
    strangers = [name for name in defaults(role) if not name.startswith(f"{role.name}_")]
    assert strangers == []


def test_a_readme_explains_it(role):
    assert (role / "README.md").exists()


@pytest.mark.parametrize(
    "main", sorted((ROOT / "roles").glob("*/tasks/main.yml")), ids=lambda path: path.parts[-3]
)
def test_tasks_main_is_a_table_of_contents(main):
    tasks = yaml.safe_load(main.read_text())
    kinds = {key for task in tasks for key in task if key.startswith("ansible.builtin.")}
    assert kinds <= {"ansible.builtin.import_tasks", "ansible.builtin.include_tasks"}
