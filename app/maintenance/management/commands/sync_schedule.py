from django.core.management.base import BaseCommand, CommandError, CommandParser

from maintenance import schedule


class Command(BaseCommand):
    help = "Creates the periodic tasks that are missing. Safe to run at every release."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--reset", action="store_true", help="also undo what staff changed in the admin"
        )

    def handle(self, *args: object, **options: object) -> None:
        try:
            done = schedule.sync(reset=bool(options["reset"]))
        except LookupError as error:
            raise CommandError(str(error)) from error
        for what, names in done.items():
            for name in names:
                self.stdout.write(f"{what}: {name}")
        if not any(done.values()):
            self.stdout.write("nothing to change")
