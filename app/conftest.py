"""The fixtures of every domain's tests; each domain may have tests in its own folder."""

pytest_plugins = ["tests.fixtures"]
