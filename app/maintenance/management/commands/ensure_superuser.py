import os

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError


class Command(BaseCommand):
    help = (
        "Creates the admin user of DJANGO_SUPERUSER_USERNAME, _PASSWORD and _EMAIL, or gives it"
        " that password again. Safe to run at every release."
    )

    def handle(self, *args: object, **options: object) -> None:
        name = os.environ.get("DJANGO_SUPERUSER_USERNAME", "")
        password = os.environ.get("DJANGO_SUPERUSER_PASSWORD", "")
        if not name and not password:
            self.stdout.write("nothing to do: DJANGO_SUPERUSER_USERNAME is not set")
            return
        for variable, value in (("USERNAME", name), ("PASSWORD", password)):
            if not value:
                raise CommandError(f"DJANGO_SUPERUSER_{variable} is not set, but the other one is.")
        model = get_user_model()
        user, created = model.objects.get_or_create(
            **{model.USERNAME_FIELD: name},
            defaults={"email": os.environ.get("DJANGO_SUPERUSER_EMAIL", "")},
        )
        right = user.is_superuser and user.is_staff and user.is_active
        if not created and right and user.check_password(password):
            self.stdout.write(f"{name}: as it should be")
            return
        user.is_superuser = user.is_staff = user.is_active = True
        user.set_password(password)
        user.save()
        self.stdout.write(f"{name}: {'created' if created else 'updated'}")
