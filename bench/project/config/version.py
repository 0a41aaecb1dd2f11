"""What bench/deploy changes from release to release."""

VERSION = "0"
