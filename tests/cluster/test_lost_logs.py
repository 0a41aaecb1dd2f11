"""The host that keeps all journals is away: what the others log meanwhile follows, every line."""

import shlex
import time
import uuid

import pytest

from support.hosts import until

testinfra_hosts = ["ansible://proxy"]
JOURNAL = ("systemd-journal-upload",)

# As long as an update with a restart may take, or somebody on call to come.
AWAY_SECONDS = 600
LINES = 12_000


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
    """Lines come all the time, and the sender gives up, is restarted, and tries again."""
    word = uuid.uuid4().hex
    pace = AWAY_SECONDS / LINES
    say = f"for n in $(seq {LINES}); do echo line-{word}-$n; sleep {pace:.3f}; done"
    unit = ["systemd-run", "--quiet", "--unit=celeriac-away", "--collect"]
    unit += ["--property=SyslogIdentifier=celeriac-away", "sh", "-c", shlex.quote(say)]
    since = host.check_output("date +%s")
    host.check_output(" ".join(unit))
    time.sleep(AWAY_SECONDS)
    assert count(keeper, word, since) == 0
    away()
    began = time.monotonic()
    found = until(
        300,
        lambda: (there := count(keeper, word, since)) >= LINES and there,
        "not every line has arrived",
    )
    figure(
        f"logs: {LINES} lines of {host.backend.host}, its log host away for {AWAY_SECONDS} s:"
        f" {LINES - found} lost, all there {time.monotonic() - began:.1f} s after it was back"
    )
    assert found == LINES


def count(keeper, word, since):
    """How many of the lines with this word the log host has, each counted once."""
    return int(
        keeper.check_output(
            "journalctl -D /var/log/journal/remote --no-pager -q -o cat -t celeriac-away"
            f" --since=@{since} | grep -F {word} | sort -u | wc -l"
        )
    )
