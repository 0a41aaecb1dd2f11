"""The faults: how each is made and mended, and where the operator sees it."""

import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from harness.remote import APP, CONNECTIONS, DOMAIN, Host, Load
from harness.stage import Stage, Wrong

REDIS = "redis-server@broker.service"
REDIS_FOLDER = "/var/lib/redis/broker"
CERTIFICATE = "/etc/ssl/celeriac/host.crt"
CLOCK = "/srv/bench/clock"
RELOADS = 20
HOUR = 3600
# The process that work.tasks.held runs in.
HOLDER = "SELECT objid FROM pg_locks WHERE locktype = 'advisory' AND classid = 77 AND granted"
SENDERS = "SELECT count(DISTINCT beat) FROM work_tick WHERE at > to_timestamp({:.6f})"


class Fault(NamedTuple):
    """One row of the matrix; it must be over `within` seconds after it was mended."""

    name: str
    make: Callable[[Stage], None]
    within: float = 30
    pace: float = 20
    shows: bool = True  # False where it costs nothing, so that nothing tells of it
    from_work: bool = False  # called from the host of the workers, as the front reboots


def unit_killed(stage: Stage) -> None:
    unit = stage.worker("cpu")
    stage.strikes()
    stage.work.systemctl("kill", "--kill-whom=all", "--signal=KILL", unit)
    stage.journal(stage.work, unit, "code=killed, status=9/KILL")


def child_killed(stage: Stage) -> None:
    """The one that works on a task, which another has to do."""
    unit = stage.worker("cpu")
    stage.call("held", 5)
    child = stage.wait(lambda: stage.data.sql(HOLDER), 30, "a child that works on the task")
    main = stage.work.systemctl("show", "--value", "--property=MainPID", unit)
    if child not in stage.work.run("pgrep", "-P", main).split():
        raise Wrong(f"{child} works on the task, and is no child of {unit}")
    stage.strikes()
    stage.work.run("kill", "-KILL", child)
    stage.journal(stage.work, unit, rf"pid:{child} exited with 'signal 9 \(SIGKILL\)'")
    stage.wait(lambda: stage.data.sql(HOLDER) not in ("", child), 30, "another child works on it")


def out_of_memory(stage: Stage) -> None:
    """A task that wants more than its unit may have, until the limit is raised."""
    unit = stage.worker("cpu")
    stage.afterwards(stage.work, "systemctl", "revert", unit)
    limit = ("systemctl", "set-property", "--runtime", unit)
    stage.afterwards(stage.work, *limit, "MemoryMax=infinity")
    stage.work.run(*limit, "MemoryMax=500M")
    _, task = stage.call("hungry", 900)
    stage.journal(stage.work, unit, r"exited with 'signal 9 \(SIGKILL\)'")
    stage.status(r"dead letters: .*work\.tasks\.hungry", 90)
    stage.work.run(*limit, "MemoryMax=infinity")
    stage.strikes()
    stage.front.run(f"/usr/local/sbin/{APP}-manage", "celeriac", "replay", task)


def crash_loop(stage: Stage) -> None:
    """No worker can start, for longer than systemd would try by default."""
    units = [stage.worker(pool) for pool in ("cpu", "io")]
    path = f"/opt/{APP}/releases/{stage.release(stage.work)}/source/config/celery.py"
    stage.work.run("cp", "--preserve", path, f"{path}.whole")
    stage.afterwards(stage.work, "sh", "-c", f"test ! -e {path}.whole || mv {path}.whole {path}")
    stage.work.run("sh", "-c", f"echo 'raise RuntimeError(\"it cannot start\")' >>{path}")
    before = stage.restarts(units[0])
    stage.work.systemctl("kill", "--kill-whom=all", "--signal=KILL", *units)
    stage.wait(lambda: stage.restarts(units[0]) >= before + 7, 60, "seven restarts")
    stage.journal(stage.work, units[0], "RuntimeError: it cannot start")
    stage.screen(f"{APP}-worker-cpu@.* [0-9]+ restarts")
    stage.work.run("mv", f"{path}.whole", path)
    stage.strikes()


def redis_killed(stage: Stage) -> None:
    stage.strikes()
    stage.data.systemctl("kill", "--signal=KILL", REDIS)
    stage.journal(stage.data, REDIS, "code=killed, status=9/KILL")


