"""Checkpoints of any pytree: written whole or not at all, verified when read, restored bit for bit.

A checkpoint is a folder `step_000000000012` with `state/` (the leaves by path, written by Orbax) and `manifest.json`
(shapes, dtypes, the caller's metadata, size and SHA-256 of every file). It is built under another name, flushed to the
disk and renamed, so a folder of that name is complete unless it was damaged later, and then its checksums tell.
"""

import contextlib
import logging
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import orbax.checkpoint as ocp

from hippodrome.training.errors import CheckpointError

from .files import flush_folder, read_json, read_manifest, write_json, write_manifest
from .leaves import fill, to_arrays

_LOG = logging.getLogger("hippodrome.checkpoint")
_PREFIX = "step_"
_REPLACED = ".replaced_"


class Checkpointer:
    """The checkpoints of one run, in one folder: the newest ones, and the best besides.

    Args:
        folder: where they are; made when the first one is saved.
        keep: how many of the newest to keep; the best one does not count.
        say: called with a line about each damaged checkpoint that is passed over; a warning is logged by default.

    Raises:
        ValueError: if `keep` is below 1.
    """

    def __init__(self, folder: str | Path, keep: int = 3, *, say: Callable[[str], None] = _LOG.warning):
        if keep < 1:
            raise ValueError(f"keep={keep} must be at least 1")
        self.folder = Path(folder).absolute()
        self.keep = keep
        self._say = say

    def steps(self) -> list[int]:
        """Steps of the checkpoints that are there, oldest first; damaged ones too."""
        names = (each.name.removeprefix(_PREFIX) for each in self.folder.glob(f"{_PREFIX}*"))
        return sorted(int(name) for name in names if name.isdecimal())

    def is_empty(self) -> bool:
        """Whether there is none, not even a damaged one."""
        with contextlib.suppress(OSError):  # a run folder may be read-only
            self._remove_leftovers()
        return not self.steps()

    def best_step(self) -> int | None:
        """Step of the best checkpoint, None where none was called best."""
        step = (read_json(self.folder / "best.json") or {}).get("step")
        return step if step in self.steps() else None

    def save(self, step: int, state: Any, metadata: dict[str, Any], *, best: bool = False) -> Path:
        """Write a checkpoint, then remove those that are no longer kept, and those of later steps.

        Later steps are there when a run went on from an earlier checkpoint: they belong to a past it has left.

        Args:
            step: its number; one of the same number is replaced.
            state: any pytree of arrays, typed PRNG keys and Python numbers.
            metadata: anything JSON can hold.
            best: whether it is the best so far.

        Returns:
            Its folder.

        Raises:
            CheckpointError: if it cannot be written; the previous checkpoints are as they were.
        """
        target = self._path(step)
        temporary = self.folder / f".writing_{target.name}"
        arrays, leaves = to_arrays(state)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._remove_leftovers()
            with _orbax() as orbax:
                orbax.save(temporary / "state", arrays)
            write_manifest(temporary, {"step": step, "metadata": metadata, "leaves": leaves})
            self._put_in_place(temporary, target)
            if best:
                write_json(self.folder / "best.json", {"step": step})
        except Exception as error:  # tensorstore reports a full disk as ValueError, the system as OSError
            shutil.rmtree(temporary, ignore_errors=True)
            raise CheckpointError(self._cannot_write(step, arrays, error)) from error
        self.prune(step)
        return target

    def restore(self, template: Any, step: int | str | None = None, *, under: str = "") -> tuple[Any, dict[str, Any]]:
        """A state as it was saved, and its metadata.

        Args:
            template: a pytree of the same structure, shapes and dtypes: arrays or `jax.ShapeDtypeStruct`, whose
                sharding, if any, the leaves get.
            step: a number; "best"; None for the newest, where a damaged one is reported and the one before it used.
            under: path of a part of the saved state, such as "learner/params"; only that part is restored.

        Raises:
            CheckpointError: if there is none, none intact, or its leaves differ from the template's (naming which).
        """
        with contextlib.suppress(OSError):  # a run folder may be read-only
            self._remove_leftovers()
        for candidate in self._candidates(step):
            try:
                manifest = read_manifest(self._path(candidate))
                with _orbax() as orbax:
                    arrays = orbax.restore(self._path(candidate) / "state")
            except Exception as error:  # whatever it is, the checkpoint cannot be read
                self._say(f"checkpoint {self._path(candidate)} is damaged and passed over: {error}")
                continue
            where = str(self._path(candidate))
            state = fill(template, arrays, manifest["leaves"], under=under, where=where)
            return state, manifest["metadata"]
        asked = "checkpoint" if step is None else f"checkpoint {step!r}"
        raise CheckpointError(f"no intact {asked} in {self.folder} (there: {self.steps() or 'none'})")

    def read_metadata(self, step: int | str | None = None) -> dict[str, Any]:
        """The metadata of a checkpoint, chosen as by `restore`, without its state.

        Raises:
            CheckpointError: if there is none intact.
        """
        for candidate in self._candidates(step):
            try:
                return read_manifest(self._path(candidate))["metadata"]
            except (OSError, ValueError):
                continue
        raise CheckpointError(f"no intact checkpoint in {self.folder} (there: {self.steps() or 'none'})")

    def prune(self, newest: int) -> None:
        """Remove those that are no longer kept, and those of steps after `newest`."""
        best = self.best_step()
        earlier = [step for step in self.steps() if step < newest]
        unwanted = [step for step in self.steps() if step > newest]
        unwanted += [step for step in earlier[: max(0, len(earlier) - self.keep + 1)] if step != best]
        for step in unwanted:
            shutil.rmtree(self._path(step), ignore_errors=True)

    def _path(self, step: int) -> Path:
        return self.folder / f"{_PREFIX}{step:012d}"

    def _candidates(self, step: int | str | None) -> list[int]:
        if step is None:
            return self.steps()[::-1]
        if step == "best":
            best = self.best_step()
            return [] if best is None else [best]
        return [step] if step in self.steps() else []

    def _remove_leftovers(self) -> None:
        for leftover in self.folder.glob(".writing_*"):
            shutil.rmtree(leftover, ignore_errors=True)
        for leftover in self.folder.glob(f"{_REPLACED}*"):
            # Killed between the two renames of `_put_in_place`: the old checkpoint gets its name back.
            original = self.folder / leftover.name.removeprefix(_REPLACED)
            if original.exists():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.rename(original)

    def _put_in_place(self, temporary: Path, target: Path) -> None:
        if target.exists():
            target.rename(self.folder / f"{_REPLACED}{target.name}")
        temporary.rename(target)
        flush_folder(self.folder)
        self._remove_leftovers()

    def _cannot_write(self, step: int, arrays: dict[str, Any], error: Exception) -> str:
        megabytes = sum(array.nbytes for array in arrays.values()) / 1e6
        previous = self.steps()
        kept = f"the previous checkpoint (step {previous[-1]}) is intact" if previous else "there is no earlier one"
        # tensorstore's message begins with the paths it was at and ends with what the system said
        reason = error.strerror if isinstance(error, OSError) else str(error).rpartition(": ")[2]
        reason = (reason or "").partition(" [os_error")[0].strip()
        reason = reason or type(error).__name__
        return (
            f"the checkpoint of step {step} could not be written to {self.folder} ({reason}); {kept}. Make sure the "
            f"folder can be written and has about {2 * megabytes:.1f} MB free, then go on with `hippodrome train "
            f"--resume {self.folder.parent}`"
        )


def _show_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Python's own way, but for what threads of tensorstore report to an event loop that a failed save has closed."""
    if not (kind is RuntimeError and str(error) == "Event loop is closed"):
        sys.__excepthook__(kind, error, trace)


@contextlib.contextmanager
def _orbax() -> Iterator[ocp.Checkpointer]:
    """Orbax without the tracebacks that its threads log besides raising the error."""
    absl = logging.getLogger("absl")
    level = absl.level
    absl.setLevel(logging.CRITICAL)
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _show_error  # to stay: the threads report even after the error
    try:
        # Each process of a run reads and writes for itself; Orbax would wait for all of them.
        me = jax.process_index()
        alone = ocp.options.MultiprocessingOptions(
            primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process_{me}"
        )
        handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
        with ocp.Checkpointer(handler, multiprocessing_options=alone) as orbax:
            yield orbax
    finally:
        absl.setLevel(level)
