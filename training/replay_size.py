"""Replay made of a configuration, and whether this machine holds it: told before anything compiles.

Legend: `B` environments.
"""

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

    Raises:
        ConfigError: if an environment's share cannot hold a window, or one rollout; for several devices.
    """
    for name in ("num_devices", "num_shards"):
        if getattr(config, name) > 1:
            raise ConfigError(
                f"{name}={getattr(config, name)} must be 1 with agent.kind={config.agent.kind}: replay lies on one "
                "device, so far"
            )
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
        batch_size=agent.batch_size,
        sampling=agent.replay_sampling,
        exponent=agent.priority_exponent,
        online=agent.online_queue,
    )


def check_replay_memory(config: Any, buffer: ReplayBuffer, agent: Any, envs: VectorEnv) -> None:
    """Raise ConfigError if the replay does not fit into this machine's free memory; names the size that does."""
    num_envs = config.env.num_envs

    def one() -> Any:
        state = envs.reset(environment_keys(jax.random.key(0), 0, num_envs))
        return replay_step(state.timestep), agent.initial_carry(num_envs)

    steps, carries = buffer.nbytes(*jax.eval_shape(one))
    needed, free = config.num_seeds * (steps + carries), free_memory()
    if free is None or needed <= free:
        return
    fits = int(config.agent.replay_capacity * free / needed)
    raise ConfigError(
        f"agent.replay_capacity={config.agent.replay_capacity} needs {_gigabytes(needed)} GB "
        f"({_gigabytes(config.num_seeds * steps)} for steps, {_gigabytes(config.num_seeds * carries)} for the carries "
        f"stored every {buffer.carry_every} steps), but {_gigabytes(free)} GB are free: about {fits} steps fit; lower "
        "it, or store carries less often with a larger agent.carry_every"
    )


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
