"""manage.py note NAME: what bench/deploy has as hooks, so that each leaves a trace."""

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from config.version import VERSION
from work.models import Note


class Command(BaseCommand):
    help = "Write a row with this name and the version."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name")

    def handle(self, *args: Any, name: str, **options: Any) -> None:
        Note.objects.create(name=name, version=VERSION)
