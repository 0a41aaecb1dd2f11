"""Exits with 0 if the Beat of this container was alive within 20 seconds.

Its session in PostgreSQL verifies the lease at each tick, at least every 5 seconds, or asks for
it as a standby.
"""

import os
import socket
import sys

import psycopg

LAST = (
    "SELECT extract(epoch FROM clock_timestamp() - max(state_change)) FROM pg_stat_activity"
    " WHERE application_name LIKE %s"
)

with psycopg.connect(os.environ["DATABASE_URL"], connect_timeout=5) as connection:
    (age,) = connection.execute(LAST, [f"celeriac-beat {socket.gethostname()}:%"]).fetchone()
print("no session" if age is None else f"{age:.1f} s ago")
sys.exit(age is None or age > 20)
