"""The notification protocol, against a socket."""

import os
import socket

import pytest

from celeriac import notify


def test_does_nothing_without_a_service_manager(monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert notify.send("READY=1") is False


@pytest.mark.parametrize("address", ["{tmp}/notify", "@celeriac-test-{pid}"])
def test_sends_to_path_and_abstract_sockets(tmp_path, monkeypatch, address):
    address = address.format(tmp=tmp_path, pid=os.getpid())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address.replace("@", "\0"))
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        assert notify.send("READY=1", "STATUS=consuming") is True
        assert manager.recv(100) == b"READY=1\nSTATUS=consuming"


def test_a_dead_manager_does_not_raise(tmp_path, monkeypatch):
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    assert notify.send("READY=1") is False


@pytest.mark.parametrize(
    ("usec", "pid", "expected"),
    [
        ("30000000", "", 30.0),
        ("30000000", "{pid}", 30.0),
        ("30000000", "1", None),
        ("0", "", None),
        ("soon", "", None),
        ("", "", None),
    ],
)
def test_watchdog_seconds(monkeypatch, usec, pid, expected):
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.setenv("WATCHDOG_PID", pid.format(pid=os.getpid()))
    assert notify.watchdog_seconds() == expected
