"""What can go wrong in a step, in words that the customer may read."""


class Problem(Exception):
    """The message is shown to the customer."""


class TemporaryProblem(Problem):
    """It may work in a moment: the task is tried again."""


class PermanentProblem(Problem):
    """Trying again will not help: the order ends here."""
