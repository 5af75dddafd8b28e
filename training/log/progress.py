"""The progress of a training run: a live bar on a terminal, a plain line now and then elsewhere."""

import dataclasses
import time
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

SECONDS_BETWEEN_LINES = 15.0


def table_console() -> Console:
    """Standard output for tables: as wide as the terminal, or wide enough for them where it is a file or a pipe."""
    console = Console()
    return console if console.is_terminal else Console(width=120)


class Stopwatch:
    """Steps per second of training alone: without what happened before the first lap, compiling above all.

    Call `lap` after every update, and `pause` before anything that is no training (an evaluation, a checkpoint): what
    passes until the next `resume` is not counted.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.steps = 0
        self._before_learning: tuple[int, float] | None = None
        self._since: float | None = None
        self._started = False

    def lap(self, steps: int, *, learnt: bool = True) -> None:
        """Count an update of so many steps, and whether it learnt something; the first call only starts the watch."""
        now = time.perf_counter()
        if self._started and learnt and self._before_learning is None:
            self._before_learning = self.steps, self.seconds
        if self._since is not None:
            self.seconds += now - self._since
        if self._started:
            self.steps += steps
        self._started = True
        self._since = now

    def pause(self) -> None:
        """Count the time until now, and none from here on until `resume`."""
        if self._since is not None:
            self.seconds += time.perf_counter() - self._since
            self._since = None

    def resume(self) -> None:
        """Count from now on again, if the first lap has been."""
        if self._started:
            self._since = time.perf_counter()

    @property
    def steps_per_second(self) -> float | None:
        """Of everything counted; None before the second lap."""
        return self.steps / self.seconds if self.steps else None

    @property
    def learning_speed(self) -> float | None:
        """Steps per second since the first lap that learnt; None before, as filling replay is many times faster."""
        if self._before_learning is None:
            return None
        steps, seconds = self._before_learning
        return (self.steps - steps) / (self.seconds - seconds)


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        env_steps: done so far.
        steps_per_second: of training alone, None while unknown.
        learning_speed: the same since learning began, by which the time left is told; None before.
        episode_return: mean of the latest episodes, None while none ended.
        seed_returns: the same of each seed, of the episodes since the last report.
    """

    env_steps: int
    steps_per_second: float | None = None
    learning_speed: float | None = None
    episode_return: float | None = None
    seed_returns: tuple[float | None, ...] = ()


class Reporter(Protocol):
    """Is told how a run goes: a `ProgressBar`, or what hands it on to one."""

    def update(self, progress: Progress) -> None:
        """How far it is."""

    def say(self, text: str) -> None:
        """A line about it."""


class ProgressBar:
    """Environment steps done, steps per second, return, and time left.

    Args:
        total_env_steps: of the run.
        console: where to draw; standard error by default.
    """

    def __init__(self, total_env_steps: int, console: Console | None = None):
        self.total_env_steps = total_env_steps
        self.console = console or Console(stderr=True)
        self._last_line = -float("inf")
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[status]}"))
        self._progress = Bar(*columns, console=self.console, disable=not self.console.is_terminal)
        self._task = self._progress.add_task("compiling", total=total_env_steps, status="")

    def __enter__(self) -> "ProgressBar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, progress: Progress) -> None:
        """Show where the run is; off a terminal, print a line if the last is some time ago or this is the end."""
        env_steps, status = progress.env_steps, self._status(progress)
        if self.console.is_terminal:
            self._progress.update(self._task, completed=env_steps, description="training", status=status)
            return
        now = time.monotonic()
        if now - self._last_line >= SECONDS_BETWEEN_LINES or env_steps >= self.total_env_steps:
            self._last_line = now
            self.console.print(status, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _status(self, progress: Progress) -> str:
        parts = [f"{progress.env_steps:,}/{self.total_env_steps:,} steps"]
        if progress.steps_per_second:
            parts.append(f"{progress.steps_per_second:,.0f} steps/s")
        parts.append("return -" if progress.episode_return is None else f"return {progress.episode_return:.3f}")
        if progress.learning_speed:
            left = self.total_env_steps - progress.env_steps
            parts.append(f"ETA {_clock(left / progress.learning_speed)}")
        return "  ".join(parts)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
