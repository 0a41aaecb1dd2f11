"""Deploys: a broken release never replaces a running one, a good one costs no request."""

from pathlib import Path

import pytest

from support.deploys import Visitors, copy_of_app, deploy

testinfra_hosts = ["ansible://web"]
JOURNAL = ("*-web@*", "*-worker-*", "*-beat@*")
pytestmark = pytest.mark.usefixtures("reference_project")


def append(text: str, *parts: str):
    """Return a change that appends `text` to a file of the app."""

    def change(app: Path) -> None:
        with app.joinpath(*parts).open("a") as file:
            file.write(text)

    return change


def migration_that_fails(app: Path) -> None:
    """Add a migration that raises."""
    folder = app / "orders/migrations"
    last = max(path.stem for path in folder.glob("0*.py"))
    (folder / "9999_broken.py").write_text(
        "from django.db import migrations\n\n\n"
        "def fail(apps, schema_editor):\n"
        "    raise RuntimeError('this migration cannot work')\n\n\n"
        "class Migration(migrations.Migration):\n"
        f"    dependencies = [('orders', '{last}')]\n"
        "    operations = [migrations.RunPython(fail, migrations.RunPython.noop)]\n"
    )


def unhealthy(app: Path) -> None:
    """Let the health page raise."""
    page = app / "config/health.py"
    text = page.read_text()
    head = "def health(request: HttpRequest) -> JsonResponse:\n"
    assert head in text
    page.write_text(text.replace(head, f"{head}    raise RuntimeError('no health today')\n"))


BROKEN = {
    "a task module that cannot be imported": (
        append("\nimport there_is_no_such_module\n", "orders", "tasks.py"),
        "there_is_no_such_module",
    ),
    "a migration that fails": (migration_that_fails, "this migration cannot work"),
    "a health page that raises": (unhealthy, "no health today"),
    "a queue that nobody consumes": (
        append(
            "\nCELERY_TASK_ROUTES['emails.*'] = {'queue': 'nowhere'}\n", "config", "settings.py"
        ),
        "queue 'nowhere' has no consumer",
    ),
}


@pytest.fixture
def app(variables, tmp_path):
    """A copy of the app that may be changed."""
    return copy_of_app(Path(variables["app_path"]), tmp_path)


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_release_never_replaces_the_running_one(
    inventory, site, host, running, app_name, app, fault
):
    change, words = BROKEN[fault]
    change(app)
    before, current = running(), host.check_output(f"readlink /opt/{app_name}/current")

    with Visitors(site) as visitors:
        said = deploy(inventory, app)

    assert said.returncode != 0
    assert words in said.stdout, said.stdout[-3000:]
    assert running() == before
    assert host.check_output(f"readlink /opt/{app_name}/current") == current
    assert visitors.refused == []
    assert visitors.served > 10


@pytest.fixture
def way_back(inventory, variables):
    """Return to the app as it was."""
    yield
    done = deploy(inventory, Path(variables["app_path"]))
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.spec("G11.1", "G11.2")
def test_a_good_release_replaces_it_without_one_failed_request(
    inventory, site, host, running, effects, app_name, app, way_back
):
    append("\n{# changed #}\n", "templates", "base.html")(app)
    before = running()
    on_the_way = site.place_order(card="flaky")

    with Visitors(site) as visitors:
        said = deploy(inventory, app)

    assert said.returncode == 0, said.stdout[-3000:]
    assert visitors.refused == []
    assert visitors.served > 10
    new = host.check_output(f"readlink /opt/{app_name}/current").rsplit("/", 1)[-1]
    assert not [unit for unit in before if f"@{new}." in unit]
    releases = {unit.split("@")[1].split(".")[0] for unit in running() if "@" in unit}
    assert releases == {new}
    assert site.finish(on_the_way, 60)["step"] == "done"
    assert set(effects(on_the_way).values()) == {1}, effects(on_the_way)
