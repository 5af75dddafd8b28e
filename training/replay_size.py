"""Replay made of a configuration, and whether this machine holds it: told before anything compiles.

Legend: `B` environments.
"""

import math
from pathlib import Path
from typing import Any

import jax

from hippodrome.envs import VectorEnv, environment_keys

from .errors import ConfigError
from .replay import ReplayBuffer
from .rollout import replay_step


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


def check_replay_memory(config: Any, buffer: ReplayBuffer, agent: Any, envs: VectorEnv) -> None:
    """Raise ConfigError if replay, and a rollout before it is added to it, do not fit into this machine's free memory.

    A rollout holds two steps and the carry before each for every one taken (see `rollout.record`).
    """
    num_envs = config.env.num_envs

    def one() -> Any:
        state = envs.reset(environment_keys(jax.random.key(0), 0, num_envs))
        return replay_step(state.timestep), agent.initial_carry(num_envs)

    step, carry = jax.eval_shape(one)
    # The devices of a CPU share its memory.
    sharers = config.num_devices if jax.default_backend() == "cpu" else 1
    devices = config.total_devices // sharers
    steps, carries = (size // devices for size in buffer.nbytes(step, carry))
    rollout = 2 * config.agent.num_steps * (tree_bytes(step) + tree_bytes(carry)) // devices
    parts = {
        "for steps": config.num_seeds * steps,
        f"for the carries stored every {buffer.carry_every} steps": config.num_seeds * carries,
        f"for a rollout of agent.num_steps={config.agent.num_steps}": config.num_seeds * rollout,
    }
    left = (free_memory() or 0) - config.num_seeds * rollout
    fits = max(0, int(config.agent.replay_capacity * left / (config.num_seeds * (steps + carries))))
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
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    sizes = dict(line.split(":", 1) for line in lines)
    return int(sizes["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in sizes else None


def _gigabytes(number: int) -> str:
    return f"{number / 1e9:.2f}"
