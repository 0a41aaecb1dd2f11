"""What a worker tells about its settings when it is asked: Celery's own, without passwords.

Celery's `inspect conf` sends all of Django's settings to whoever asks over the broker, Flower
among them, and hides values by the names of their keys: URLs keep their passwords.
"""

import re
from collections.abc import Mapping
from typing import Any

from celery.app.defaults import SETTING_KEYS
from celery.utils.serialization import jsonify
from celery.worker.control import inspect_command

LOGIN = re.compile(r"(?<=://)[^/@\s]*@")
MASK = "********@"


def hidden(value: Any) -> Any:
    """The value with every user and password of a URL hidden, however deep."""
    if isinstance(value, str):
        return LOGIN.sub(MASK, value)
    if isinstance(value, Mapping):
        return {key: hidden(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [hidden(item) for item in value]
    return value


def settings(app: Any, with_defaults: bool = False) -> dict[str, Any]:
    """Celery's own settings, as far as anybody may know them."""
    prefix = str(app.conf.prefix or "").lower()
    table = app.conf.table(with_defaults=with_defaults)
    return {
        key: hidden(value)
        for key, value in table.items()
        if str(key).lower().removeprefix(prefix) in SETTING_KEYS
    }


@inspect_command(
    name="conf",
    alias="dump_conf",
    signature="[include_defaults=False]",
    args=[("with_defaults", bool)],
)
def conf(state: Any, with_defaults: bool = False, **_: Any) -> Any:
    """List configuration."""
    return jsonify(settings(state.app, with_defaults), unknown_type_filter=repr)
