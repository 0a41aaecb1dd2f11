"""A receiver of webhooks for tests: keeps each message with the time when it came, one a line."""

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Sink(BaseHTTPRequestHandler):
    """Takes Alertmanager's JSON."""

    def do_POST(self) -> None:
        """Keep it, and say that it is kept."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with Path(sys.argv[2]).open("a") as kept:
            kept.write(json.dumps({"at": time.time(), "path": self.path, "message": body}) + "\n")
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Sink).serve_forever()
