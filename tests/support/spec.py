"""The marker `spec`: which items of tests/spec.yml a test proves, and a report of all of them.

`pytest --spec-report` reads the tests of the deployment, of app/ and of runtime/ without running
them, for each has an environment of its own.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FILES = ("app/*/test_*.py", "runtime/tests/**/test_*.py", "tests/**/test_*.py")


@cache
def items() -> dict[str, str]:
    """Return the text of every item by its id."""
    return yaml.safe_load((ROOT / "tests/spec.yml").read_text())


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--spec-report", action="store_true", help="show which tests prove which item, and stop"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "spec(*ids): the items of tests/spec.yml that a test proves")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse an id that tests/spec.yml does not know."""
    for item in items:
        for mark in item.iter_markers("spec"):
            if problem := unknown(mark.args):
                raise pytest.UsageError(f"{item.nodeid}: {problem}")


def unknown(ids: tuple[str, ...]) -> str:
    """Return what is wrong with these ids, or an empty string."""
    strange = [str(name) for name in ids if name not in items()]
    return f"tests/spec.yml has no item {', '.join(strange)}" if strange else ""


def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """Print the report instead of running anything."""
    if not config.getoption("--spec-report"):
        return None
    proofs = defaultdict(list)
    for test, ids in marked_tests():
        for name in ids:
            proofs[name].append(test)
    for name, text in items().items():
        print(f"{'x' if name in proofs else ' '} {name:7} {text}")
        for test in sorted(proofs[name]):
            print(f"            {test}")
    covered = sum(bool(proofs[name]) for name in items())
    print(f"\n{covered} of {len(items())} items are proved by a test.")
    return 0


def marked_tests() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each marked test of the repository with its ids."""
    for pattern in FILES:
        for path in sorted(ROOT.glob(pattern)):
            where = str(path.relative_to(ROOT))
            tree = ast.parse(path.read_text(), where)
            shared = module_marks(tree)
            yield from marked_in(tree, where, shared)


def module_marks(tree: ast.Module) -> tuple[str, ...]:
    """Return the ids of the file's `pytestmark`."""
    assignments = [node for node in tree.body if isinstance(node, ast.Assign)]
    marks = [node for node in assignments if ast.unparse(node.targets[0]) == "pytestmark"]
    return tuple(name for node in marks for name in spec_ids(node.value))


def marked_in(
    node: ast.AST, where: str, inherited: tuple[str, ...]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the marked tests below `node`."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        ids = inherited + tuple(name for mark in child.decorator_list for name in spec_ids(mark))
        if isinstance(child, ast.ClassDef):
            yield from marked_in(child, f"{where}::{child.name}", ids)
        elif child.name.startswith("test_") and ids:
            yield f"{where}::{child.name}", ids


def spec_ids(tree: ast.expr) -> Iterator[str]:
    """Yield the ids of each `pytest.mark.spec(...)` in an expression."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.spec":
            yield from (each.value for each in node.args if isinstance(each, ast.Constant))
