"""Replay made of a configuration, and whether this machine holds it: told before anything compiles.

Legend: `B` environments.
"""

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import jax

from hippodrome.envs import VectorEnv, environment_keys

from .errors import ConfigError
from .replay import ReplayBuffer
from .rollout import replay_step

# Of the updates for a training step: products of two of them stay within int32.
MAX_DENOMINATOR = 10_000


def learns_from_replay(agent: Any) -> bool:
    """Whether an agent takes windows of replay and not rollouts."""
    return getattr(agent, "learns_from_replay", False)


def replay_buffer(config: Any) -> ReplayBuffer:
    """The replay of a training configuration, its capacity split evenly among environments, in whole carry spans.

    With several shards it is the replay of one of them, which draws its share of the batch.

    Raises:
        ConfigError: if an environment's share cannot hold a window, or one rollout.
    """
    agent, num_envs = config.agent, config.env.num_envs
    every, share = agent.carry_steps, agent.replay_capacity // num_envs
    # A rollout adds two steps for each one taken where every episode is one step long.
    least = max(agent.batch_length + every, 2 * agent.num_steps)
    least = -(-least // every) * every
    if share < least:
        raise ConfigError(
            f"agent.replay_capacity={agent.replay_capacity} must be at least {num_envs * least}: each of the "
            f"env.num_envs={num_envs} environments needs room for a window (agent.batch_length={agent.batch_length}), "
            f"one stored carry more (agent.carry_every={every}) and two rollouts (agent.num_steps={agent.num_steps})"
        )
    return ReplayBuffer(
        capacity=share // every * every,
        carry_every=every,
        length=agent.batch_length,
        batch_size=agent.batch_size // config.num_shards,
        sampling=agent.replay_sampling,
        exponent=agent.priority_exponent,
        online=agent.online_queue,
    )


def check_learns(config: Any) -> None:
    """Raise ConfigError if a run is sure to end before its learner's first update."""
    agent, num_envs = config.agent, config.env.num_envs
    first = 0
    if config.dataset is None:  # two steps of a stream for each one taken, at most: where every episode has one
        first = -(-agent.batch_length // (2 * agent.num_steps))
    updates = updates_per_step(config)
    due = int(config.num_updates * updates) - int(max(0, first - 1) * updates)
    if config.num_updates >= first and due >= 1:
        return
    raise ConfigError(
        f"total_env_steps={config.total_env_steps} ends before anything is learnt: each of the "
        f"env.num_envs={num_envs} environments must show agent.batch_length={agent.batch_length} steps before its "
        f"first window is whole, and agent.train_ratio={agent.train_ratio} then gives {float(updates):.3g} updates of "
        f"agent.batch_size={agent.batch_size} windows for each {config.steps_per_update} steps; raise total_env_steps "
        "or agent.train_ratio, or lower agent.batch_length or agent.batch_size"
    )


def updates_per_step(config: Any) -> Fraction:
    """The learner's updates for each training step, so that `train_ratio` steps are replayed for each one taken.

    Exact but for a ratio whose fraction has a denominator above 10,000, which becomes the nearest that has not.
    """
    replayed = Fraction(repr(config.agent.train_ratio)) * config.steps_per_update
    return (replayed / (config.agent.batch_size * config.agent.batch_length)).limit_denominator(MAX_DENOMINATOR)


def check_replay_memory(config: Any, agent: Any, envs: VectorEnv) -> None:
    """Raise ConfigError if replay does not fit into this machine's free memory while a checkpoint is made of it.

    Beside it, a rollout: two steps and the carry before each for every one taken (see `rollout.record`).
    """
    num_envs, buffer = config.env.num_envs, replay_buffer(config)

    def one() -> Any:
        state = envs.reset(environment_keys(jax.random.key(0), 0, num_envs))
        return replay_step(state.timestep), agent.initial_carry(num_envs)

    step, carry = jax.eval_shape(one)
    # The devices of a CPU share its memory.
    sharers = config.num_devices if jax.default_backend() == "cpu" else 1
    devices = config.total_devices // sharers
    steps, carries = (size // devices for size in buffer.nbytes(step, carry))
    rollout = 2 * config.agent.num_steps * (tree_bytes(step) + tree_bytes(carry)) // devices
    # A checkpoint is made from a copy in host memory, which is this one's own where that is a CPU.
    copies = 2 if jax.default_backend() == "cpu" else 1
    parts = {
        "for steps": config.num_seeds * steps,
        f"for the carries stored every {buffer.carry_every} steps": config.num_seeds * carries,
        f"for a rollout of agent.num_steps={config.agent.num_steps}": config.num_seeds * rollout,
    }
    if copies > 1:
        parts["for a copy while a checkpoint is written"] = config.num_seeds * (steps + carries)
    left = (free_memory() or 0) - config.num_seeds * rollout
    fits = max(0, int(config.agent.replay_capacity * left / (copies * config.num_seeds * (steps + carries))))
    require_memory(
        f"agent.replay_capacity={config.agent.replay_capacity}",
        parts,
        f"about {fits} steps fit; lower it, or agent.num_steps, or store carries less often with a larger "
        "agent.carry_every",
    )


def require_memory(what: str, parts: dict[str, int], remedy: str) -> None:
    """Raise ConfigError unless this machine has the memory free.

    Args:
        what: needs it: a field and its value.
        parts: bytes by what they are for.
        remedy: what to do otherwise.
    """
    needed, free = sum(parts.values()), free_memory()
    if free is None or needed <= free:
        return
    listing = ", ".join(f"{_gigabytes(number)} {name}" for name, number in parts.items())
    raise ConfigError(f"{what} needs {_gigabytes(needed)} GB ({listing}), but {_gigabytes(free)} GB are free: {remedy}")


def tree_bytes(tree: Any) -> int:
    """Bytes of arrays, or of what only has their shapes and types."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def free_memory() -> int | None:
    """Bytes free on the device that trains, or of this machine's memory where that is a CPU; None where unknown."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        found = device.memory_stats() or {}
        if "bytes_limit" in found:
            return int(found["bytes_limit"] - found.get("bytes_in_use", 0))
        return None
    return min((each for each in (_free_of_machine(), _free_of_container()) if each is not None), default=None)


def _free_of_machine() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    sizes = dict(line.split(":", 1) for line in lines)
    return int(sizes["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in sizes else None


def _free_of_container(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What the limit of this control group leaves (version 2), files it could give back counted as free."""
    try:
        limit, used = (int((root / name).read_text()) for name in ("memory.max", "memory.current"))
        lines = (root / "memory.stat").read_text().splitlines()
    except (OSError, ValueError):  # there is none, or its limit is "max"
        return None
    counts = dict(line.split() for line in lines)
    return limit - used + int(counts.get("inactive_file", 0))


def _gigabytes(number: int) -> str:
    return f"{number / 1e9:.2f}"
