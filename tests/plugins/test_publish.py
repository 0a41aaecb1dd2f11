"""Static files of all releases lie side by side, and none is ever half there."""

import importlib.util

import pytest

from support.inventory import ROOT

spec = importlib.util.spec_from_file_location("publish", ROOT / "roles/release/files/publish.py")
publish = importlib.util.module_from_spec(spec)
spec.loader.exec_module(publish)


@pytest.fixture
def folders(tmp_path):
    """What a release collected, and what nginx serves."""
    source, target = tmp_path / "release", tmp_path / "served"
    (source / "css").mkdir(parents=True)
    target.mkdir()
    (source / "css/site.abc.css").write_text("new")
    (source / "logo.svg").write_text("logo")
    return source, target


def test_what_is_new_or_different_is_copied_and_the_rest_stays(folders):
    source, target = folders
    (target / "logo.svg").write_text("old logo")
    (target / "site.old.css").write_text("of an older release")
    assert publish.publish(source, target) == 2
    assert (target / "css/site.abc.css").read_text() == "new"
    assert (target / "logo.svg").read_text() == "logo"
    assert (target / "site.old.css").exists()
    assert publish.publish(source, target) == 0


def test_a_file_is_replaced_at_once(folders):
    source, target = folders
    (target / "logo.svg").write_text("old logo")
    with (target / "logo.svg").open() as reader:
        publish.publish(source, target)
        assert reader.read() == "old logo"
    assert not list(target.rglob("*.unfinished"))
