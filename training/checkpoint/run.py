"""The checkpoints of a run: its whole state each time, replay with the newest alone."""

import dataclasses
from pathlib import Path
from typing import Any

import jax

from hippodrome.training.errors import CheckpointError

from .checkpointer import Checkpointer

REPLAY_FOLDER = "replay"


class RunCheckpoints:
    """Saves and restores training states.

    Replay can be thousands of times larger than the rest, so it lies in a folder of its own, which is written before
    the checkpoint it belongs to and pruned after: whenever a run is killed, the newest checkpoint has its replay.

    Args:
        folder: the run's folder of checkpoints.
        keep: newest checkpoints kept; the best one is kept besides.
    """

    def __init__(self, folder: Path, keep: int):
        self._states = Checkpointer(folder, keep=keep)
        self._before = Checkpointer(folder / REPLAY_FOLDER, keep=2)
        self._after = Checkpointer(folder / REPLAY_FOLDER, keep=1)

    def save(self, update: int, state: Any, metadata: dict[str, Any], *, best: bool) -> None:
        """Write the state of an update. Raises CheckpointError if that fails; what was there before stays."""
        has_replay = state.replay != ()
        if has_replay:
            self._before.save(update, state.replay, {})
        self._states.save(update, dataclasses.replace(state, replay=()), metadata, best=best)
        if has_replay:
            self._after.prune(update)

    def restore(self, template: Any) -> tuple[Any, dict[str, Any]]:
        """The newest intact state with its replay, and its metadata.

        Raises:
            CheckpointError: if there is none, or its replay is missing or damaged.
        """
        state, metadata = self._states.restore(dataclasses.replace(template, replay=()))
        if template.replay == ():
            return state, metadata
        update = metadata["update"]
        try:
            replay, _ = self._before.restore(template.replay, step=update)
        except CheckpointError as error:
            raise CheckpointError(
                f"the checkpoint of update {update} has lost its replay, which only the newest one keeps: {error}. "
                "Begin a new run from its parameters with --init-from"
            ) from error
        return dataclasses.replace(state, replay=replay), metadata


def replay_bytes(state: Any) -> int:
    """Bytes of a state's replay."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(state.replay))
