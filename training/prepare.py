"""What stands before the loop of a run: it is made runnable, what it begins with is read, and its folder is made."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .checkpoint.checkpointer import Checkpointer
from .config import TrainConfig, save_config
from .dataset.file import read_about
from .dataset.offline import Offline, read_offline, require_same_data
from .errors import RunFolderError
from .given import given_params
from .held import held
from .replay_size import check_learns, check_replay_memory, learns_from_replay
from .run_folder import create_run_folder, require_writable
from .step import Experiment, RemoteActors, make_experiment


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A run that nothing is wrong with, before its folder is touched.

    Attributes:
        config: what to train.
        experiment: the same, made runnable.
        offline: the data set it learns from, if it does.
        given: the parameters it begins with, where they come from another run.
        resume: whether it goes on in its folder.
        has_checkpoint: whether there is something to go on from.
    """

    config: TrainConfig
    experiment: Experiment
    offline: Offline | None
    given: Any
    resume: bool
    has_checkpoint: bool

    @property
    def env_steps(self) -> int:
        """Environment steps of the whole run."""
        return self.config.num_updates * self.config.steps_per_update


def prepare(config: TrainConfig, resume: Path | None, actors: RemoteActors | None = None) -> Prepared:
    """Make a configuration runnable, and read what the run begins with. Errors as of `train`."""
    about = None if config.dataset is None else read_about(config.dataset)
    experiment = make_experiment(config, about, actors)
    if learns_from_replay(experiment.agent):
        check_learns(config)
        if about is None:
            check_replay_memory(config, experiment.agent, experiment.envs)
    offline = None if about is None else read_offline(config, about, experiment.envs)
    goes_on = resume is not None and has_checkpoint(resume)
    if resume is not None and offline is not None and goes_on:
        require_same_data(offline, resume)
    given = None
    if config.init_from is not None and not goes_on:
        given = given_params(config, experiment)
    return Prepared(config, experiment, offline, given, resume is not None, goes_on)


@contextlib.contextmanager
def run_folder(config: TrainConfig, run_dir: str | Path | None, resume: str | Path | None) -> Iterator[Path]:
    """The folder to train in, with its config.yaml, held for the block: that of the run to resume, or a new one.

    Raises:
        RunFolderError: if it cannot be made or written, or another process trains in it.
    """
    if resume is None:
        folder = create_run_folder(run_dir, name=f"{config.memory.kind}-{config.env.id}")
    else:
        folder = Path(resume)
        require_writable(folder)
    with held(folder):
        try:
            save_config(config, folder / "config.yaml")
        except OSError as error:
            raise cannot_write_folder(folder, error) from error
        yield folder


def cannot_write_folder(folder: Path, error: OSError) -> RunFolderError:
    """What to say where the first files of a run cannot be written."""
    return RunFolderError(f"run folder {folder} cannot be written: {error.strerror}; nothing in it was changed")


def has_checkpoint(run: Path) -> bool:
    """Whether a run has a checkpoint; or had one, as it was evaluated at its end: then its log is not begun anew."""
    return not Checkpointer(run / "checkpoints").is_empty() or (run / "evaluation.json").exists()
