"""Read settings from environment variables; a bad one is refused by name, with what to write."""

import os
from urllib.parse import parse_qsl, unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured

_UNSET = object()
_BOOLEANS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def _bad(name: str, problem: str, write: str) -> ImproperlyConfigured:
    return ImproperlyConfigured(f"{name} {problem}. Write {write}")


def text(name: str, *, write: str, default: object = _UNSET) -> str:
    """The variable's value; `write` is the example shown to whoever forgot it."""
    value = os.environ.get(name, "").strip()
    if value:
        return value
    if default is _UNSET:
        raise _bad(name, "is not set", f"{name}={write}")
    return str(default)


def boolean(name: str, *, default: bool) -> bool:
    value = os.environ.get(name, "").strip().lower()
    if not value:
        return default
    if value not in _BOOLEANS:
        raise _bad(name, f"is {value!r}, which is neither true nor false", f"{name}=true or =false")
    return _BOOLEANS[value]


def number(name: str, *, default: float, least: float, most: float) -> float:
    value = os.environ.get(name, "").strip()
    if not value:
        return default
    try:
        parsed = float(value)
    except ValueError:
        parsed = float("nan")
    if not least <= parsed <= most:
        raise _bad(
            name, f"is {value!r}", f"a number from {least:g} to {most:g}, as {name}={default:g}"
        )
    return parsed


def url(name: str, schemes: tuple[str, ...], *, write: str, default: object = _UNSET) -> str:
    """A URL with one of the schemes, a host and a usable port; errors never show its password."""
    value = text(name, write=write, default=default)
    wanted = f"{name}={write}"
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        # Raised from None: the original message repeats the URL, and with it the password.
        raise _bad(
            name, "is not a URL (is a / : @ or # in the password not %-encoded?)", wanted
        ) from None
    if parts.scheme not in schemes:
        raise _bad(
            name, f"begins with {parts.scheme or 'no scheme'!r}, not {' or '.join(schemes)}", wanted
        )
    if not parts.hostname or port == 0:
        raise _bad(name, "names no host", wanted)
    return value


def optional_url(name: str, schemes: tuple[str, ...], *, write: str) -> str:
    """The same, or an empty string when the variable is not set."""
    return url(name, schemes, write=write) if os.environ.get(name, "").strip() else ""


def database(name: str) -> dict[str, object]:
    """Django's DATABASES entry for a postgres:// URL; its query string becomes driver options."""
    write = "postgres://user:password@127.0.0.1:5432/name"
    parts = urlsplit(url(name, ("postgres", "postgresql"), write=write))
    if not parts.path.strip("/"):
        raise _bad(name, "names no database", f"{name}={write}")
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(parts.path.strip("/")),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": parts.hostname,
        "PORT": parts.port or 5432,
        "OPTIONS": dict(parse_qsl(parts.query)),
    }


def mail(name: str) -> dict[str, object]:
    """Django's EMAIL_* settings for smtp:// (plain), smtp+tls:// (STARTTLS) or smtps:// (TLS)."""
    write = "smtp://127.0.0.1:25"
    parts = urlsplit(url(name, ("smtp", "smtp+tls", "smtps"), write=write, default=write))
    return {
        "EMAIL_HOST": parts.hostname,
        "EMAIL_PORT": parts.port or {"smtp": 25, "smtp+tls": 587, "smtps": 465}[parts.scheme],
        "EMAIL_HOST_USER": unquote(parts.username or ""),
        "EMAIL_HOST_PASSWORD": unquote(parts.password or ""),
        "EMAIL_USE_TLS": parts.scheme == "smtp+tls",
        "EMAIL_USE_SSL": parts.scheme == "smtps",
    }
