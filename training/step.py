"""One pure train step, the same function alone, under `vmap` over seeds and under `shard_map` over devices.

Legend: `T` steps of a rollout, `B` environments (of this device).
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, Key

from hippodrome.agents import Agent, ReplayStep, make_agent
from hippodrome.envs import Outcome, VectorEnv, VectorState, environment_keys, vectorize

from .advance import SHARD_AXIS, Advance, from_dataset, from_replay, on_policy
from .config.checks import build_env
from .curriculum import Curriculum
from .dataset.file import About
from .dataset.offline import offline_buffer, offline_replay
from .errors import ConfigError
from .processes import put, run_devices
from .replay import Replay, ReplayBuffer, split_environments
from .replay_size import learns_from_replay, replay_buffer, updates_per_step
from .rollout import collect, record, replay_step

DEVICE_AXIS = "devices"


@struct.dataclass
class Best:
    """The policy with the highest mean training return of a rollout so far.

    Attributes:
        params: that acted in it.
        score: its mean episode return; -inf before any episode ended.
        update: which update's rollout it was.
    """

    params: Any
    score: Float[Array, ""]
    update: Int[Array, ""]


@struct.dataclass
class TrainState:
    """Everything a run is, so that a checkpoint of it resumes bit for bit. With several seeds, leaves lead with them.

    Attributes:
        learner: the agent's state: parameters, optimiser, statistics.
        envs: the environments' states, `[B, ...]`.
        carry: the agent's carry, `[B, ...]`.
        key: typed key of rollouts and minibatches.
        update: int32; updates done.
        failed_update: int32; the update that produced a value that is not finite, -1 while there is none. From then on
            the state stays as it was before that update.
        failed_metric: int32; which of `watched_metrics` it was.
        best: see `Best`.
        curriculum: see `CurriculumState`; () where all tasks are trained on.
        replay: see `Replay`, for agents that learn from it; with several shards, leaves lead with them.
    """

    learner: Any
    envs: VectorState
    carry: Any
    key: Key[Array, "..."]
    update: Int[Array, "..."]
    failed_update: Int[Array, "..."]
    failed_metric: Int[Array, "..."]
    best: Best
    curriculum: Any = ()
    replay: Any = ()


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A configuration made runnable.

    Attributes:
        init: `key -> TrainState` for one seed, to be jitted; on several devices, spread over them.
        step: `TrainState -> (TrainState, metrics)`, for one seed or for all, as `num_seeds` says; not jitted.
        place: puts a TrainState on the devices of the run.
        agent: the agent of the whole run, as evaluation and deployment use it.
        envs: the environments.
        num_updates: updates of the whole run.
        steps_per_update: environment steps of one seed in one update.
    """

    init: Callable[[Key[Array, ""]], TrainState]
    step: Callable[[TrainState], tuple[TrainState, dict[str, Array]]]
    place: Callable[[TrainState], TrainState]
    agent: Agent
    envs: VectorEnv
    num_updates: int
    steps_per_update: int


def make_environment(env_config: Any, num_steps: int) -> VectorEnv:
    """The vectorised environment of a configuration, its parameters overridden where asked."""
    env, params = build_env(env_config)
    return vectorize(env, params, num_steps=num_steps, host_workers=env_config.host_workers)


