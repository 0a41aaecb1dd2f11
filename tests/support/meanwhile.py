"""What goes on beside a test, again and again; whatever goes wrong in it is kept as a failure."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from http.client import HTTPException
from typing import Any

# What a client is told, or meets, when it is refused; after anything else the thread would be dead.
REFUSALS = (OSError, HTTPException, AssertionError)


class Meanwhile:
    """Does something every few seconds as long as the block lasts, and counts how it went."""

    def __init__(self, act: Callable[[], Any], every: float) -> None:
        self._act, self._every = act, every
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._repeat)
        self.served = 0
        self.refused: list[str] = []

    def _repeat(self) -> None:
        try:
            while not self._end.wait(self._every):
                try:
                    self._act()
                except REFUSALS as error:
                    self._note(error)
                else:
                    self.served += 1
        except BaseException as error:
            self._note(error, "ended by ")
            raise

    def _note(self, error: BaseException, what: str = "") -> None:
        said = f"{time.strftime('%X')} {what}{type(error).__name__}: {error}"
        self.refused.append(said[:300])

    def __enter__(self) -> Any:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
