"""What each domain brings along in a module of its own: pages, schedule, retention."""

import importlib
import importlib.util
from collections.abc import Iterator
from types import ModuleType

from django.conf import settings


def modules(name: str) -> Iterator[ModuleType]:
    """`<domain>.<name>` of every domain that has it, so that a domain goes without a trace."""
    for domain in settings.DOMAINS:
        if importlib.util.find_spec(f"{domain}.{name}"):
            yield importlib.import_module(f"{domain}.{name}")
