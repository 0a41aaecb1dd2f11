"""Files in PostgreSQL: written with the caller's transaction, read by any host."""

import subprocess
import sys

from conftest import PROJECT, environment

SCRIPT = """
import django; django.setup()
from django.conf import settings; settings.MEDIA_URL = "/media/"
from django.core.files.base import ContentFile
from django.core.management import call_command
from django.db import transaction
from django.http import Http404
from django.test import RequestFactory
call_command("migrate", verbosity=0)
from celeriac.files import DatabaseStorage, serve
from celeriac.models import StoredFile
StoredFile.objects.all().delete()
store = DatabaseStorage()

name = store.save("orders/a/invoice.pdf", ContentFile(b"first"))
assert name == "orders/a/invoice.pdf" and store.exists(name) and store.size(name) == 5
assert store.save(name, ContentFile(b"second")) == name, "an attempt's file is written over"
with store.open(name) as paper:
    assert paper.read() == b"second"
assert StoredFile.objects.count() == 1
assert store.url("orders/a/ö.pdf") == "/media/orders/a/%C3%B6.pdf"

try:
    with transaction.atomic():
        store.save("gone.txt", ContentFile("text"))
        raise KeyError
except KeyError:
    pass
assert not store.exists("gone.txt"), "a file outlived the transaction that wrote it"

ask = RequestFactory().get
answer = serve(ask("/media/x"), name)
assert b"".join(answer.streaming_content) == b"second"
assert answer["Content-Type"] == "application/pdf"
for missing in (lambda: store.open("no"), lambda: store.size("no")):
    try:
        missing()
        raise SystemExit("a file that is not there was found")
    except FileNotFoundError:
        pass
try:
    serve(ask("/media/no"), "no")
    raise SystemExit("a page for a file that is not there")
except Http404:
    pass
store.delete(name)
assert not store.exists(name)
print("all seen")
"""


def test_a_file_lives_and_dies_with_its_row():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=PROJECT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "all seen" in done.stdout
