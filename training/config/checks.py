"""Rules between the fields of a configuration, and between it, the environment and this machine."""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

from hippodrome.training.errors import ConfigError, unknown_name

from .schema import EnvConfig, TrainConfig

# A key is made of 32 bits: a larger seed would silently be that of its remainder.
MAX_SEED = 2**32 - 1


@dataclasses.dataclass(frozen=True)
class Problem:
    """A broken rule: its message, and the paths of the fields it was judged by."""

    message: str
    fields: tuple[str, ...]

    def touches(self, paths: Iterable[str]) -> bool:
        """Whether it was judged by a field at or below one of `paths`."""
        return any(field == path or field.startswith(f"{path}.") for field in self.fields for path in paths)


def check_config(config: TrainConfig) -> None:
    """Raise one ConfigError that names every broken rule between fields; see `problems`."""
    found = problems(config)
    if found:
        raise ConfigError([each.message for each in found])


def problems(config: TrainConfig) -> list[Problem]:
    """Every broken rule between the fields of a configuration, the environment and this machine."""
    return [
        *_seed_problems(config),
        *_batch_problems(config),
        *_device_problems(config),
        *_cluster_problems(config),
        *_dataset_problems(config),
        *_env_problems(config),
    ]


def build_env(config: EnvConfig) -> tuple[Any, Any]:
    """The environment and its parameters, with those of `config.params` replaced.

    Raises:
        ConfigError: for an unknown id, constructor argument or parameter, or an optional package that is missing.
    """
    from hippodrome.envs import make

    try:
        env = make(config.id, **config.kwargs)
        params = env.default_params
    except (ValueError, TypeError, ImportError) as error:
        raise ConfigError(f"env.id: {error}") from error
    if not config.params:
        return env, params
    known = [field.name for field in dataclasses.fields(params)] if dataclasses.is_dataclass(params) else []
    wrong = [unknown_name("env.params: parameter", name, known) for name in config.params if name not in known]
    if wrong:
        raise ConfigError(wrong)
    try:
        return env, dataclasses.replace(params, **config.params)
    except ValueError as error:
        raise ConfigError(f"env.params: {error}") from error


def _seed_problems(config: TrainConfig) -> list[Problem]:
    found = []
    last = config.seed + config.num_seeds - 1
    if last > MAX_SEED:
        message = f"seed={config.seed} must be such that the last seed, {last}, is at most {MAX_SEED}"
        found.append(Problem(message, ("seed", "num_seeds")))
    if config.evaluation.seed > MAX_SEED:
        message = f"evaluation.seed={config.evaluation.seed} must be at most {MAX_SEED}"
        found.append(Problem(message, ("evaluation.seed",)))
    return found


def _batch_problems(config: TrainConfig) -> list[Problem]:
    found = []
    num_envs, num_shards = config.env.num_envs, config.num_shards
    num_minibatches = getattr(config.agent, "num_minibatches", 1)
    num_steps = getattr(config.agent, "num_steps", 1)
    if num_envs % (num_minibatches * num_shards):
        product = "agent.num_minibatches" + (" * num_shards" if num_shards > 1 else "")
        value = f"{num_minibatches}" + (f" * {num_shards}" if num_shards > 1 else "")
        nearest = math.ceil(num_envs / (num_minibatches * num_shards)) * num_minibatches * num_shards
        message = f"env.num_envs={num_envs} must be divisible by {product}={value}; the next that is: {nearest}"
        found.append(Problem(message, ("env.num_envs", "agent.num_minibatches", "num_shards")))
    if num_shards % config.total_devices:
        workers = config.cluster.num_workers
        product = "num_devices" + (" * cluster.num_workers" if workers else "")
        message = (
            f"num_shards={num_shards} must be divisible by {product}={config.total_devices}; "
            f"set num_shards={config.total_devices}"
        )
        found.append(Problem(message, ("num_shards", "num_devices", "cluster.num_workers")))
    batch_size = getattr(config.agent, "batch_size", num_shards)
    if batch_size % num_shards:
        message = (
            f"agent.batch_size={batch_size} must be divisible by num_shards={num_shards}: each shard draws as many "
            "windows"
        )
        found.append(Problem(message, ("agent.batch_size", "num_shards")))
    rollout = num_envs * num_steps
    if config.total_env_steps < rollout:
        message = (
            f"total_env_steps={config.total_env_steps} must be at least one rollout, env.num_envs * agent.num_steps = "
            f"{num_envs} * {num_steps} = {rollout}; raise it, or lower one of those"
        )
        found.append(Problem(message, ("total_env_steps", "env.num_envs", "agent.num_steps")))
    return found


