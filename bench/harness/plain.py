"""The plain way, for comparison: git pull, pip install, migrate, systemctl restart."""

import subprocess
import time
from pathlib import Path
from typing import Any

from harness.remote import APP, DOMAIN, Feeder, Host, Load
from harness.report import say

PORT = 8444
QUEUE = "plain"
FOLDER = "/srv/plain"

UNIT = """[Unit]
Description=The plain {name}
[Service]
User={app}
Group=www-data
UMask=0007
EnvironmentFile={folder}/env-worker
WorkingDirectory={folder}/checkout
RuntimeDirectory=plain-{name}
ExecStart={folder}/venv/bin/{command}
Restart=always
"""

COMMANDS = {
    "web": "gunicorn --workers 1 --threads 4 --worker-class gthread"
    " --bind unix:/run/plain-web/socket config.wsgi:application",
    "worker": f"celery -A config worker --concurrency 2 --queues {QUEUE} --loglevel WARNING",
}

NGINX = f"""server {{
    listen {PORT} ssl;
    server_name {DOMAIN};
    ssl_certificate /etc/ssl/celeriac/{APP}.crt;
    ssl_certificate_key /etc/ssl/celeriac/{APP}.key;
    location / {{
        proxy_pass http://unix:/run/plain-web/socket;
        proxy_set_header Host $http_host;
    }}
}}
"""

DEPLOY = f"""set -e
cd {FOLDER}/checkout
git pull --quiet
{FOLDER}/venv/bin/pip install --quiet --disable-pip-version-check --requirement requirements.txt
set -a; . {FOLDER}/env-manage; set +a
{FOLDER}/venv/bin/python manage.py migrate --noinput --verbosity=0
systemctl restart plain-web plain-worker
"""


def push(host: Host, project: Path, version: str) -> None:
    """Commit the project with this version to the repository that the host pulls from."""
    (project / "config/version.py").write_text(f'"""The version."""\n\nVERSION = "{version}"\n')
    pack = subprocess.run(
        ["tar", "-C", project, "--exclude=__pycache__", "-c", "."], check=True, capture_output=True
    )
    subprocess.run(
        [
            *("docker", "exec", "--interactive", host.name),
            *("tar", "-C", f"{FOLDER}/work", "-x", "--no-same-owner"),
        ],
        input=pack.stdout,
        check=True,
    )
    host.run(
        "sh",
        "-ec",
        f"cd {FOLDER}/work; git add -A; git -c user.name=bench -c user.email=bench@{DOMAIN}"
        f" commit --quiet -m '{version}'; git push --quiet origin HEAD:main",
    )


def prepare(host: Host, project: Path) -> None:
    """A repository, a checkout, a venv, two units and a site."""
    release = host.run("readlink", f"/opt/{APP}/current").rsplit("/", 1)[-1]
    environment = f"/etc/{APP}/env/{release}"
    host.run(
        "sh",
        "-ec",
        f"rm -rf {FOLDER}; mkdir -p {FOLDER}; cd {FOLDER};"
        " git init --quiet --bare --initial-branch=main origin;"
        " git clone --quiet origin work 2>/dev/null;"
        " umask 077; for role in worker manage; do"
        f" cat {environment} {environment}.$role | grep -v ^PATH= >env-$role;"
        # One user of Redis for all, and the worker gossips.
        ' echo "CELERY_BROKER_URL=redis://admin:$(cat /etc/redis/redis-broker.admin)'
        '@127.0.0.1:6379/0" >>env-$role; echo BENCH_RUNTIME=no >>env-$role; done',
    )
    push(host, project, "plain-0")
    for name, command in COMMANDS.items():
        text = UNIT.format(name=name, app=APP, folder=FOLDER, command=command)
        host.run("sh", "-c", f"cat >/etc/systemd/system/plain-{name}.service", given=text)
    host.run("sh", "-c", "cat >/etc/nginx/sites-enabled/plain.conf", given=NGINX)
    host.run(
        "sh",
        "-ec",
        f"cd {FOLDER}; git clone --quiet origin checkout; python3 -m venv venv;"
        " venv/bin/pip install --quiet --disable-pip-version-check -r checkout/requirements.txt;"
        " systemctl daemon-reload; systemctl restart plain-web plain-worker; nginx -s reload",
    )


def remove(host: Host) -> None:
    """Leave nothing behind."""
    host.run(
        "sh",
        "-c",
        "systemctl stop plain-web plain-worker; rm -f /etc/systemd/system/plain-*.service"
        f" /etc/nginx/sites-enabled/plain.conf; rm -rf {FOLDER}; systemctl daemon-reload;"
        " nginx -s reload",
        check=False,
    )


def measure(host: Host, project: Path, deploys: int) -> dict[str, Any]:
    """The same load and the same queue; `deploys` releases in the plain way."""
    url = f"https://{DOMAIN}:{PORT}/"
    try:
        prepare(host, project)
        host.sql("TRUNCATE work_effect")
        took = []
        with Feeder(host, [QUEUE]) as feeder, Load(host, url) as load:
            time.sleep(10)
            for number in range(1, deploys + 1):
                push(host, project, f"plain-{number}")
                began = time.monotonic()
                host.run("sh", "-c", DEPLOY)
                took.append(time.monotonic() - began)
                say(f"plain: {took[-1]:.1f} s")
                time.sleep(5)
        host.wait_until_done(feeder.sent)
        counted = host.counted(feeder.sent)
    finally:
        remove(host)
    found = load.figures
    return {
        "plain_deploys": deploys,
        "plain_requests": found["requests"],
        "plain_non_2xx": found["non_2xx"],
        "plain_socket_errors": load.socket_errors(),
        "plain_p99_ms": found["p99_ms"],
        "plain_max_ms": found["max_ms"],
        "plain_tasks_submitted": counted["tasks_submitted"],
        "plain_tasks_lost": counted["tasks_lost"],
        "plain_tasks_doubled": counted["tasks_doubled"],
        "plain_longest_gap_s": counted["longest_gap_s"],
        "plain_deploy_s": round(sum(took) / len(took), 1),
    }
