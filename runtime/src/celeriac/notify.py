"""The service manager's notification protocol (sd_notify), without a dependency.

Every call is a no-op when the process was not started by systemd. Sending never
raises: a service must not fail because its supervisor did not listen.
"""

import _socket  # gevent patches `socket`; this one may be used in the hub and in native threads
import os


def send(*lines: str, address: str | None = None) -> bool:
    """Send `lines` such as "READY=1" or "STATUS=consuming"; True if they were handed over.

    `address` defaults to $NOTIFY_SOCKET; a leading "@" names an abstract socket.
    """
    address = address or os.environ.get("NOTIFY_SOCKET")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    except OSError:
        return False
    try:
        sock.settimeout(1)
        sock.sendto("\n".join(lines).encode(errors="replace"), address)
    except OSError:
        return False
    finally:
        sock.close()
    return True


def watchdog_seconds() -> float | None:
    """WatchdogSec of the unit in seconds, or None when no watchdog expects this process."""
    usec = os.environ.get("WATCHDOG_USEC", "")
    pid = os.environ.get("WATCHDOG_PID", "")
    if not usec.isdigit() or int(usec) == 0 or (pid and pid != str(os.getpid())):
        return None
    return int(usec) / 1_000_000
