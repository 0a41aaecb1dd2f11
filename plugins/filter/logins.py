"""Logins: in URLs, and those of PostgreSQL, where each password of a user has one of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, unquote, urlsplit


def postgresql_login(user: str, password: str) -> str:
    """Return the name of the login that has this password; tells nothing of a random one."""
    return f"{user}_{hashlib.sha256(password.encode()).hexdigest()[:8]}"


def postgresql_logins(users: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return name, user and password of each login."""
    return [
        {
            "name": postgresql_login(user["name"], password),
            "user": user["name"],
            "password": password,
        }
        for user in users
        for password in user["passwords"]
    ]


def with_login(url: str, user: str, password: str) -> str:
    """Return the URL with a user and a password."""
    scheme, rest = url.split("://", 1)
    return f"{scheme}://{quote(user, safe='')}:{quote(password, safe='')}@{rest}"


def without_login(url: str) -> str:
    """Return the URL without its user and password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def netrc(url: str) -> str:
    """Return the line of a netrc file that has the URL's login, or an empty text."""
    parts = urlsplit(url)
    if not parts.username:
        return ""
    login, password = unquote(parts.username), unquote(parts.password or "")
    return f"machine {parts.hostname} login {login} password {password}\n"


class FilterModule:
    """The filters, by the names that roles use."""

    def filters(self) -> dict[str, Any]:
        """Return the filters of this file."""
        return {
            "postgresql_login": postgresql_login,
            "postgresql_logins": postgresql_logins,
            "netrc": netrc,
            "with_login": with_login,
            "without_login": without_login,
        }