def _device_problems(config: TrainConfig) -> list[Problem]:
    cluster = config.cluster
    if cluster.num_workers:
        if cluster.gpus_per_worker in (0, config.num_devices):
            return []
        message = (
            f"num_devices={config.num_devices} must be cluster.gpus_per_worker={cluster.gpus_per_worker}: a worker "
            "trains on all GPUs it owns"
        )
        return [Problem(message, ("num_devices", "cluster.gpus_per_worker"))]
    if config.num_devices == 1:
        return []
    import jax

    if config.num_devices <= jax.device_count():
        return []
    message = (
        f"num_devices={config.num_devices} must be at most {jax.device_count()}, the {jax.default_backend()} devices "
        f"here; on a CPU, set XLA_FLAGS=--xla_force_host_platform_device_count={config.num_devices} before starting"
    )
    return [Problem(message, ("num_devices",))]


def _cluster_problems(config: TrainConfig) -> list[Problem]:
    """Options of a cluster that is not there."""
    cluster, found = config.cluster, []
    if cluster.actor_lag and not cluster.num_actors:
        message = f"cluster.actor_lag={cluster.actor_lag} must be 0 with cluster.num_actors=0: nobody is to be late"
        found.append(Problem(message, ("cluster.actor_lag", "cluster.num_actors")))
    if cluster.address is not None and not cluster.num_processes:
        message = (
            f"cluster.address={cluster.address} must be null with cluster.num_workers=0 and cluster.num_actors=0, "
            "which train in this process; say how many by --cluster.num-workers, or leave the cluster by "
            "--cluster.address None"
        )
        found.append(Problem(message, ("cluster.address", "cluster.num_workers", "cluster.num_actors")))
    return found


def _learns_from_replay(config: TrainConfig) -> bool:
    from hippodrome.agents import agent_learns_from_replay

    return agent_learns_from_replay(config.agent.kind)


def _dataset_problems(config: TrainConfig) -> list[Problem]:
    if config.dataset is None:
        return []
    found = []
    if not _learns_from_replay(config):
        message = (
            f"dataset={config.dataset} needs an agent that learns from replay, such as dreamer; agent.kind="
            f"{config.agent.kind} learns from what it does itself"
        )
        found.append(Problem(message, ("dataset", "agent.kind")))
    if config.stop_at_return is not None:
        message = (
            f"stop_at_return={config.stop_at_return:g} must be null with dataset={config.dataset}: no episode is "
            "played while learning from it"
        )
        found.append(Problem(message, ("dataset", "stop_at_return")))
    if config.curriculum.kind != "none":
        message = (
            f"curriculum.kind={config.curriculum.kind} must be none with dataset={config.dataset}: no task is played"
        )
        found.append(Problem(message, ("dataset", "curriculum.kind")))
    if config.cluster.num_actors:
        message = (
            f"cluster.num_actors={config.cluster.num_actors} must be 0 with dataset={config.dataset}: nobody acts "
            "while learning from it"
        )
        found.append(Problem(message, ("dataset", "cluster.num_actors")))
    sharding = {
        "num_devices": config.num_devices,
        "num_shards": config.num_shards,
        "cluster.num_workers": config.cluster.num_workers,
    }
    for name, value in sharding.items():
        if value > 1:
            message = f"{name}={value} must be 1 with dataset={config.dataset}, whose steps are one stream of replay"
            found.append(Problem(message, ("dataset", name)))
    return found


def _env_problems(config: TrainConfig) -> list[Problem]:
    fields = ("env.id", "env.kwargs", "env.params")
    try:
        env, params = build_env(config.env)
        action_space = env.action_space(params)
    except ConfigError as error:
        return [Problem(each, fields) for each in error.errors]
    found = [Problem(f"env.id={config.env.id!r}: {message}", fields) for message in _unbounded(action_space)]
    return found + _host_problems(config, env) + _trial_problems(config, env, params)


