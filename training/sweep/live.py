"""The live table of a sweep: every trial, its values, how far it is and what it reached."""

import contextlib
import signal
import time
from collections.abc import Iterator
from typing import Any

from ray.tune import Callback
from rich.console import Console
from rich.live import Live
from rich.table import Table

from .config import SweepConfig

_SECONDS_BETWEEN_LINES = 30.0
_ENDED = ("TERMINATED", "ERROR")


class LiveTable(Callback):
    """Drawn anew as trials report; off a terminal a line when one ends, and now and then one about all of them.

    Args:
        sweep: which.
        interrupted: holds a signal's number once one came; Ray Tune is then told to end as it does at its own signal.

    Attributes:
        trials: Ray Tune's trials by id.
    """

    def __init__(self, sweep: SweepConfig, interrupted: list[int]):
        self.sweep = sweep
        self._interrupted = interrupted
        self._told = False
        self.trials: dict[str, Any] = {}
        self._live: Live | None = None
        self._console: Console | None = None
        self._last_line = 0.0

    def __getstate__(self) -> dict[str, Any]:
        # Ray Tune pickles its callbacks; a terminal cannot be.
        fresh: dict[str, Any] = {
            "trials": {},
            "_live": None,
            "_console": None,
            "_last_line": 0.0,
            "_interrupted": [],
            "_told": False,
        }
        return {"sweep": self.sweep, **fresh}

    @property
    def unfinished(self) -> bool:
        """Whether a trial has not ended, or not begun."""
        ended = [trial for trial in self.trials.values() if trial.status in _ENDED]
        return len(ended) < self.sweep.total_trials

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Shows the table during the block."""
        self._console = Console(stderr=True)
        if not self._console.is_terminal:
            yield
            return
        with Live(console=self._console, get_renderable=self.table, refresh_per_second=2) as self._live:
            yield

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Called by Ray Tune after each of its steps, with every trial."""
        self.trials |= {trial.trial_id: trial for trial in trials}
        if self._interrupted and not self._told:
            self._told = True
            signal.raise_signal(signal.SIGUSR1)
        now = time.monotonic()
        if self._live is None and self._console is not None and now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            counts = [f"{number} {word}" for word, number in self._counts().items() if number]
            self._console.print(f"trials: {', '.join(counts)} of {self.sweep.total_trials}", highlight=False)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called by Ray Tune when a trial ended."""
        self._say(trial, "ended")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called by Ray Tune when a trial failed."""
        self._say(trial, "failed")

    def table(self) -> Table:
        """What is known of every trial."""
        table = Table(title=f"{len(self.trials)} of {self.sweep.total_trials} trials")
        for name in ("trial", *self.sweep.space, "status", "env steps", "score", "interval"):
            table.add_column(name)
        for trial in self.trials.values():
            table.add_row(
                trial.trial_id, *(short(trial.config.get(each)) for each in self.sweep.space), *_status(trial)
            )
        return table

    def _counts(self) -> dict[str, int]:
        words = [trial.status.lower() for trial in self.trials.values()]
        return {word: words.count(word) for word in ("terminated", "running", "pending", "paused", "error")}

    def _say(self, trial: Any, what: str) -> None:
        if self._live is not None or self._console is None:
            return
        values = ", ".join(f"{name}={short(trial.config.get(name))}" for name in self.sweep.space)
        _, steps, score, interval = _status(trial)
        text = f"trial {trial.trial_id} {what}: {values}; {steps} env steps, score {score} ({interval})"
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def short(value: Any) -> str:
    """A value of the space as people read it."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _status(trial: Any) -> tuple[str, str, str, str]:
    last = trial.last_result or {}
    steps = f"{last['env_steps']:,}" if "env_steps" in last else "-"
    score = f"{last['score']:.3f}" if "score" in last else "-"
    interval = f"{last['score_low']:.3f} to {last['score_high']:.3f}" if "score" in last else "-"
    return trial.status.lower(), steps, score, interval
