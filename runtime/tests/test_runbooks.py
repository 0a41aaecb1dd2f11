"""The runbooks as a page: where the link of an alert leads."""

import re
import subprocess
import sys

from conftest import PROJECT, environment

ASK = (
    "import django; django.setup()\n"
    "from django.test import Client\n"
    "answer = Client().get('/operations/runbooks/', headers={'host': 'localhost'})\n"
    "print(answer.status_code); print(answer.content.decode())"
)


def test_it_is_there_for_everybody_even_without_the_database():
    done = subprocess.run(
        [sys.executable, "-c", ASK],
        cwd=PROJECT,
        env=environment(DATABASE_URL="postgres://nobody@127.0.0.1:1/none")
        | {"DJANGO_SETTINGS_MODULE": "config.admin_settings", "MARKS_URL": "redis://127.0.0.1:1"},
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.stdout.startswith("200\n"), done.stderr[-3000:]
    assert '<h2 id="workerdown">WorkerDown</h2>' in done.stdout
    assert "<pre>amtool " in done.stdout
    assert "<li><code>systemctl status" in done.stdout
    assert not re.search(r"```|\]\(|^#|<p>\d\. ", done.stdout, re.MULTILINE)
