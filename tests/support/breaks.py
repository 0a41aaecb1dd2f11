"""The breaks of tests/breaks.yml: one pattern each, spoilt, for its tests to notice.

Run by `bin/test breaks`, under bin/with-services: in a copy of the project each break is made, the
tests of its items run, and at least one for each item has to fail by an assertion. A test that
cannot be collected, or that fails in any other way, has noticed nothing.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from support.spec import ROOT, items, marked_tests

FILE = ROOT / "tests/breaks.yml"
FOLDERS = ("app", "runtime")
# Seconds for the tests of one break; some wait for real workers that never come to it.
PATIENCE = 400
# How pytest begins the message of an assertion, and of what pytest.fail and pytest.raises say.
ASSERTIONS = ("assert ", "AssertionError", "Failed: ")


@dataclass(frozen=True)
class Break:
    """`text` in `file` becomes `instead`, for the items that this concerns."""

    items: list[str]
    what: str
    file: str
    text: str
    instead: str = ""

    def problem(self, root: Path = ROOT) -> str:
        """Return why it cannot be made, or an empty string."""
        path = root / self.file
        if not path.is_file():
            return f"there is no file {self.file}"
        if self.text == self.instead:
            return "it changes nothing"
        if (count := path.read_text().count(self.text)) != 1:
            return f"its text is {count} times in {self.file}, not once"
        return ""


@cache
def breaks() -> list[Break]:
    return [Break(**entry) for entry in yaml.safe_load(FILE.read_text())]


@cache
def proofs() -> dict[str, list[str]]:
    """The tests of code for each item that has some: those that need no host."""
    found = defaultdict(list)
    for test, ids in marked_tests():
        if test.split("/")[0] in FOLDERS:
            for name in ids:
                found[name].append(test)
    return dict(found)


def problems(
    found: list[Break], proved: Iterable[str], known: Iterable[str], root: Path = ROOT
) -> list[str]:
    """What is wrong with the list as a whole."""
    proved, known = set(proved), set(known)
    said = [f"{each.what}: {problem}" for each in found if (problem := each.problem(root))]
    broken = Counter(name for each in found for name in each.items)
    for name, count in broken.items():
        if name not in known:
            said.append(f"tests/spec.yml has no item {name}")
        elif name not in proved:
            said.append(f"{name} has no test in {' or '.join(FOLDERS)}")
        if count > 1:
            said.append(f"{name} is broken {count} times, not once")
    return said + [f"{name} has no break" for name in known if name in proved - set(broken)]


@dataclass
class Outcome:
    """How tests ended, each by its name without parameters."""

    passed: Counter[str] = field(default_factory=Counter)
    red: Counter[str] = field(default_factory=Counter)
    # Why the others did not pass.
    other: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def read(cls, report: str, folder: str) -> Outcome:
        """Judge pytest's report (junit's XML) about tests in a folder of the project."""
        outcome = cls()
        for case in ET.fromstring(report).iter("testcase"):  # noqa: S314  # as above
            name = f"{folder}/{case.get('classname')}.{case.get('name')}".partition("[")[0]
            failure, error = case.find("failure"), case.find("error")
            if failure is not None and failure.get("message", "").startswith(ASSERTIONS):
                outcome.red[name] += 1
            elif (problem := error if failure is None else failure) is not None:
                outcome.other[name].append(problem.get("message", "").partition("\n")[0])
            elif case.find("skipped") is None:
                outcome.passed[name] += 1
        return outcome

    def add(self, more: Outcome) -> None:
        self.passed += more.passed
        self.red += more.red
        self.other.update(more.other)

    def of(self, tests: list[str]) -> tuple[int, int]:
        """How many of these tests (each parameter counts) were red, and how many there were."""
        names = [dotted(test) for test in tests]
        red = sum(self.red[name] for name in names)
        others = sum(self.passed[name] + len(self.other.get(name, ())) for name in names)
        return red, red + others


def dotted(test: str) -> str:
    """A test as junit names it: `app/tests/test_x.py::A::test_b` is `app/tests.test_x.A.test_b`."""
    folder, _, rest = test.partition("/")
    return f"{folder}/" + rest.replace(".py::", ".").replace("::", ".").replace("/", ".")


def interrupt(process: subprocess.Popen) -> None:
    """End pytest as by hand, so that it ends the workers that it has started."""
    for _ in range(3):
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
    if process.poll() is None:
        process.kill()
        process.wait()


class Copy:
    """The project in a folder where things may be broken, with a fresh database for each run."""

    def __init__(self, root: Path) -> None:
        self.root = root
        listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
        names = subprocess.run(listed, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
        for name in filter(None, names.stdout.split("\0")):
            if (ROOT / name).is_file():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, root / name)
        self.server = os.environ["DATABASE_URL"]
        self.database("celeriac_migrated", "template1")
        migrated = urlsplit(self.server)._replace(path="/celeriac_migrated").geturl()
        env = {**self.environment("app"), "DATABASE_URL": migrated}
        env |= {"PYTHONPATH": str(root / "runtime/src")}
        command = [ROOT / ".venv-app/bin/python", "manage.py", "migrate", "--verbosity", "0"]
        subprocess.run(command, cwd=root / "app", env=env, check=True)

    def database(self, name: str, template: str) -> None:
        """Make this database anew; migrating takes longer than most tests."""
        where = ["--maintenance-db", self.server]
        drop = ["dropdb", "--if-exists", "--force", *where, name]
        subprocess.run(drop, check=True, stderr=subprocess.DEVNULL)
        subprocess.run(["createdb", "--template", template, *where, name], check=True)

    def environment(self, folder: str) -> dict[str, str]:
        path = f"{ROOT / f'.venv-{folder}/bin'}:{os.environ['PATH']}"
        return {**os.environ, "PATH": path, "PYTHONDONTWRITEBYTECODE": "1"}

    def run(self, tests: list[str], options: list[str] | None = None) -> Outcome:
        """Run these tests, in one process unless `options` say otherwise."""
        outcome = Outcome()
        for folder in FOLDERS:
            chosen = [test.partition("/")[2] for test in tests if test.startswith(f"{folder}/")]
            if chosen:
                outcome.add(self.pytest(folder, chosen, options or ["-n0"]))
        return outcome

    def pytest(self, folder: str, tests: list[str], options: list[str]) -> Outcome:
        report = self.root / "report.xml"
        report.unlink(missing_ok=True)
        command = [ROOT / f".venv-{folder}/bin/pytest", "-q", "-p", "no:cacheprovider", *options]
        if folder == "app":
            self.database("test_" + urlsplit(self.server).path.strip("/"), "celeriac_migrated")
            command.append("--reuse-db")
        with (self.root / "output").open("w+") as output:
            process = subprocess.Popen(
                [*command, f"--junitxml={report}", *tests],
                cwd=self.root / folder,
                env=self.environment(folder),
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            try:
                # A break may leave a test waiting for ever; what it has found until then counts.
                with suppress(subprocess.TimeoutExpired):
                    process.wait(PATIENCE)
            finally:
                interrupt(process)
            output.seek(0)
            self.said = output.read()
        return Outcome.read(report.read_text(), folder) if report.exists() else Outcome()

    def try_break(self, each: Break) -> Outcome:
        """Make it, run the tests of its items, and mend it."""
        path = self.root / each.file
        whole = path.read_text()
        path.write_text(whole.replace(each.text, each.instead))
        try:
            return self.run(tests_of(each))
        finally:
            path.write_text(whole)


def tests_of(each: Break) -> list[str]:
    """The tests of its items; those of runtime/ know nothing of the app."""
    tests = {test: None for name in each.items for test in proofs()[name]}
    if each.file.startswith("app/"):
        return [test for test in tests if test.startswith("app/")]
    return list(tests)


def chosen(names: list[str]) -> Iterator[Break]:
    """The breaks of these items, or all."""
    for each in breaks():
        if not names or set(names) & set(each.items):
            yield each


def say(*words: object) -> None:
    print(*words, flush=True)


def main(names: list[str]) -> int:
    """Try the breaks of these items, or of all; the number that no test has noticed."""
    wrong = problems(breaks(), proofs(), items())
    wrong += [f"there is no break of {name}" for name in names if not list(chosen([name]))]
    if wrong:
        say(*wrong, sep="\n")
        return len(wrong)
    # In the background it may be ignored, and then it would be by every process from here on.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    began = time.monotonic()
    todo = list(chosen(names))
    with tempfile.TemporaryDirectory(prefix="celeriac-breaks.") as folder:
        copy = Copy(Path(folder))
        tests = list({test: None for each in todo for test in tests_of(each)})
        # Three at a time, as they run every day.
        whole = copy.run(tests, ["-n3"] if len(tests) > 20 else None)
        if whole.red or whole.other or not whole.passed:
            say(copy.said)
            say("Without a break, these do not pass:", *whole.red, *whole.other, sep="\n  ")
            return len(whole.red) + len(whole.other) or 1
        seconds = time.monotonic() - began
        say(f"unbroken: {whole.passed.total()} tests pass, {seconds:.0f} s\n")
        say(f"{'item':8} {'red':>7} {'s':>5}  break")
        green, reds = [], 0
        for each in todo:
            started = time.monotonic()
            outcome = copy.try_break(each)
            seconds = time.monotonic() - started
            for name in each.items:
                red, of = outcome.of([test for test in proofs()[name] if test in tests_of(each)])
                say(f"{name:8} {f'{red}/{of}':>7} {seconds:5.0f}  {each.what}")
                reds += bool(red)
                if not red:
                    green.append(name)
                    for test, why in outcome.other.items():
                        say(f"{'':24}{test}: {why[0]}")
                    if not (outcome.passed or outcome.other):
                        say(copy.said)
    minutes = (time.monotonic() - began) / 60
    say(f"\n{reds} of {reds + len(green)} items are noticed when broken, {minutes:.0f} minutes")
    if green:
        say("No assertion failed with these broken:", *green)
    return len(green)


if __name__ == "__main__":
    sys.exit(min(main(sys.argv[1:]), 1))
