"""Data sets: whole episodes in one file of an open format, checked when written and when read.

Format 1 is a NumPy .npz file (no pickle) of arrays with one row for each step, episodes one after the other, the rows
of `ReplayStep`: an episode of T actions has T + 1 rows, the observation that ended it among them.

    observation        what was seen; of a Dict or Tuple space one array for each part: observation/NAME, deeper ones
                       observation/NAME/NAME
    reset              bool; the row is the first of an episode
    previous_action    the action that led to the row, of the action space, by parts as the observation; at the first
                       row of an episode -1 if discrete, 0 if continuous
    reward             float32; what that action yielded; 0 at the first row
    terminal           bool; the episode ended here and nothing is beyond
    last               bool; the episode ended here, or was cut off
    about              a JSON text: format, version, env, policy, observation_space, action_space, episodes, steps

Legend: `S` rows, `T` actions of an episode.
"""

import dataclasses
import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hippodrome.agents import ReplayStep
from hippodrome.envs import VectorEnv, environment_keys, null_action, vectorize
from hippodrome.training.checkpoint.files import flush_folder
from hippodrome.training.checkpoint.leaves import named_leaves
from hippodrome.training.config.checks import build_env
from hippodrome.training.config.schema import EnvConfig
from hippodrome.training.errors import ConfigError, RunFolderError
from hippodrome.training.rollout import replay_step

from .checks import check_rows, fitted

FORMAT = "hippodrome episodes"
VERSION = 1
# What NumPy, zipfile and zlib raise for a file whose bytes are not what they were.
_DAMAGED = (OSError, ValueError, EOFError, KeyError, NotImplementedError, zipfile.BadZipFile, zlib.error, RuntimeError)
_FIELDS = ("observations", "actions", "rewards", "terminations", "truncations")


@dataclasses.dataclass(frozen=True)
class About:
    """What a data set says of itself.

    Attributes:
        env: id of the environment.
        policy: who played, in words.
        observation_space, action_space: their `repr`.
        episodes: how many.
        steps: rows, S.
    """

    env: str
    policy: str
    observation_space: str
    action_space: str
    episodes: int
    steps: int


def write_episodes(path: str | Path, episodes: Iterable[Any], env: str | EnvConfig, *, policy: str = "") -> About:
    """Make a data set of your own episodes.

    Args:
        path: the file, .npz, which must not exist.
        episodes: each a mapping or an object (such as Minari's `EpisodeData`) with `observations` (T + 1 of them; a
            dict or tuple of arrays where the space is one), `actions`, `rewards`, `terminations`, `truncations` (T
            each). The last step alone is terminated or truncated; where it is both, terminated wins.
        env: the environment they are of; its spaces say what is to be in them.
        policy: who played, in words.

    Returns:
        What the file says of itself.

    Raises:
        ConfigError: for a path that does not end in .npz, an unknown environment, or an episode that breaks a rule:
            names both.
        RunFolderError: if the file exists or cannot be written.
    """
    path = new_file(path)
    config = env if isinstance(env, EnvConfig) else EnvConfig(id=env)
    envs = vectorize(*build_env(config))
    template = row_template(envs)
    null = jax.tree.map(lambda leaf: np.asarray(leaf)[None], null_action(envs.action_space))
    rows = [_rows(f"episode {number}", episode, template, null) for number, episode in enumerate(episodes)]
    return write_rows(path, rows, envs, env=config.id, policy=policy)


def write_rows(path: Path, episodes: Sequence[ReplayStep], envs: VectorEnv, *, env: str, policy: str) -> About:
    """Write episodes that are rows already, `[T + 1, ...]`; whole or not at all. Errors as of `write_episodes`."""
    if not episodes:
        raise ConfigError(f"{path}: a data set must have at least one episode")
    steps = jax.tree.map(lambda *parts: np.concatenate(parts), *episodes)
    check_rows(steps, row_template(envs), envs, str(path))
    spaces = {"observation_space": repr(envs.observation_space), "action_space": repr(envs.action_space)}
    about = About(env=env, policy=policy, **spaces, episodes=len(episodes), steps=len(steps.reset))
    text = json.dumps({"format": FORMAT, "version": VERSION, **dataclasses.asdict(about)})
    temporary = path.with_name(f".{path.name}.writing")
    try:
        with temporary.open("wb") as file:
            np.savez_compressed(file, about=np.array(text), **named_leaves(steps))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        flush_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RunFolderError(f"{path} cannot be written: {error.strerror}") from error
    return about


def read_about(path: str | Path) -> About:
    """What a data set says of itself; its rows are not read.

    Raises:
        ConfigError: if it cannot be read, or is no data set of this format and version.
    """
    with _opened(path) as file:
        try:
            text = str(file["about"]) if "about" in file.files else "{}"
        except _DAMAGED as error:
            raise _damaged(path, error) from error
        try:
            said = json.loads(text)
            if said.pop("format") != FORMAT:
                raise KeyError("format")
            version = said.pop("version")
            if version == VERSION:
                return About(**said)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConfigError(
                f"{path} is no data set of hippodrome; make one by `hippodrome record` or "
                "hippodrome.training.write_episodes"
            ) from error
    raise ConfigError(f"{path} has version {version} of the format, this program reads version {VERSION}")