def redis_full(stage: Stage) -> None:
    """Nothing may be written any more; calls commit all the same."""
    limit = stage.redis("config", "get", "maxmemory").split()[-1]
    stage.afterwards(stage.data, "redis-admin", "broker", "config", "set", "maxmemory", limit)
    before = stage.calls.committed()
    stage.redis("config", "set", "maxmemory", "1mb")
    stage.hold(12)
    stage.journal(stage.work, f"{APP}-worker-*", "has to wait: .*(OOM|maxmemory)")
    stage.status(r"outbox: [1-9]")
    committed = stage.calls.committed() - before
    if committed < 100:
        raise Wrong(f"only {committed} calls committed while Redis was full")
    stage.redis("config", "set", "maxmemory", limit)
    stage.strikes()


def postgresql_killed(stage: Stage) -> None:
    unit = stage.postgresql()
    stage.strikes()
    stage.data.systemctl("kill", "--kill-whom=all", "--signal=KILL", unit)
    stage.journal(stage.data, unit, "automatic recovery in progress")


def postgresql_restarted(stage: Stage) -> None:
    unit = stage.postgresql()
    stage.strikes()
    stage.data.systemctl("restart", unit)
    stage.journal(stage.data, unit, "received fast shutdown request")


def disk_full(stage: Stage) -> None:
    """Redis's folder is a small file system, which something else fills."""
    folder, kept = REDIS_FOLDER, f"{REDIS_FOLDER}.kept"
    there = f"systemctl stop {REDIS} && cp -a {folder} {kept}"
    mounted = f"mount -t tmpfs -o size=96m,mode=0750,uid=redis,gid=redis tmpfs {folder}"
    back = (
        f"rm -f {folder}/filler; test ! -e {kept} || {{ systemctl stop {REDIS};"
        f" cp -a {folder}/. {kept}/; umount {folder}; cp -a {kept}/. {folder}/; rm -rf {kept}; }};"
        f" systemctl start {REDIS}"
    )
    stage.redis("bgrewriteaof")
    stage.hold(2)
    stage.afterwards(stage.data, "sh", "-c", back)
    stage.data.run(
        "sh", "-ec", f"{there}; {mounted}; cp -a {kept}/. {folder}/; systemctl start {REDIS}"
    )
    before = stage.calls.committed()
    # Ends with an error, as it should: the disk is full.
    stage.data.run("sh", "-c", f"cat /dev/zero >{folder}/filler || true")
    stage.journal(stage.data, REDIS, "writing to the AOF file", 30)
    stage.journal(stage.work, f"{APP}-worker-*", "MISCONF")
    stage.hold(8)
    committed = stage.calls.committed() - before
    if committed < 60:
        raise Wrong(f"only {committed} calls committed while the disk was full")
    stage.data.run("rm", f"{folder}/filler")
    stage.strikes()


def partition(stage: Stage) -> None:
    """Between the workers and the host of Redis and PostgreSQL nothing passes for a minute."""
    address = stage.data.run("hostname", "-I").split()[0]
    rules = "add table inet faults;"
    for way, end in (("input", "saddr"), ("output", "daddr")):
        rules += (
            f"add chain inet faults {way} {{ type filter hook {way} priority -10; }};"
            f"add rule inet faults {way} ip {end} {address} drop;"
        )
    # It may be gone: the fault mends itself, unless it was cut off.
    stage.afterwards(stage.work, "sh", "-c", "nft delete table inet faults 2>/dev/null || true")
    began = time.monotonic()
    stage.work.run("nft", rules)
    stage.journal(stage.work, f"{APP}-worker-*", "The outbox has to wait", 55)
    stage.status(r"workers: .*\(gone\)", 55)
    stage.hold(max(0, 60 - (time.monotonic() - began)))
    stage.work.run("nft", "delete", "table", "inet", "faults")
    stage.strikes()


def with_own_clock(stage: Stage, host: Host, *units: str) -> None:
    """Give the units a clock of their own, which the file CLOCK tells how far to be off."""
    get = "apt-get install -qy --no-install-recommends gcc libc6-dev"
    make = (
        f"mkdir -p /srv/bench; command -v gcc || {get} || {{ apt-get update -q && {get}; }};"
        f" gcc -shared -fPIC -O2 -x c -o {CLOCK}.so -"
    )
    host.run("sh", "-ec", make, given=(Path(__file__).parent / "clock.c").read_text())
    host.run("sh", "-ec", f"test -s {CLOCK} || head -c 8 /dev/zero >{CLOCK}")
    jump(host, 0)
    lines = f"[Service]\\nEnvironment=LD_PRELOAD={CLOCK}.so CLOCK_FILE={CLOCK}\\n"
    folders = [f"/run/systemd/system/{unit}.d" for unit in units]
    restart = f"systemctl daemon-reload; systemctl restart {' '.join(units)}"
    stage.afterwards(host, "sh", "-c", f"rm -rf {' '.join(folders)}; {restart}")
    for folder in folders:
        host.run("sh", "-ec", f"mkdir -p {folder}; printf '{lines}' >{folder}/faults.conf")
    host.run("sh", "-ec", restart)


