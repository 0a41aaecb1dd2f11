"""What all tests of the deployment share; each plugin says what it brings."""

pytest_plugins = ["support.spec", "support.hosts"]