def read_rows(path: str | Path, envs: VectorEnv) -> ReplayStep:
    """The rows of a data set, leaves `[S, ...]`, checked.

    Args:
        path: the file.
        envs: the environment that its spaces must be those of.

    Raises:
        ConfigError: if it cannot be read, has other spaces, or breaks a rule of the format.
    """
    about = read_about(path)
    require_spaces(about, envs, str(path))
    template = row_template(envs)
    names = list(named_leaves(template))
    with _opened(path) as file:
        missing = [name for name in names if name not in file.files]
        if missing:
            raise ConfigError(f"{path} lacks the arrays {', '.join(missing)}")
        try:
            arrays = [file[name] for name in names]
        except _DAMAGED as error:
            raise _damaged(path, error) from error
    steps = jax.tree.unflatten(jax.tree.structure(template), arrays)
    check_rows(steps, template, envs, str(path))
    if (int(steps.reset.sum()), len(steps.reset)) != (about.episodes, about.steps):
        raise ConfigError(f"{path} has {int(steps.reset.sum())} episodes of {len(steps.reset)} steps, not {about}")
    return steps


def row_template(envs: VectorEnv) -> ReplayStep:
    """Shapes and types of one row, as replay of this environment keeps it."""
    state = jax.eval_shape(lambda: envs.reset(environment_keys(jax.random.key(0), 0, 1)))
    one = jax.eval_shape(replay_step, state.timestep)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), one)


def require_spaces(about: About, envs: VectorEnv, where: str) -> None:
    """Raise ConfigError, naming both, unless a data set's spaces are those of an environment."""
    pairs = {
        "observation": (about.observation_space, repr(envs.observation_space)),
        "action": (about.action_space, repr(envs.action_space)),
    }
    errors = [
        f"{where} (of {about.env}) has the {name} space {there}, but the environment has {here}"
        for name, (there, here) in pairs.items()
        if there != here
    ]
    if errors:
        raise ConfigError(errors)


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def new_file(path: str | Path) -> Path:
    """A path where a data set can be made.

    Raises:
        ConfigError: if its name does not end in .npz.
        RunFolderError: if there is a file, or no folder for it.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise ConfigError(f"{path} must end in .npz, the format of a data set: name it {path.name}.npz")
    if path.exists():
        raise RunFolderError(f"{path} exists; choose another name, or remove it")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise RunFolderError(f"{path} cannot be written: {path.parent} is no folder that can be written to")
    return path


def _damaged(path: str | Path, error: Exception) -> ConfigError:
    return ConfigError(f"{path} is damaged ({error}); copy or record it again")


def _opened(path: str | Path) -> Any:
    try:
        file = np.load(path, allow_pickle=False)
    except _DAMAGED as error:
        reason = getattr(error, "strerror", None) or "it is no .npz file"
        raise ConfigError(
            f"the data set {path} cannot be read: {reason}; if it lies elsewhere, give its path by --dataset"
        ) from error
    if not isinstance(file, np.lib.npyio.NpzFile):
        raise ConfigError(f"the data set {path} cannot be read: it is no .npz file")
    return file


def _rows(which: str, episode: Any, template: ReplayStep, null: Any) -> ReplayStep:
    """An episode in the usual layout as rows, `[T + 1, ...]`; `null` is the action of the first, leaves `[1, ...]`."""
    given = {name: _field(which, episode, name) for name in _FIELDS}
    num_steps = len(np.asarray(given["rewards"]).reshape(-1))
    if num_steps == 0:
        raise ConfigError(f"{which}: rewards is empty; an episode must have at least one action")
    flag = jax.ShapeDtypeStruct((), jnp.bool_)
    observation = fitted(f"{which}: observations", given["observations"], template.observation, num_steps + 1)
    actions = fitted(f"{which}: actions", given["actions"], template.previous_action, num_steps)
    rewards = fitted(f"{which}: rewards", given["rewards"], template.reward, num_steps)
    terminated, truncated = (
        fitted(f"{which}: {name}", given[name], flag, num_steps) for name in ("terminations", "truncations")
    )
    ended = terminated | truncated
    if ended[:-1].any():
        raise ConfigError(
            f"{which}: step {int(ended.argmax())} ends it, but {num_steps - 1} is its last; make two episodes of it"
        )
    if not ended[-1]:
        raise ConfigError(
            f"{which}: its last step must be terminated or truncated; where the recording was cut off, set "
            "truncations[-1]"
        )
    reward: Any = np.concatenate([np.zeros(1, np.float32), rewards])
    first, last = np.arange(num_steps + 1) == 0, np.arange(num_steps + 1) == num_steps
    return ReplayStep(
        observation=observation,
        reset=first,
        previous_action=jax.tree.map(lambda one, all: np.concatenate([one, all]), null, actions),
        reward=reward,
        terminal=last & terminated[-1],
        last=last,
    )


def _field(which: str, episode: Any, name: str) -> Any:
    found = episode.get(name) if isinstance(episode, Mapping) else getattr(episode, name, None)
    if found is None:
        raise ConfigError(f"{which} lacks {name}; an episode has {', '.join(_FIELDS)}")
    return found