def jump(host: Host, seconds: int) -> None:
    """Set the clock so far ahead, in place, for it is mapped into memory."""
    number = "".join(f"\\{byte:03o}" for byte in seconds.to_bytes(8, "little", signed=True))
    host.run("sh", "-ec", f"printf '{number}' | dd of={CLOCK} conv=notrunc status=none")


def clock_of_worker(stage: Stage) -> None:
    """Both pools' clocks go an hour ahead, then an hour behind, then right again."""
    with_own_clock(stage, stage.work, stage.worker("cpu"), stage.worker("io"))
    off = "SELECT name::bigint - extract(epoch FROM at)::bigint FROM work_effect WHERE number = {}"
    stage.strikes()
    for queue, seconds in (("work", HOUR), ("io", -HOUR)):
        jump(stage.work, seconds)
        number, _ = stage.call("clock", queue=queue)
        found = stage.wait(lambda n=number: stage.data.sql(off.format(n)), 30, "the worker's clock")
        if abs(int(found) - seconds) > 60:
            raise Wrong(f"the worker's clock is {found} s off instead of {seconds}")
        stage.hold(8)
    jump(stage.work, 0)


def clock_of_beat(stage: Stage) -> None:
    """Every Beat's clock goes an hour ahead, then right again."""
    for host in (stage.front, stage.work):
        with_own_clock(stage, host, stage.beat(host))
    stage.wait(stage.leader, 30, "a Beat that leads")
    stage.hold(3)
    for seconds in (HOUR, 0):
        for host in (stage.front, stage.work):
            jump(host, seconds)
        stage.strikes()
        stage.hold(10)
    leader, _ = stage.leader()
    stage.journal(leader, stage.beat(leader), "missed .* runs")


def beat_killed(stage: Stage) -> None:
    host, process = stage.leader()
    unit = stage.beat(host)
    stage.dead_beat = process
    stage.strikes()
    host.systemctl("kill", "--kill-whom=all", "--signal=KILL", unit)
    stage.journal(host, unit, "code=killed, status=9/KILL")
    stage.status("Beat: .* leads, 1 on standby")


def two_beats(stage: Stage) -> None:
    """Somebody starts one more by hand."""
    host, release = stage.work, stage.release(stage.work)
    home, environment = f"/opt/{APP}/releases/{release}", f"/etc/{APP}/env/{release}"
    unit = "run-beat.service"
    stage.afterwards(host, "systemctl", "stop", unit)
    stage.strikes()
    host.run(
        *("systemd-run", "--quiet", "--collect", f"--unit={unit}", f"--uid={APP}"),
        f"--property=EnvironmentFile={environment}",
        f"--property=EnvironmentFile={environment}.beat",
        f"--property=WorkingDirectory={home}/source",
        *(f"{home}/venv/bin/celery", "-A", "config", "beat", "--pidfile="),
        *("--scheduler", "celeriac.beat:LeaderScheduler"),
    )
    stage.journal(host, unit, "standby: waiting for the lease")
    stage.status("Beat: .* leads, 2 on standby")
    stage.hold(12)
    sent = stage.data.sql(SENDERS.format(stage.since))
    if sent != "1":
        raise Wrong(f"{sent} Beats have sent runs")


def nginx_reloaded(stage: Stage) -> None:
    """Twenty times under wrk.

    An old nginx closes kept connections after an answer, and wrk, which has asked again by then,
    counts a read error; each of its connections may see one for each reload.
    """
    stage.front.prepare()
    # With the port as a number, for a host may have no list of services.
    with Load(stage.front, f"https://{DOMAIN}:443/") as load:
        time.sleep(2)
        for _ in range(RELOADS):
            stage.front.systemctl("reload", "nginx")
            time.sleep(0.4)
        time.sleep(1)
    stage.strikes()
    found = load.figures
    errors = sum(found[name] for name in ("connect", "write", "timeout"))
    stage.figures = {
        "requests": found["requests"],
        "non_2xx": found["non_2xx"],
        "socket_errors": errors,
        "closed": found["read"],
    }
    stage.journal(stage.front, "nginx", "Reloaded nginx")
    failed = found["non_2xx"] + errors
    if found["requests"] < 500 or failed or found["read"] > RELOADS * CONNECTIONS:
        raise Wrong(f"of {found['requests']} requests {failed} failed, {found['read']} closed")


