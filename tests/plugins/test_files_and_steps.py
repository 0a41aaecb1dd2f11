"""Several files in one call, and several commands in one call."""

import os
import stat

import pytest


@pytest.fixture
def write(module, tmp_path):
    """Return a function that ensures files in a folder."""
    folder = tmp_path / "deep/folder"
    return lambda **options: module("text_files", folder=str(folder), **options), folder


def test_files_are_written_with_their_mode_and_a_second_run_changes_nothing(write):
    run, folder = write
    assert run(files={"one": "1\n", "two": "2\n"}, mode="0600")["changed"]
    assert (folder / "one").read_text() == "1\n"
    assert stat.S_IMODE((folder / "two").stat().st_mode) == 0o600
    assert not run(files={"one": "1\n", "two": "2\n"}, mode="0600")["changed"]


def test_another_mode_is_a_change(write):
    run, folder = write
    run(files={"one": "1\n"}, mode="0600")
    assert run(files={"one": "1\n"}, mode="0644")["files"] == [str(folder / "one")]


def test_what_matches_and_is_not_wanted_goes_and_the_rest_stays(write):
    run, folder = write
    run(
        files={"worker-a@.service": "a", "worker-b@.service": "b", "web@.service": "w"}, mode="0644"
    )
    run(files={"worker-b@.service": "b"}, mode="0644", only=["worker-*"])
    assert sorted(path.name for path in folder.iterdir()) == ["web@.service", "worker-b@.service"]


def test_check_mode_writes_nothing(write):
    run, folder = write
    assert run(files={"one": "1"}, mode="0644", _ansible_check_mode=True)["changed"]
    assert not folder.exists()


def step(name: str, script: str, **options) -> dict:
    return {"name": name, "argv": ["sh", "-c", script], **options}


def test_steps_run_in_order_and_the_mark_comes_last(module, tmp_path):
    done = tmp_path / "done"
    said = module(
        "run_steps",
        steps=[step("Reading", "cat", stdin="hello"), step("Talking", "echo bye")],
        done=str(done),
    )
    assert [one["stdout"] for one in said["steps"]] == ["hello", "bye\n"]
    assert said["changed"]
    assert done.exists()


def test_the_first_that_fails_is_named_and_nothing_follows(module, tmp_path):
    done = tmp_path / "done"
    said = module(
        "run_steps",
        steps=[
            step("Migrating", "echo it is locked >&2; exit 3"),
            step("Following", f"touch {done}"),
        ],
        done=str(done),
    )
    assert said["failed"]
    assert said["msg"] == "Migrating failed with status 3.\nit is locked"
    assert not done.exists()


def test_a_command_that_is_not_there_fails_by_name(module):
    said = module("run_steps", steps=[{"name": "Trying", "argv": ["there-is-no-such-thing"]}])
    assert said["msg"].startswith("Trying failed with status 127.")


def test_a_step_whose_work_is_there_is_skipped(module, tmp_path):
    said = module("run_steps", steps=[step("Making", "false", creates=str(tmp_path))])
    assert said["steps"] == []
    assert not said["changed"]


def test_other_users_may_read_what_steps_make_whatever_the_umask_is(module, tmp_path):
    before = os.umask(0o077)
    try:
        module("run_steps", steps=[{"name": "Making", "argv": ["mkdir", str(tmp_path / "made")]}])
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "made").stat().st_mode) == 0o755


@pytest.mark.parametrize("status", [0, 1])
def test_files_are_there_meanwhile_for_root_alone_and_gone_then(module, tmp_path, status):
    secret, archive = tmp_path / "secret", tmp_path / "archive"
    for path in (secret, archive):
        path.write_text("what an earlier run has left")
        path.chmod(0o644)
    (tmp_path / "uploaded").write_text("many words\n")
    script = f"stat -c %a {secret} {archive}; grep -hc word {secret} {archive}; exit {status}"
    did = module(
        "run_steps",
        steps=[step("looks", script)],
        files={str(secret): "a word\n"},
        uploads={str(archive): str(tmp_path / "uploaded")},
    )
    said = did["msg"] if status else did["steps"][0]["stdout"]
    assert said.strip().endswith("600\n600\n1\n1")
    assert not secret.exists()
    assert not archive.exists()
    assert "a word" not in str(did)
