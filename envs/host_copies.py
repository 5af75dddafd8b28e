"""Copies of an environment that steps in Python, stepped in turn; without JAX, as workers are to start quickly.

Legend: `B` copies.
"""

import traceback
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np


class HostEnvError(RuntimeError):
    """An environment on the host that failed; the message holds its own traceback."""


class HostCopy(Protocol):
    """One copy. Observations and actions are lists of arrays, one for each part of the space, see `flat_spaces`."""

    def reset(self, seed: int | None) -> list[np.ndarray]:
        """Begins an episode and observes; a seed makes this and all later episodes reproducible."""

    def step(self, action: list[np.ndarray]) -> tuple[list[np.ndarray], float, bool, bool]:
        """Takes one action, never resets: observation, reward, terminated, truncated."""

    def close(self) -> None:
        """Frees what it holds."""


class Stepped(NamedTuple):
    """What one action in each of `B` copies led to.

    Attributes:
        reached: the observation of the action, leaves `[B, ...]`.
        reward: float32 `[B]`.
        terminated, truncated: bool `[B]`, as the environment said.
        current: the first observation of a new episode where one ended, else `reached`.
    """

    reached: list[np.ndarray]
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    current: list[np.ndarray]


class Copies:
    """`count` copies in this process.

    Args:
        factory: makes one copy.
        count: how many.
        first: number of the first one, for messages.

    Raises:
        HostEnvError: where a copy cannot be made, and from every method where one fails.
    """

    def __init__(self, factory: Callable[[], HostCopy], count: int, first: int = 0):
        self._first = first
        self._copies: list[HostCopy] = []
        try:
            for index in range(count):
                self._copies.append(self._told(index, "while it was made", factory))
        except HostEnvError:
            self.close()
            raise

    def reset(self, seeds: np.ndarray) -> list[np.ndarray]:
        """Begins an episode in every copy, `seeds` `[B]`; the observations, leaves `[B, ...]`."""
        return _stacked([self._reset(index, int(seed)) for index, seed in enumerate(seeds)])

    def step(self, action: list[np.ndarray]) -> Stepped:
        """Takes one action (leaves `[B, ...]`) in every copy; begins a new episode where one ended."""
        reached, current, rest = [], [], []
        for index, copy in enumerate(self._copies):
            own = [leaf[index] for leaf in action]
            observation, *outcome = self._told(index, "in step()", copy.step, own)
            # A copy: an environment may write the next observation into the same array.
            reached.append([np.array(leaf) for leaf in observation])
            rest.append(outcome)
            reward, terminated, truncated = outcome
            self._require_finite(index, "an observation", *reached[-1])
            self._require_finite(index, f"reward {reward}", np.asarray(reward))
            current.append(self._reset(index, None) if terminated or truncated else reached[-1])
        reward, terminated, truncated = zip(*rest, strict=True)
        final = _stacked(reached)
        return Stepped(
            reached=final,
            reward=np.array(reward, np.float32),
            terminated=np.array(terminated, bool),
            truncated=np.array(truncated, bool),
            current=_stacked(current) if any(terminated) or any(truncated) else final,
        )

    def close(self) -> None:
        """Closes every copy; what fails in closing one does not keep the others open."""
        for copy in self._copies:
            try:
                copy.close()
            except Exception:
                traceback.print_exc()
        self._copies = []

    def _reset(self, index: int, seed: int | None) -> list[np.ndarray]:
        return [np.array(leaf) for leaf in self._told(index, "in reset()", self._copies[index].reset, seed)]

    def _require_finite(self, index: int, what: str, *leaves: np.ndarray) -> None:
        # nan would be found in a loss, where nothing says that it came from here.
        if not all(np.isfinite(leaf).all() for leaf in leaves if leaf.dtype.kind == "f"):
            raise HostEnvError(
                f"copy {self._first + index}: step() returned {what}, not every number of which is finite"
            )

    def _told(self, index: int, when: str, call: Callable[..., Any], *args: Any) -> Any:
        """What a call into a copy returns; its error with the copy's number and traceback."""
        try:
            return call(*args)
        except Exception as error:
            # Without the frame of this function, which says nothing about the environment.
            raised_in = error.__traceback__ and error.__traceback__.tb_next
            trace = "".join(traceback.format_exception(type(error), error, raised_in))
            raise HostEnvError(f"copy {self._first + index} failed {when}:\n{trace.rstrip()}") from error


def _stacked(copies: list[list[np.ndarray]]) -> list[np.ndarray]:
    return [np.stack(leaves) for leaves in zip(*copies, strict=True)]
