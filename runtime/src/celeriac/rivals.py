"""Which Beats have sent runs, so that two that do so at one time are noticed.

Every Beat that loads the app takes part, with the lease or outside of it: after a run it notes
itself in PostgreSQL, at most every NOTE_SECONDS. Rivals are Beats whose times overlap; one that
took over from another began after the other's last run.

Limits: a Beat of code without this package, or of another database, is not seen. While PostgreSQL
is away nothing is noted.
"""

import os
import socket
import time
import uuid
from typing import Any

from celery.beat import Scheduler
from celery.utils.log import get_logger

logger = get_logger("celeriac.rivals")

NOTE_SECONDS = 10.0
TIMEOUT = 2

RIVALS = """
SELECT count(*) FROM celeriac_beat a
WHERE a.app = %s AND a.last_at > clock_timestamp() - interval '10 minutes' AND EXISTS (
    SELECT 1 FROM celeriac_beat b
    WHERE b.app = a.app AND b.id <> a.id AND b.last_at > clock_timestamp() - interval '10 minutes'
    AND b.first_at < a.last_at AND a.first_at < b.last_at)
"""


class Sender:
    """This process, as a Beat that sends runs."""

    def __init__(self, app_name: str) -> None:
        self.app_name = app_name[:255]
        self.id = uuid.uuid4()
        self.name = f"{socket.gethostname()}:{os.getpid()}"[:255]
        self.noted_at = float("-inf")

    def sent(self) -> None:
        """Note a run that was sent. What goes wrong here must not stop Beat."""
        from django.db import Error

        from celeriac.ledger import DATABASE, own_connection

        if time.monotonic() - self.noted_at < NOTE_SECONDS:
            return
        self.noted_at = time.monotonic()
        session = own_connection(DATABASE, TIMEOUT)
        try:
            with session.cursor() as cursor:
                cursor.execute(
                    "INSERT INTO celeriac_beat (id, app, name, first_at, last_at)"
                    " VALUES (%s, %s, %s, clock_timestamp(), clock_timestamp())"
                    " ON CONFLICT (id) DO UPDATE SET last_at = excluded.last_at",
                    [self.id, self.app_name, self.name],
                )
        except Error as error:
            logger.warning("Cannot note that this Beat sends: %s", str(error).partition("\n")[0])
        finally:
            session.close()


def connect() -> None:
    """Let whatever scheduler a Beat has note what it sends; other processes call none."""
    send = Scheduler.apply_async
    senders: dict[int, Sender] = {}

    def apply_async(self: Scheduler, *args: Any, **kwargs: Any) -> Any:
        result = send(self, *args, **kwargs)
        if os.getpid() not in senders:
            senders[os.getpid()] = Sender(self.app.main or "celery")
        senders[os.getpid()].sent()
        return result

    Scheduler.apply_async = apply_async


def count(session: Any, app_name: str) -> int:
    """Beats that have sent runs in turns with another one in the last ten minutes; 0 is right."""
    with session.cursor() as cursor:
        cursor.execute(RIVALS, [app_name[:255]])
        return cursor.fetchone()[0]
