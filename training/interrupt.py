"""Ctrl-C and SIGTERM as a flag, so that a run can finish its update and save."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def interrupt_flag() -> Iterator[list[int]]:
    """A list that holds the signal once SIGINT or SIGTERM came; a second one ends the process as usual."""
    received: list[int] = []
    previous: dict[int, Any] = {}

    def note(number: int, _: Any) -> None:
        if received:
            signal.signal(number, previous[number])
            signal.raise_signal(number)
        received.append(number)

    try:
        for each in (signal.SIGINT, signal.SIGTERM):
            previous[each] = signal.signal(each, note)
    except ValueError:
        # Not the main thread: signals are somebody else's.
        previous.clear()
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
