"""The same task with relier, as its documentation writes one for Django's synchronous code."""

from relier import rl_task

import work.tasks  # its signal notes what a worker has received


@rl_task(idempotent=True)
def effect(number: int, seconds: float) -> None:
    work.tasks.effect(number, seconds)
