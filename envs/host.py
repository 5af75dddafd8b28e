"""Environments that step in Python on the host, behind the interface of `VectorEnv`.

The compiled program calls the host at every step, in order, and waits for the answer: rollouts, replay, learning and
evaluation are the same programs as with environments in JAX, and so are their numbers.

Legend: `B` environments.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback
from jaxtyping import Array, Key

from .core import Environment, Outcome
from .host_copies import Copies, HostCopy, HostEnvError
from .host_workers import WorkerCopies
from .spaces import part_names
from .vector import VectorEnv, VectorState, check_batch, first_timestep, next_timestep


@dataclasses.dataclass(frozen=True)
class HostParams:
    """What may change of an environment on the host without a new one.

    Attributes:
        max_steps_in_episode: the episode is truncated after that many steps; None: the environment knows no limit.

    Raises:
        ValueError: for a limit that is no positive integer.
    """

    max_steps_in_episode: int | None = None

    def __post_init__(self):
        limit = self.max_steps_in_episode
        if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
            raise ValueError(f"max_steps_in_episode={limit!r} must be an integer of at least 1, or null for no limit")


class HostEnvironment(Environment):
    """An environment that steps in Python: its spaces, and how copies of it are made."""

    @property
    def default_params(self) -> Any:
        """The parameters used where none are given."""
        return HostParams()

    def copy_factory(self, params: Any) -> Callable[[], HostCopy]:
        """What makes one copy, here or in a process of its own; cloudpickle must be able to pickle it."""
        raise NotImplementedError(f"{self.name} must define copy_factory(params) -> (() -> HostCopy)")

    def reset_env(self, key, params):
        """Not a function of JAX: `HostVectorEnv` resets."""
        raise TypeError(f"{self.name} steps on the host; step it by vectorize(env), which makes a HostVectorEnv")

    def step_env(self, key, state, action, params):
        """Not a function of JAX: `HostVectorEnv` steps."""
        self.reset_env(key, params)


def require_in_jax(env: Any, what: str) -> None:
    """Raise ValueError for an environment that steps on the host, where `what` is made of those that step in JAX."""
    if isinstance(env, HostEnvironment):
        raise ValueError(f"{env.name} steps on the host; {what} are made of environments that step in JAX")


class HostVectorEnv(VectorEnv):
    """Copies of an environment on the host, stepped together by ordered callbacks of the compiled program.

    What an environment is in the midst of lives in Python, not in `VectorState`: only the newest state can be stepped,
    once, and not under `vmap`. The copies are made by the first `reset`, again by one with another number of keys;
    `close` ends them. `env_state` counts the calls, so that a state which is not the newest is refused.

    Copies are made and stepped in the thread that runs the compiled program, which may change from call to call; an
    environment that minds (OpenGL contexts do) wants `workers`.

    Args:
        env: the environment.
        params: its parameters; `env.default_params` where None.
        num_steps: not used: nothing is drawn ahead.
        workers: processes that the copies are split over; 0: this one. The numbers do not depend on it.

    Attributes:
        failure: the error that ended the last call, None while there is none. JAX reports only its text.

    Raises:
        ValueError: for a negative number of workers.
    """

    on_host = True

    def __init__(self, env: HostEnvironment, params: Any = None, *, num_steps: int = 1, workers: int = 0):
        super().__init__(env, params, num_steps=num_steps)
        if workers < 0:
            raise ValueError(f"workers={workers} must be at least 0")
        self.workers = workers
        self.failure: BaseException | None = None
        self._copies: Copies | WorkerCopies | None = None
        self._count = 0
        self._calls = 0
        element = jax.eval_shape(self.observation_space.sample, jax.random.key(0))
        self._leaves, self._structure = jax.tree.flatten(element)

    def reset(self, keys: Key[Array, " B"]) -> VectorState:
        """Begins an episode in every environment, seeded by its key; copies that there are begin anew."""
        num_envs = keys.shape[0]
        key, seed_key = jax.vmap(lambda each: tuple(jax.random.split(each)))(keys)
        # 31 bits: some environments refuse more.
        seeds = jax.vmap(lambda each: jax.random.bits(each, (), jnp.uint32) >> 1)(seed_key)
        shapes = self._observation_shapes(num_envs), _shape(num_envs, jnp.uint32)
        leaves, calls = io_callback(self._on_reset, shapes, seeds, ordered=True)
        observation = jax.tree.unflatten(self._structure, leaves)
        zero = jnp.zeros(num_envs, jnp.int32)
        return VectorState(
            env_state=calls,
            key=key,
            timestep=jax.vmap(lambda each: first_timestep(each, self.action_space))(observation),
            episode_return=jnp.zeros(num_envs),
            episode_length=zero,
            pool=(),
            pool_next=zero,
        )

    def step(self, state: VectorState, action: Any) -> tuple[VectorState, Outcome]:
        """Takes one action (leaves `[B, ...]`) in every environment; begins a new episode where one ended.

        Raises:
            ValueError: for an action of another shape, or of floats where the space is discrete.
        """
        num_envs = state.episode_length.shape[0]
        check_batch("action", action, self.action_space, num_envs)
        flags = _shape(num_envs, bool)
        shapes = (
            self._observation_shapes(num_envs),
            _shape(num_envs, jnp.float32),
            flags,
            flags,
            self._observation_shapes(num_envs),
            _shape(num_envs, jnp.uint32),
        )
        answer = io_callback(self._on_step, shapes, jax.tree.leaves(action), state.env_state, ordered=True)
        reached, reward, terminated, truncated, current, calls = answer
        outcome = Outcome(
            reward=reward,
            terminated=terminated,
            truncated=truncated & ~terminated,
            final_observation=jax.tree.unflatten(self._structure, reached),
            episode_return=state.episode_return + reward,
            episode_length=state.episode_length + 1,
        )
        observation = jax.tree.unflatten(self._structure, current)
        next_state = dataclasses.replace(
            state,
            env_state=calls,
            timestep=jax.vmap(partial(next_timestep, action_space=self.action_space))(outcome, observation, action),
            episode_return=jnp.where(outcome.ended, 0.0, outcome.episode_return),
            episode_length=jnp.where(outcome.ended, 0, outcome.episode_length),
        )
        return next_state, outcome

    def close(self) -> None:
        """Closes the copies and ends their processes; a later `reset` makes new ones."""
        copies, self._copies, self._count = self._copies, None, 0
        if copies is not None:
            copies.close()

    def _on_reset(self, seeds: Any) -> tuple:
        with _Remembered(self):
            # By NumPy alone, here and in a step: JAX called back from within its own program can wait for itself.
            seeds = np.asarray(seeds)
            self.failure = None
            copies = self._copies
            if copies is None or self._count != len(seeds):
                copies = self._make(len(seeds))
            return copies.reset(seeds), self._called()

    def _on_step(self, action: list[Any], calls: Any) -> tuple:
        with _Remembered(self):
            if self._copies is None or int(np.asarray(calls)[0]) != self._calls % 2**32:
                raise HostEnvError(
                    "this state is not what the last call returned: an environment on the host cannot go back, be "
                    "restored or be stepped twice from one state; call reset"
                )
            leaves = [np.asarray(leaf) for leaf in action]
            for (where, _), leaf in zip(part_names(self.action_space), leaves, strict=True):
                if np.issubdtype(leaf.dtype, np.floating) and not np.isfinite(leaf).all():
                    raise HostEnvError(
                        f"its next action{where} would hold a number that is not finite: the policy's parameters or "
                        "what it remembers are not; lower agent.learning_rate, or look at the observations"
                    )
            return (*self._copies.step(leaves), self._called())

    def _make(self, count: int) -> Copies | WorkerCopies:
        self.close()
        factory = self.env.copy_factory(self.params)
        self._copies = WorkerCopies(factory, count, self.workers) if self.workers else Copies(factory, count)
        self._count = count
        return self._copies

    def _called(self) -> np.ndarray:
        self._calls += 1
        return np.full(self._count, self._calls % 2**32, np.uint32)

    def _observation_shapes(self, num_envs: int) -> list[jax.ShapeDtypeStruct]:
        return [jax.ShapeDtypeStruct((num_envs, *leaf.shape), leaf.dtype) for leaf in self._leaves]


class _Remembered:
    """Keeps the error that leaves the block as the environments' failure, under their name, and closes them."""

    def __init__(self, envs: HostVectorEnv):
        self.envs = envs

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None:
            return
        named = HostEnvError(f"environment {self.envs.env.name}: {error}") if isinstance(error, HostEnvError) else error
        self.envs.failure = self.envs.failure or named
        self.envs.close()
        raise named from error.__cause__


def vectorize(env: Any, params: Any = None, *, num_steps: int = 1, host_workers: int = 0) -> VectorEnv:
    """Copies of an environment stepped together, wherever it steps: a `VectorEnv`, or a `HostVectorEnv`.

    Args:
        env: of `make`, or of your own.
        params: its parameters; `env.default_params` where None.
        num_steps: see `VectorEnv`.
        host_workers: see `HostVectorEnv`; 0 for an environment in JAX.

    Raises:
        ValueError: for workers of an environment that steps in JAX.
    """
    if isinstance(env, HostEnvironment):
        return HostVectorEnv(env, params, num_steps=num_steps, workers=host_workers)
    if host_workers:
        raise ValueError(f"host_workers={host_workers} must be 0: {env.name} steps in JAX")
    return VectorEnv(env, params, num_steps=num_steps)


def _shape(num_envs: int, dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((num_envs,), dtype)
