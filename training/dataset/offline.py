"""Learning from a data set alone: replay filled from its file, and no environment stepped.

The episodes lie in replay as in the file, one after the other in a single stream, which begins anew with the first
episode until its windows are whole: every step is in one. Replay's steps are not part of a checkpoint, as the file
holds them; the carries that updates refreshed are.

Legend: `S` steps of the data set, `C` capacity of the stream, `L` steps of a window, `K` steps between carries.
"""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hippodrome.agents import ReplayStep
from hippodrome.envs import VectorEnv
from hippodrome.training.checkpoint.checkpointer import Checkpointer
from hippodrome.training.errors import ConfigError
from hippodrome.training.replay import Replay, ReplayBuffer
from hippodrome.training.replay_size import require_memory

from .file import About, file_digest, read_rows, require_spaces, row_template

_LOG = logging.getLogger("hippodrome.dataset")


@dataclasses.dataclass(frozen=True)
class Offline:
    """A data set as a run learns from it.

    Attributes:
        about: what the file says of itself.
        digest: SHA-256 of the file.
        steps: leaves `[C, 1, ...]`, or `[seeds, C, 1, ...]` where there are several; () once replay has them.
    """

    about: About
    digest: str
    steps: Any


def offline_buffer(config: Any, about: About, agent: Any, envs: VectorEnv) -> ReplayBuffer:
    """The replay that holds a data set; before its rows are read.

    Raises:
        ConfigError: if its spaces are not the environment's, it has no whole window, or memory is too small for it.
    """
    require_spaces(about, envs, f"dataset={config.dataset}")
    if about.env != config.env.id:
        _LOG.warning(
            "dataset=%s is of %s, not env.id=%s: its spaces are the same, the policy is evaluated on the latter",
            config.dataset, about.env, config.env.id,
        )  # fmt: skip
    length, every = config.agent.batch_length, config.agent.carry_steps
    if about.steps < length:
        raise ConfigError(
            f"dataset={config.dataset} has {about.steps} steps, fewer than a window: agent.batch_length={length}"
        )
    buffer = ReplayBuffer(
        capacity=_capacity(config, about),
        carry_every=every,
        length=length,
        batch_size=config.agent.batch_size,
        sampling=config.agent.replay_sampling,
        exponent=config.agent.priority_exponent,
        online=False,
    )
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape), leaf.dtype), row_template(envs))
    steps, carries = buffer.nbytes(one, jax.eval_shape(lambda: agent.initial_carry(1)))
    parts = {
        "for steps": config.num_seeds * steps,
        "for reading them": steps if jax.default_backend() == "cpu" else 0,
        f"for the carries stored every {every} steps": config.num_seeds * carries,
    }
    require_memory(
        f"dataset={config.dataset}", parts, "make a smaller data set, or store carries less often with a larger "
        "agent.carry_every"
    )  # fmt: skip
    return buffer


def offline_replay(buffer: ReplayBuffer, about: About, step: ReplayStep, carry: Any) -> Replay:
    """Replay of a data set without its steps, which come from the file: every carry an initial one.

    Args:
        buffer: its sizes.
        about: of the data set.
        step, carry: of at least one environment, leaves `[B, ...]`; the carries of replay are the first one's.
    """
    step, carry = jax.tree.map(lambda leaf: leaf[:1], (step, carry))
    replay = buffer.init(step, carry)
    count = jnp.full(1, _stream_length(about, buffer.length), jnp.int32)
    nothing: Any = ()
    return dataclasses.replace(
        replay,
        steps=nothing,
        carries=jax.tree.map(lambda all, one: jnp.broadcast_to(one, all.shape), replay.carries, carry),
        priority=jnp.ones_like(replay.priority),
        count=count,
        queued=count,
    )


def read_offline(config: Any, about: About, envs: VectorEnv) -> Offline:
    """Read a run's data set. Raises ConfigError if a row breaks a rule."""
    path, capacity = Path(config.dataset), _capacity(config, about)
    rows = read_rows(path, envs)
    index = np.arange(capacity) % about.steps
    seeds = (config.num_seeds,) if config.num_seeds > 1 else ()

    def stream(leaf: np.ndarray) -> np.ndarray:
        return np.broadcast_to(leaf[index, None], (*seeds, capacity, 1, *leaf.shape[1:]))

    return Offline(about, file_digest(path), jax.tree.map(stream, rows))


def with_steps(state: Any, offline: Offline | None) -> Any:
    """A training state with the data set's steps in its replay; the state itself where there is none."""
    if offline is None:
        return state
    # A copy: a buffer borrowed from NumPy must not be donated to a jitted step.
    steps = jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), offline.steps)
    return dataclasses.replace(state, replay=dataclasses.replace(state.replay, steps=steps))


def without_steps(state: Any, offline: Offline | None) -> Any:
    """The inverse of `with_steps`: what a checkpoint holds."""
    return state if offline is None else dataclasses.replace(state, replay=dataclasses.replace(state.replay, steps=()))


def require_same_data(offline: Offline, run: Path) -> None:
    """Raise ConfigError unless the newest checkpoint of a run was made with this data set."""
    before = Checkpointer(run / "checkpoints").read_metadata()["dataset"]
    if before != offline.digest:
        raise ConfigError(
            f"{run}: the data set is another than the run began with (SHA-256 {offline.digest[:12]} now, "
            f"{before[:12]} then); give that one by --dataset, or begin a new run with --init-from"
        )


def describe(config: Any, offline: Offline) -> str:
    """A line for the log: what is learnt from, and what env_steps counts."""
    about = offline.about
    return (
        f"learning from {config.dataset}: {about.episodes:,} episodes, {about.steps:,} steps of {about.env}. No "
        "environment is stepped: env_steps counts the steps for which agent.train_ratio="
        f"{config.agent.train_ratio:g} asks for as many updates"
    )


def _capacity(config: Any, about: About) -> int:
    """C: the whole stream, and what a `ReplayBuffer` asks for at least."""
    length = config.agent.batch_length
    return max(_stream_length(about, length), length + config.agent.carry_steps)


def _stream_length(about: About, length: int) -> int:
    """S rounded up to whole windows."""
    return -(-about.steps // length) * length