class RemoteActors(Protocol):
    """Processes that act in environments on the host, see `training.cluster.acting`."""

    def vectorize(self, env: Any, params: Any) -> VectorEnv:
        """The environments of all of them."""

    def rollout(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """What a function of `training.rollout` returns, made by them."""


def make_experiment(config: Any, about: About | None = None, actors: RemoteActors | None = None) -> Experiment:
    """The pure functions of a training configuration (`TrainConfig`).

    Args:
        config: whose.
        about: what its data set says of itself, where it has one; without, the experiment can act but not learn.
        actors: who acts in place of the training step itself.
    """
    num_steps, num_envs = config.agent.num_steps, config.env.num_envs
    steps_per_update, num_updates = config.steps_per_update, config.num_updates
    envs = make_environment(config.env, num_steps) if actors is None else actors.vectorize(*build_env(config.env))

    def build_agent(axis_name: str | tuple[str, ...] | None, num_shards: int) -> Agent:
        try:
            return make_agent(
                config.agent,
                config.memory,
                envs.observation_space,
                envs.action_space,
                num_updates=num_updates,
                axis_name=axis_name,
                num_shards=num_shards,
            )
        except ValueError as error:
            raise ConfigError(f"agent.kind={config.agent.kind} with env.id={config.env.id!r}: {error}") from error

    agent = build_agent(None, config.num_shards)
    buffer: ReplayBuffer | None = None
    new_replay: Callable[[ReplayStep, Any], Replay] | None = None
    if about is not None:
        buffer = offline_buffer(config, about, agent, envs)
        new_replay = partial(offline_replay, buffer, about)
    elif learns_from_replay(agent) and config.dataset is None:
        buffer = replay_buffer(config)
        new_replay = partial(_sharded_replay, buffer, config.num_shards, config.total_devices)
    axis_name = DEVICE_AXIS if config.total_devices > 1 else None
    advance = _make_advance(config, build_agent, buffer, axis_name, actors)
    curriculum = None if config.curriculum.kind == "none" else Curriculum(config.curriculum, envs)

    def train_step(state: TrainState) -> tuple[TrainState, dict[str, Array]]:
        return _train_step(agent, envs, advance, curriculum, state, axis_name)

    init = partial(
        _init,
        agent,
        envs,
        new_replay,
        curriculum,
        num_envs=num_envs // config.total_devices,
        axis_name=axis_name,
    )
    step = jax.vmap(train_step) if config.num_seeds > 1 else train_step
    place = jax.device_put
    if axis_name is not None:
        mesh = Mesh(run_devices(config.num_devices), (DEVICE_AXIS,))
        one = _partition(agent, PartitionSpec(DEVICE_AXIS))
        partition = one if config.num_seeds == 1 else _partition(agent, PartitionSpec(None, DEVICE_AXIS))
        on_devices = partial(jax.shard_map, mesh=mesh, check_vma=False)
        init = on_devices(init, in_specs=PartitionSpec(), out_specs=one)
        step = on_devices(step, in_specs=(partition,), out_specs=(partition, PartitionSpec()))
        place = partial(_place, mesh, partition)
    return Experiment(
        init=init,
        step=step,
        place=place,
        agent=agent,
        envs=envs,
        num_updates=num_updates,
        steps_per_update=steps_per_update,
    )


def _make_advance(
    config: Any,
    build_agent: Callable[..., Agent],
    buffer: ReplayBuffer | None,
    axis_name: str | None,
    actors: RemoteActors | None,
) -> Advance:
    """What one training step does, with the learner of one device."""
    num_steps, shards_here = config.agent.num_steps, config.num_shards // config.total_devices
    if buffer is None:
        bootstrap = not getattr(config.agent, "truncation_is_terminal", False)
        learner = build_agent(axis_name, shards_here)
        act: Callable[..., Any] = collect if actors is None else partial(actors.rollout, collect)
        return partial(on_policy, learner, act=act, num_steps=num_steps, bootstrap_truncation=bootstrap)
    ratio = updates_per_step(config)
    if config.dataset is not None:
        return partial(from_dataset, build_agent(None, 1), buffer, updates_per_step=ratio)
    sharding: dict[str, Any] = {}
    if config.num_shards > 1:
        sharding["axis_name"] = (SHARD_AXIS,) if axis_name is None else (axis_name, SHARD_AXIS)
        sharding["num_shards"] = shards_here
    learner = build_agent(sharding.get("axis_name"), 1)
    act = record if actors is None else partial(actors.rollout, record)
    return partial(from_replay, learner, buffer, act=act, num_steps=num_steps, updates_per_step=ratio, **sharding)


def state_template(experiment: Experiment, config: Any) -> Any:
    """Shapes and types of the training state, for restoring."""
    return jax.eval_shape(lambda: initial_state(experiment, config))


def initial_state(experiment: Experiment, config: Any) -> TrainState:
    """The state a run begins with: of the seed, or of `num_seeds` seeds from it on, stacked."""
    keys = [jax.random.key(config.seed + index) for index in range(config.num_seeds)]
    if config.num_seeds == 1:
        return experiment.init(keys[0])
    # Seeds in turn: vmapped orthogonal initialisers are batched QR factorisations, and jaxlib's CPU kernel for them
    # waits for the very threads it runs on; two at once on two cores hang (jaxlib 0.10.2).
    return jax.lax.map(experiment.init, jnp.stack(keys))


def _init(
    agent: Agent,
    envs: VectorEnv,
    new_replay: Callable[..., Any] | None,
    curriculum: Curriculum | None,
    key: Key[Array, ""],
    *,
    num_envs: int,
    axis_name: str | None,
) -> TrainState:
    """The state of `num_envs` environments, those of this device."""
    key, learner_key, env_key = jax.random.split(key, 3)
    learner = agent.init(learner_key, num_envs)
    contexts: Any = ()
    if curriculum is not None:
        devices = 1 if axis_name is None else jax.lax.axis_size(axis_name)
        contexts = curriculum.init(jax.random.fold_in(env_key, devices * num_envs))
        envs = curriculum.environments(contexts)
    first_env = 0 if axis_name is None else jax.lax.axis_index(axis_name) * num_envs
    envs_state = envs.reset(environment_keys(env_key, first_env, num_envs))
    carry = agent.initial_carry(num_envs)
    return TrainState(
        learner=learner,
        envs=envs_state,
        carry=carry,
        curriculum=contexts,
        replay=() if new_replay is None else new_replay(replay_step(envs_state.timestep), carry),
        key=key,
        update=jnp.zeros((), jnp.int32),
        failed_update=jnp.full((), -1, jnp.int32),
        failed_metric=jnp.zeros((), jnp.int32),
        best=Best(learner.params, jnp.full((), -jnp.inf, jnp.float32), jnp.full((), -1, jnp.int32)),
    )


def _sharded_replay(buffer: ReplayBuffer, num_shards: int, num_devices: int, step: ReplayStep, carry: Any) -> Replay:
    """Empty replay for the environments of a device; with several shards in all, leaves lead with those of it."""
    if num_shards == 1:
        return buffer.init(step, carry)
    return jax.vmap(buffer.init)(*split_environments((step, carry), num_shards // num_devices, axis=0))


def _train_step(
    agent: Agent,
    envs: VectorEnv,
    advance: Advance,
    curriculum: Curriculum | None,
    state: TrainState,
    axis_name: str | None,
) -> tuple[TrainState, dict[str, Array]]:
    """Act and learn, keep the best, and stand still once something is not finite."""
    key, rollout_key, learn_key = jax.random.split(state.key, 3)
    num_envs = state.envs.timestep.reset.shape[0]
    first_env = 0 if axis_name is None else jax.lax.axis_index(axis_name) * num_envs
    if curriculum is not None:
        envs = curriculum.environments(state.curriculum)
    changes, metrics, outcome = advance(envs, state, rollout_key, learn_key, first_env=first_env)
    statistics = _episode_statistics(outcome, axis_name)
    changes = {"best": _better(state, statistics), **changes}
    if curriculum is not None:
        params = changes["learner"].params
        changes["curriculum"] = curriculum.after_update(state.curriculum, agent, params, state.update)
        metrics["curriculum_size"] = changes["curriculum"].size.astype(jnp.float32)
    new = dataclasses.replace(state, **changes, key=key, update=state.update + 1)

    # Metrics of a step that learnt nothing, as before replay holds a window, are nan and no failure.
    learnt = jnp.asarray(metrics.get("learner_updates", 1)) > 0
    finite = jnp.stack(
        [jnp.isfinite(metrics[name]) | ~learnt for name in sorted(metrics)] + [_all_finite(new.learner.params)]
    )
    failed = (state.failed_update >= 0) | ~finite.all()
    first_failure = failed & (state.failed_update < 0)
    # Replay goes on: to keep the old one beside the new one would double its memory.
    old, fresh = (dataclasses.replace(each, replay=()) for each in (state, new))
    kept = jax.tree.map(lambda o, n: jnp.where(failed, o, n), old, fresh)
    kept = dataclasses.replace(
        kept,
        replay=new.replay,
        failed_update=jnp.where(first_failure, state.update, state.failed_update),
        failed_metric=jnp.where(first_failure, jnp.argmin(finite).astype(jnp.int32), state.failed_metric),
    )
    return kept, {**metrics, **statistics, "failed_update": kept.failed_update, "failed_metric": kept.failed_metric}


def watched_metrics(metrics: dict[str, Any]) -> list[str]:
    """What `failed_metric` counts: the agent's metrics by name, then the parameters."""
    own = {"episodes", "episode_return", "episode_length", "failed_update", "failed_metric"}
    return [*sorted(set(metrics) - own), "params"]


def _episode_statistics(outcome: Outcome, axis_name: str | None) -> dict[str, Array]:
    ended = outcome.ended
    sums = {
        "episodes": ended.sum(),
        "episode_return": jnp.where(ended, outcome.episode_return, 0.0).sum(),
        "episode_length": jnp.where(ended, outcome.episode_length, 0).sum().astype(jnp.float32),
    }
    if axis_name is not None:
        sums = jax.lax.psum(sums, axis_name)
    episodes = sums.pop("episodes")
    means = {name: jnp.where(episodes > 0, total / episodes, jnp.nan) for name, total in sums.items()}
    return {"episodes": episodes, **means}


def _better(state: TrainState, statistics: dict[str, Array]) -> Best:
    score = statistics["episode_return"]
    # A comparison with nan (no episode ended) is False, so the best stays.
    better: Bool[Array, ""] = score > state.best.score
    candidate = Best(state.learner.params, score, state.update)
    return jax.tree.map(lambda n, o: jnp.where(better, n, o), candidate, state.best)


def _all_finite(tree: Any) -> Bool[Array, ""]:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def _partition(agent: Agent, split: PartitionSpec) -> Any:
    """The environments and what belongs to them split over the devices, everything else the same on each."""
    same = PartitionSpec()
    prefix: Callable[..., Any] = TrainState  # of specs, each in place of arrays
    return prefix(
        learner=agent.state_partition(split),
        envs=split,
        carry=split,
        key=same,
        update=same,
        failed_update=same,
        failed_metric=same,
        best=same,
        curriculum=same,
        replay=split,
    )


def _place(mesh: Mesh, partition: Any, state: TrainState) -> TrainState:
    def place(spec: PartitionSpec, part: Any) -> Any:
        return put(part, NamedSharding(mesh, spec))

    return jax.tree.map(place, partition, state, is_leaf=lambda node: isinstance(node, PartitionSpec))