def _trial_problems(config: TrainConfig, env: Any, params: Any) -> list[Problem]:
    """A run must be long enough for a meta-episode to end."""
    from hippodrome.envs import Environment
    from hippodrome.envs.trials import Trials

    one_task = not isinstance(env, Trials) or type(env.env).sample_task is Environment.sample_task
    if one_task and config.curriculum.kind != "none":
        message = (
            f"curriculum.kind={config.curriculum.kind} needs an environment of meta-episodes with many tasks, such as "
            f"meta/Control; env.id={config.env.id!r} has one task"
        )
        return [Problem(message, ("curriculum.kind", "env.id"))]
    if not isinstance(env, Trials):
        return []
    longest, each = env.longest_episode(params), config.total_env_steps // config.env.num_envs
    if longest <= each:
        return []
    message = (
        f"env.id={config.env.id!r}: a meta-episode of up to {longest} steps must fit into the {each} steps of each "
        f"environment, total_env_steps={config.total_env_steps} / env.num_envs={config.env.num_envs}; raise the "
        "former, or lower env.num_envs or the trials"
    )
    return [Problem(message, ("total_env_steps", "env.num_envs", "env.kwargs"))]


def _host_problems(config: TrainConfig, env: Any) -> list[Problem]:
    """Rules about where an environment steps."""
    from hippodrome.envs import HostEnvironment

    name, workers, cluster = config.env.id, config.env.host_workers, config.cluster
    if not isinstance(env, HostEnvironment):
        found = []
        if workers:
            message = f"env.host_workers={workers} must be 0: env.id={name!r} steps in JAX, on the device that trains"
            found.append(Problem(message, ("env.host_workers", "env.id")))
        if cluster.num_actors:
            message = (
                f"cluster.num_actors={cluster.num_actors} must be 0: env.id={name!r} steps in JAX, where learners have "
                "environments of their own; train on several processes by --cluster.num-workers"
            )
            found.append(Problem(message, ("cluster.num_actors", "env.id")))
        return found
    remedies = {
        "num_seeds": (config.num_seeds, 1, "train one seed after another, each by a command with its --seed"),
        "num_devices": (config.num_devices, 1, "set num_devices=1"),
        "cluster.num_workers": (cluster.num_workers, 0, "act in it in other processes by --cluster.num-actors"),
    }
    found = [
        Problem(
            f"{field}={value} must be {most} with env.id={name!r}, which steps on the host: {remedy}",
            (field, "env.id"),
        )
        for field, (value, most, remedy) in remedies.items()
        if value > most
    ]
    return found + (_actor_problems(config) if cluster.num_actors else [])


def _actor_problems(config: TrainConfig) -> list[Problem]:
    """Rules about processes that act in an environment on the host."""
    cluster = config.cluster
    found = [
        Problem(
            f"{field}={value} must be 0 with cluster.num_actors={cluster.num_actors}: {why}",
            (field, "cluster.num_actors"),
        )
        for field, value, why in (
            ("env.host_workers", config.env.host_workers, "more --cluster.num-actors do the same"),
            ("cluster.gpus_per_worker", cluster.gpus_per_worker, "actors act on cores"),
        )
        if value
    ]
    if config.env.num_envs % cluster.num_actors:
        less = config.env.num_envs - config.env.num_envs % cluster.num_actors
        near = " or ".join(str(each) for each in (less, less + cluster.num_actors) if each)
        message = (
            f"env.num_envs={config.env.num_envs} must be divisible by cluster.num_actors={cluster.num_actors}; set "
            f"env.num_envs={near}"
        )
        found.append(Problem(message, ("env.num_envs", "cluster.num_actors")))
    return found


def _unbounded(action_space: Any) -> list[str]:
    """Messages for the parts of an action space that are a Box with an infinite bound, or bounds too far apart."""
    import numpy as np

    from hippodrome.envs import Box, part_names

    def bounded(part: Any) -> bool:
        with np.errstate(over="ignore", invalid="ignore"):
            return bool(np.isfinite(np.float32(part.high) - np.float32(part.low)).all())

    return [
        f"action space{where} {part!r} must have finite bounds, whose difference float32 can hold; wrap the "
        "environment in one that clips or scales its actions"
        for where, part in part_names(action_space)
        if isinstance(part, Box) and not bounded(part)
    ]
