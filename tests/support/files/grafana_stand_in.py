"""Stands for Grafana in tests: says which files are provisioned, to whoever logs in."""

import base64
import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PROVISIONING = Path(os.environ["GF_PATHS_PROVISIONING"])
LOGIN = f"{os.environ['GF_SECURITY_ADMIN_USER']}:{os.environ['GF_SECURITY_ADMIN_PASSWORD']}"
WANTED = "Basic " + base64.b64encode(LOGIN.encode()).decode()


class Page(BaseHTTPRequestHandler):
    """Answers whoever has the password, and nobody else."""

    def do_GET(self) -> None:
        """Say which files are provisioned, and whether anybody may look or sign up."""
        known = self.headers.get("Authorization") == WANTED
        found = {
            "files": sorted(str(path) for path in PROVISIONING.rglob("*.yaml")),
            "anonymous": os.environ["GF_AUTH_ANONYMOUS_ENABLED"],
            "sign_up": os.environ["GF_USERS_ALLOW_SIGN_UP"],
        }
        self.send_response(200 if known else 401)
        self.end_headers()
        self.wfile.write(json.dumps(found if known else {}).encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


ADDRESS = (os.environ["GF_SERVER_HTTP_ADDR"], int(os.environ["GF_SERVER_HTTP_PORT"]))
ThreadingHTTPServer(ADDRESS, Page).serve_forever()
