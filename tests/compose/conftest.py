"""The shop of app/compose.yaml, started for real from a copy of the working tree."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from support.compose import LABEL, PlainSite, Project, run
from support.inventory import ROOT


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """The project, up and healthy; removed at the end, and at the start what a killed run left."""
    folder = tmp_path_factory.mktemp("source")
    listed = run(
        "git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard",
        ".dockerignore", "app", "runtime/src", "roles/flower/files",
    )  # fmt: skip
    for name in listed.split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    found = Project(folder, run(ROOT / "bin/image", "bookworm").strip())
    found("down", "--volumes", "--remove-orphans")
    try:
        found("up", "--detach", "--build")
        # Those of an earlier run, whose names are the new ones' now.
        run("docker", "image", "prune", "--force", "--filter=label=celeriac.host=test")
        found.wait_healthy()
        yield found
    finally:
        found("down", "--volumes", "--remove-orphans")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[Any]:
    """Show what the containers said lately when a test has failed."""
    report = yield
    if report.failed:
        for container in run(
            "docker", "ps", "--all", "--format={{.Names}}", "--filter", LABEL
        ).split():
            said = subprocess.run(
                ["docker", "logs", "--tail", "25", container],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
            )  # fmt: skip
            report.sections.append((f"log of {container}", said.stdout))
    return report


@pytest.fixture
def site(project: Project) -> PlainSite:
    """A visitor of the shop."""
    host, port = project.address("web", 8000)
    return PlainSite(address=host, domain="localhost", context=None, port=port, public_port=port)


@pytest.fixture
def effects(project: Project) -> Callable[[str], dict[str, int]]:
    """Return a function that counts what came of an order, by kind."""

    def count(path: str) -> dict[str, int]:
        identity = path.strip("/").split("/")[-1]
        tables = ("payments_payment", "orders_crate", "orders_invoice", "emails_mail")
        one = (
            "(SELECT count(*) FROM {} e JOIN orders_order o ON o.id = e.order_id"
            f" WHERE public_id = '{identity}')"
        )
        (row,) = project.sql("SELECT " + ", ".join(one.format(table) for table in tables))
        found = dict(zip(tables, map(int, row.split("|")), strict=True))
        mails = project.log("mail").count(f"Message-ID: <confirmation-{identity}@")
        return found | {"mails": mails}

    return count
