"""What a playbook does, said and took: the whole, and each part of it."""

import os
import re
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import NamedTuple

from harness.place import ROOT

# A play is a part of the whole, a task one of a play.
BANNER = re.compile(r"^(PLAY|TASK) (?:\[(.*)\]|RECAP) \*")
BEFORE = "Ansible starts"


class Ran(NamedTuple):
    """How a playbook ended, what it said, and seconds: of the whole, of its plays and its tasks."""

    status: int
    said: str
    seconds: float
    plays: dict[str, float]
    tasks: dict[str, float]


class Clock:
    """Adds up the seconds between banners."""

    def __init__(self, now: float) -> None:
        self.last, self.play, self.task = now, BEFORE, BEFORE
        self.plays: dict[str, float] = {}
        self.tasks: dict[str, float] = {}

    def hears(self, line: str, now: float) -> None:
        """Take a line of Ansible's; a banner ends what was before it."""
        if not (found := BANNER.match(line)):
            return
        self.counts(now)
        kind, name = found.groups()
        if kind == "PLAY":
            self.play = name or "Ansible ends"
        self.task = self.play if kind == "PLAY" else name

    def counts(self, now: float) -> None:
        for names, name in ((self.plays, self.play), (self.tasks, self.task)):
            names[name] = names.get(name, 0.0) + now - self.last
        self.last = now


def playbook(name: str, inventory: str, *options: str) -> Ran:
    """Run playbooks/<name>.yml."""
    began = time.monotonic()
    clock, said = Clock(began), []
    command = ["ansible-playbook", f"playbooks/{name}.yml", "-i", inventory, *options]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        for line in process.stdout or ():
            clock.hears(line, time.monotonic())
            said.append(line)
    ended = time.monotonic()
    clock.counts(ended)
    return Ran(process.returncode, "".join(said), ended - began, clock.plays, clock.tasks)


def medians(runs: Sequence[Mapping[str, float]], most: int = 0) -> dict[str, float]:
    """The median seconds of each part of several runs, longest first; `most` of them, or all."""
    names: Iterable[str] = {name: None for run in runs for name in run}
    found = {name: round(median(run.get(name, 0.0) for run in runs), 1) for name in names}
    ordered = sorted(found.items(), key=lambda item: -item[1])
    return dict(ordered[: most or None])
