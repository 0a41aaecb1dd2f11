"""The site as a visitor sees it: over the network, with the certificate verified."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from support.inventory import ROOT, Variables

FINISHED = ("done", "failed")


@dataclass
class Answer:
    """One response; a header that came twice is there twice."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def all(self, name: str) -> list[str]:
        """Return every value of the header `name`."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def header(self, name: str) -> str:
        """Return the only value of the header `name`, or an empty string."""
        values = self.all(name)
        assert len(values) < 2, f"{name} came {len(values)} times: {values}"
        return values[0] if values else ""

    @property
    def text(self) -> str:
        """Return the body as text."""
        return self.body.decode(errors="replace")

    def json(self) -> Any:
        """Return the body as JSON."""
        return json.loads(self.body)


@dataclass
class Site:
    """A client for one deployment: connects to `address` and speaks to `domain`."""

    address: str
    domain: str
    context: ssl.SSLContext
    port: int = 443
    public_port: int = 443
    cookies: dict[str, str] = field(default_factory=dict)
    ordered_by: str = ""
    """The id of the request that placed the last order."""

    @classmethod
    def of(cls, variables: Variables) -> Site:
        """Return the client for the host with these variables."""
        ca = variables["celeriac_ca_file"] if variables["certificates_source"] == "own_ca" else None
        return cls(
            address=address_of(variables),
            domain=variables["app_domain"],
            context=ssl.create_default_context(cafile=ca),
            public_port=int(variables["nginx_public_https_port"]),
        )

    def another(self) -> Site:
        """Return another visitor, who brings no cookies."""
        return replace(self, cookies={})

    @property
    def host_header(self) -> str:
        """Return the Host header of a visitor."""
        return self.domain if self.public_port == 443 else f"{self.domain}:{self.public_port}"

    def connection(self, timeout: float = 15) -> http.client.HTTPSConnection:
        """Return a verified HTTPS connection to the deployment, whatever DNS says."""
        connection = http.client.HTTPSConnection(
            self.domain, self.port, timeout=timeout, context=self.context
        )
        connection._create_connection = lambda _, *rest, **options: socket.create_connection(  # type: ignore[attr-defined]
            (self.address, self.port), timeout=timeout
        )
        return connection

    def request(
        self,
        path: str,
        method: str = "GET",
        *,
        data: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        login: tuple[str, str] | None = None,
        timeout: float = 15,
    ) -> Answer:
        """Send one request over HTTPS and return the answer; cookies are kept."""
        sent = {"Host": self.host_header, "Connection": "close", **(headers or {})}
        if self.cookies:
            sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        if login:
            sent["Authorization"] = "Basic " + b64encode(":".join(login).encode()).decode()
        body = None
        if data is not None:
            method, body = "POST", urlencode(data)
            sent["Content-Type"] = "application/x-www-form-urlencoded"
            sent["Referer"] = f"https://{self.host_header}/"
        connection = self.connection(timeout)
        try:
            connection.request(method, path, body=body, headers=sent)
            response = connection.getresponse()
            answer = Answer(response.status, response.getheaders(), response.read())
        finally:
            connection.close()
        for cookie in answer.all("Set-Cookie"):
            name, _, value = cookie.partition(";")[0].partition("=")
            self.cookies[name] = value
        return answer

    def log_in(self, user: str, password: str) -> Answer:
        """Log in to the admin as its form does; return the answer to the form."""
        page = self.request("/admin/login/").text
        token = re.findall(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)[0]
        fields = {"csrfmiddlewaretoken": token, "username": user, "password": password}
        return self.request("/admin/login/?next=/operations/", data=fields)

    def place_order(self, card: str = "good", **quantities: int) -> str:
        """Place an order as the form of the front page does; return the order's path."""
        page = self.request("/").text
        fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]+)"', page))
        shelf = re.findall(r'name="(quantity_\d+)"', page)
        answer = self.request(
            "/",
            data={
                **fields,
                "name": "Tessa Host",
                "email": "tessa@example.org",
                "card": card,
                **dict.fromkeys(shelf[:2], "1"),
            },
        )
        assert answer.status == 302, (answer.status, answer.text[:2000])
        self.ordered_by = answer.header("X-Request-ID")
        return urlsplit(answer.header("Location")).path

    def progress(self, order: str) -> dict[str, Any]:
        """Return where the order at this path stands."""
        answer = self.request(f"{order}progress/")
        assert answer.status == 200, answer.text[:500]
        return answer.json()

    def finish(self, order: str, seconds: float) -> dict[str, Any]:
        """Wait until the order has ended and return where it stands; fails after `seconds`."""
        return self.wait(order, lambda found: found["finished"], seconds)

    def wait(self, order: str, done: Any, seconds: float) -> dict[str, Any]:
        """Wait until `done(progress)`; fails after `seconds`."""
        end = time.monotonic() + seconds
        while not done(found := self.progress(order)):
            assert time.monotonic() < end, f"after {seconds} s the order stands at {found}"
            time.sleep(0.2)
        return found


def shown(site: Site, context: ssl.SSLContext | None = None, name: str | None = None) -> bytes:
    """Return the certificate that the site shows (DER), after the handshake has verified it."""
    with (
        socket.create_connection((site.address, 443), timeout=10) as plain,
        (context or site.context).wrap_socket(plain, server_hostname=name or site.domain) as secure,
    ):
        return secure.getpeercert(binary_form=True) or b""


def scan(site: Site, ca: str | None) -> str:
    """Hold the site's TLS against Mozilla's intermediate profile; return what sslyze says."""
    trusted = ["--certinfo_ca_file", ca] if ca else []
    command = ["--mozilla_config", "intermediate", *trusted, "--sni", site.domain]
    return subprocess.run(
        [python_of("sslyze"), "-m", "sslyze", *command, f"{site.address}:443"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ).stdout


@cache
def python_of(name: str) -> Path:
    """Return the interpreter of a venv that is exactly what requirements/<name>.txt says."""
    venv = ROOT / f".venv-{name}"
    uv = Path(sys.executable).parent / "uv"
    environment = {**os.environ, "UV_SYSTEM_CERTS": "true", "UV_NATIVE_TLS": "true"}
    if not venv.is_dir():
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, venv], check=True)
    sync = ["pip", "sync", "--quiet", "--require-hashes", "--python", venv]
    lock = ROOT / f"requirements/{name}.txt"
    subprocess.run([uv, *sync, lock], check=True, env=environment)
    return venv / "bin/python"


def address_of(variables: Variables) -> str:
    """Return the address at which the network reaches the host."""
    name = str(variables.get("ansible_host", variables["inventory_hostname"]))
    if not str(variables.get("ansible_connection", "ssh")).endswith("docker"):
        return name
    inspected = subprocess.run(
        ["docker", "inspect", name], capture_output=True, text=True, check=True
    )
    networks = json.loads(inspected.stdout)[0]["NetworkSettings"]["Networks"]
    return next(found["IPAddress"] for found in networks.values() if found["IPAddress"])
