"""Where a benchmark runs: with services of its own on this machine, or on a host of its own.

Each function starts the running script again in the right place and does not return, unless it
is there already.
"""

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).resolve().parent.parent
ROOT = BENCH.parent
HOST = "celeriac-bench"
ON_HOST = "/srv/bench"
# Not bench-…: that would give it the sandbox of the app's units.
UNIT = "run-bench.service"


def with_tools() -> None:
    """A Python with Ansible, and its commands in PATH."""
    tools = ROOT / ".venv" / "bin"  # bin/setup makes it
    if str(tools) in os.environ["PATH"].split(os.pathsep):
        return
    if not (tools / "python").exists():
        sys.exit(f"{tools} is missing: run bin/setup")
    os.environ["PATH"] = os.pathsep.join([str(tools), os.environ["PATH"]])
    os.execv(tools / "python", [str(tools / "python"), *sys.argv])


def with_services() -> None:
    """A Python with celery, the project importable, a throw-away PostgreSQL and Redis."""
    if importlib.util.find_spec("celery") is None:
        python = ROOT / ".venv-runtime" / "bin" / "python"  # bin/test runtime makes it
        if not python.exists() or Path(sys.executable) == python:
            sys.exit(f"{sys.executable} has no celery: use a Python with requirements/runtime.txt")
        os.execv(python, [str(python), *sys.argv])
    if "DATABASE_URL" not in os.environ or "CELERY_BROKER_URL" not in os.environ:
        services = ROOT / "bin" / "with-services"
        os.execv(services, [str(services), sys.executable, *sys.argv])
    paths = [str(BENCH / "project"), str(ROOT / "runtime" / "src")]
    sys.path[:0] = paths
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    os.environ["DJANGO_SETTINGS_MODULE"] = "config.settings"


def on_host() -> None:
    """The host celeriac-bench, deployed as it is now; ends with the script's output and status."""
    if os.environ.get("BENCH_HOST"):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that it tidies up
        password = Path("/etc/redis/redis-broker.admin").read_text().strip()
        os.environ["CELERY_BROKER_URL"] = f"redis://admin:{password}@127.0.0.1:6379/0"
        return
    subprocess.run([BENCH / "host"], check=True, stdout=sys.stderr)
    name = Path(sys.argv[0]).name
    pack = subprocess.run(
        ["tar", "-C", BENCH, "--exclude=__pycache__", "-c", name, "harness"],
        check=True,
        capture_output=True,
    )
    docker("mkdir", "-p", ON_HOST)
    docker("tar", "-C", ON_HOST, "-x", "--no-same-owner", input=pack.stdout)
    release = docker("readlink", "/opt/bench/current").stdout.decode().strip()
    command = ["systemd-run", "--quiet", "--collect", "--pipe", "--wait", f"--unit={UNIT}"]
    command += [f"--property=EnvironmentFile=/etc/bench/env/{Path(release).name}"]
    command += [f"--property=EnvironmentFile=/etc/bench/env/{Path(release).name}.manage"]
    command += ["--setenv=BENCH_HOST=1", "--setenv=DJANGO_SETTINGS_MODULE=config.settings"]
    command += [f"{release}/venv/bin/python", "-u", f"{ON_HOST}/{name}", *sys.argv[1:]]
    try:
        done = subprocess.run(["docker", "exec", HOST, *command], check=False)
    finally:
        docker("systemctl", "stop", UNIT, check=False)
    sys.exit(done.returncode)


def docker(*command: str, check: bool = True, input: bytes | None = None):  # noqa: A002 - as in subprocess
    """Run a command on the host."""
    interactive = ["--interactive"] if input is not None else []
    return subprocess.run(
        ["docker", "exec", *interactive, HOST, *command],
        check=check,
        input=input,
        capture_output=True,
    )