def reboot(which: str) -> Callable[[Stage], None]:
    """Shut the host down in order, look for it, and start it again."""

    def make(stage: Stage) -> None:
        host = stage.hosts[which]
        start = ["docker", "start", host.name]
        # Needless where it is up, and harmless.
        stage.undo.callback(subprocess.run, start, capture_output=True, check=True)
        stop = ["docker", "stop", "--time", "120", host.name]
        subprocess.run(stop, check=True, capture_output=True)
        # The playbook itself says so where the host is the one that asks the app.
        stage.screen(rf"{host.name}: did not answer|\[{host.name}\]: UNREACHABLE", away=True)
        stage.strikes()
        subprocess.run(start, check=True, capture_output=True)
        stage.wait(
            lambda: host.systemctl("is-system-running") == "running", 90, f"{host.name} is up"
        )

    return make


def certificate_ended(stage: Stage) -> None:
    """The certificate of Redis and PostgreSQL runs out, and is renewed by a run for that host."""
    kept = f"{CERTIFICATE}.kept"
    stage.data.run("cp", "--preserve", CERTIFICATE, kept)
    stage.undo.callback(lambda: read_again(stage))
    stage.afterwards(stage.data, "sh", "-c", f"test ! -e {kept} || mv {kept} {CERTIFICATE}")
    stage.data.run("sh", "-c", f"cat >{CERTIFICATE}", given=signed(stage, seconds=10))
    read_again(stage)
    stage.hold(12)
    # As after any hiccup of the network: what is connected goes on until then.
    stage.redis("client", "kill", "type", "normal")
    stage.journal(stage.work, f"{APP}-worker-*", "certificate has expired", 30)
    stage.screen(r"host\.crt until .*\(-1 days\)")
    stage.playbook("site.yml", "--limit", stage.data.name)
    stage.data.run("rm", kept)
    stage.since = float(stage.data.run("stat", "--format=%.9Y", CERTIFICATE))


def signed(stage: Stage, seconds: float) -> str:
    """A certificate for the request of the data host, by the deployment's CA (PEM)."""
    import yaml
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization

    folder = Path(stage.inventory)
    (path,) = folder.glob("group_vars/*/vault.yml")
    vault = yaml.safe_load(path.read_text())
    key = serialization.load_pem_private_key(vault["vault_ca_key"].encode(), None)
    ca = x509.load_pem_x509_certificate(vault["vault_ca_certificate"].encode())
    request = x509.load_pem_x509_csr(
        stage.data.run("cat", CERTIFICATE.replace(".crt", ".csr")).encode()
    )
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(request.subject)
        .issuer_name(ca.subject)
        .public_key(request.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(seconds=seconds))
    )
    for extension in request.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    made = builder.sign(key, hashes.SHA256())  # type: ignore[arg-type]
    return made.public_bytes(serialization.Encoding.PEM).decode()


def read_again(stage: Stage) -> None:
    """Let PostgreSQL and Redis read the host's certificate."""
    stage.data.systemctl("reload", stage.postgresql())
    paths = ("tls-cert-file", CERTIFICATE, "tls-key-file", CERTIFICATE.replace(".crt", ".key"))
    stage.redis("config", "set", *paths)


FAULTS = [
    Fault("worker's unit killed", unit_killed),
    Fault("pool child killed", child_killed),
    Fault("out of memory in a task", out_of_memory),
    Fault("crash loop of the workers", crash_loop),
    Fault("Redis killed", redis_killed),
    Fault("Redis full", redis_full),
    Fault("PostgreSQL killed", postgresql_killed),
    Fault("PostgreSQL restarted", postgresql_restarted),
    Fault("disk full under Redis", disk_full),
    Fault("network partition, 60 s", partition, within=60, pace=10),
    Fault("clock jumps in workers", clock_of_worker, shows=False),
    Fault("clock jumps in Beat", clock_of_beat),
    Fault("Beat killed", beat_killed, within=15),
    Fault("a second Beat", two_beats),
    Fault("nginx reloaded 20 times", nginx_reloaded, pace=5),
    Fault("reboot of the data host", reboot("data"), within=60),
    Fault("reboot of the workers' host", reboot("work"), within=90),
    Fault("reboot of the front", reboot("front"), within=60, from_work=True),
    Fault("certificate ended", certificate_ended, within=30, pace=5),
]
