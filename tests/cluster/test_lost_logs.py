"""The host that keeps all journals is away: what the others log meanwhile follows, every line."""

import time
import uuid

import pytest

from support.hosts import until

testinfra_hosts = ["ansible://web"]
JOURNAL = ("systemd-journal-upload",)

AWAY_SECONDS = 20
LINES = 2000


@pytest.fixture
def keeper(reach, inventory):
    """The host that keeps the journals."""
    if not inventory.groups.get("logs"):
        pytest.skip("nothing collects the journals")
    return reach(inventory.first("logs"))


@pytest.fixture
def away(keeper):
    """It receives nothing, until it is called or the test ends."""
    units = "stunnel@journals.service systemd-journal-remote.socket"
    keeper.check_output(f"systemctl stop {units} systemd-journal-remote.service")

    def back() -> None:
        keeper.check_output(f"systemctl start {units}")

    yield back
    back()


def test_no_line_is_lost_while_it_is_away(host, keeper, away, figure):
    word = uuid.uuid4().hex
    half = f"seq -f 'line-{word}-%g' {{}} {{}} | systemd-cat -t celeriac-away"
    host.check_output(half.format(1, LINES // 2))
    time.sleep(AWAY_SECONDS)  # the sender gives up, is restarted, and tries again
    host.check_output(half.format(LINES // 2 + 1, LINES))
    away()
    began = time.monotonic()
    count = (
        "journalctl -D /var/log/journal/remote --no-pager -q -o cat -t celeriac-away --since -10min"
        f" | grep -F {word} | sort -u | wc -l"
    )
    found = until(
        90,
        lambda: (there := int(keeper.check_output(count))) >= LINES and there,
        "not every line has arrived",
    )
    figure(
        f"logs: {LINES} lines of {host.backend.host}, its log host away for {AWAY_SECONDS} s:"
        f" {LINES - found} lost, all there {time.monotonic() - began:.1f} s after it was back"
    )
    assert found == LINES
