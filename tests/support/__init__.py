"""Helpers of the tests: inventories, hosts, the site as a visitor sees it, the specification."""
