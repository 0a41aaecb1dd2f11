"""What watching costs each host: processor, memory, and series."""

import time

import pytest

from support.hosts import show

testinfra_hosts = ["ansible://all"]
JOURNAL = ("prometheus*.service",)

UNITS = ("prometheus*.service", "*-metrics@*.service")
SECONDS = 60
TICKS = 100  # of a second, in /proc/<process>/stat


def used(host) -> dict[str, tuple[float, float]]:
    """Return seconds of processor and bytes of memory of each unit that watches on this host."""
    return {
        name: (processor_seconds(host, unit["MainPID"]), int(unit["MemoryCurrent"]))
        for name, unit in show(host, *UNITS).items()
        if unit["ActiveState"] == "active"
    }


def processor_seconds(host, process: str) -> float:
    """Return the seconds that a process and its ended children have had.

    Not of systemd, which does not know them where the kernel counts by host alone.
    """
    fields = host.file(f"/proc/{process}/stat").content_string.rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / TICKS


@pytest.mark.spec("G11.5")
def test_what_watching_costs_a_host(host, figure):
    before = used(host)
    time.sleep(SECONDS)
    after = used(host)
    assert after
    processor = sum(cpu - before[name][0] for name, (cpu, _) in after.items()) / SECONDS
    memory = {name: bytes_ / 1e6 for name, (_, bytes_) in after.items()}
    each = ", ".join(f"{name} {size:.0f}" for name, size in sorted(memory.items()))
    total = f"{processor:.1%} of a core and {sum(memory.values()):.0f} MB"
    figure(f"{host.backend.host}: watching takes {total} ({each})")
    assert processor < 0.25
    assert sum(memory.values()) < 1000


def test_what_each_host_and_each_worker_tells(host, prometheus, figure):
    name = host.backend.host
    series = prometheus.value(f'count({{host="{name}"}})') or 0
    seconds = prometheus.value(f'sum(scrape_duration_seconds{{host="{name}"}})') or 0
    workers = prometheus.value("count(celeriac_worker_info)")
    of_workers = prometheus.value('count({__name__=~"celeriac_worker.*", worker!=""})')
    figure(
        f"{name}: {series:.0f} series, {seconds:.2f} s for all its scrapes every 10 s; "
        f"{of_workers / workers:.0f} series for each worker"
    )
    assert 0 < series < 10_000
    assert of_workers / workers < 10
