"""This library's environments for code written for gymnasium; importing this module registers them.

`gymnasium.make("hippodrome/popgym.RepeatPreviousEasy")` is `make("popgym/RepeatPreviousEasy")`: gymnasium's ids have
one slash, so the suite is followed by a dot. Without an import of one's own, gymnasium imports what stands before a
colon: `gymnasium.make("hippodrome.envs.as_gymnasium:hippodrome/popgym.RepeatPreviousEasy")`.

Legend: `B` environments.
"""

from typing import Any

import gymnasium
import jax
import numpy as np

from .registry import list_envs, make
from .spaces import Dict, Discrete, Space, Tuple, to_gymnasium
from .vector import VectorEnv, environment_keys

NAMESPACE = "hippodrome"


class AsGymnasium(gymnasium.Env):
    """One environment, stepped by compiled programs.

    Seeds of 32 bits decide everything: the same seed and actions give the same episode. Without one a reset goes on
    from the last.

    Args:
        env_id: as `make` takes it.
        kwargs: arguments of its constructor.

    Raises:
        ValueError: as `make` does.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - gymnasium's own way

    def __init__(self, env_id: str, **kwargs: Any):
        self.env = make(env_id, **kwargs)
        if not hasattr(self.env, "reset_env"):
            raise ValueError(f"env {env_id!r} steps on the host already: make it by gymnasium itself")
        self.params = self.env.default_params
        self._space = self.env.observation_space(self.params)
        self._acted = self.env.action_space(self.params)
        self.observation_space = to_gymnasium(self._space)
        self.action_space = to_gymnasium(self._acted)
        self._reset = jax.jit(self.env.reset_env)
        self._step = jax.jit(self._step_one)
        self._key: Any = None
        self._state: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins an episode."""
        super().reset(seed=seed)
        if seed is not None or self._key is None:
            self._key = jax.random.key(int(self.np_random.integers(2**32)) if seed is None else seed)
        self._key, key = jax.random.split(self._key)
        observation, self._state = self._reset(key, self.params)
        return as_element(self._space, observation), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Takes one action."""
        if self._state is None:
            raise gymnasium.error.ResetNeeded("call reset() before step()")
        self._key, key = jax.random.split(self._key)
        action = jax.tree.map(np.asarray, _plain(self._acted, action))
        observation, self._state, reward, terminated, truncated = self._step(key, self._state, action)
        return as_element(self._space, observation), float(reward), bool(terminated), bool(truncated), {}

    def _step_one(self, key: Any, state: Any, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        observation, state, reward, terminated, _ = self.env.step_env(key, state, action, self.params)
        return observation, state, reward, terminated, self.env.is_truncated(state, self.params) & ~terminated


class AsGymnasiumVector(gymnasium.vector.VectorEnv):
    """`B` copies stepped by one program, for `gymnasium.make_vec`; a copy whose episode ended begins anew in that step.

    The observation that ended an episode is `info["final_obs"]`, where `info["_final_obs"]` is True.

    Args:
        env_id: as `make` takes it.
        num_envs: B.
        kwargs: arguments of its constructor.
    """

    metadata = {"render_modes": [], "autoreset_mode": gymnasium.vector.AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(self, env_id: str, num_envs: int = 1, **kwargs: Any):
        self.envs = VectorEnv(make(env_id, **kwargs))
        self.num_envs = num_envs
        self.single_observation_space = to_gymnasium(self.envs.observation_space)
        self.single_action_space = to_gymnasium(self.envs.action_space)
        self.observation_space = gymnasium.vector.utils.batch_space(self.single_observation_space, num_envs)
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, num_envs)
        self._reset = jax.jit(self.envs.reset)
        self._step = jax.jit(self.envs.step)
        self._state: Any = None

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins an episode in every copy; `seed` is one number."""
        super().reset(seed=seed)
        number = int(self.np_random.integers(2**32)) if seed is None else seed
        self._state = self._reset(environment_keys(jax.random.key(number), 0, self.num_envs))
        return jax.tree.map(np.asarray, self._state.timestep.observation), {}

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Takes one action in every copy."""
        if self._state is None:
            raise gymnasium.error.ResetNeeded("call reset() before step()")
        actions = jax.tree.map(np.asarray, _plain(self.envs.action_space, actions))
        self._state, outcome = self._step(self._state, actions)
        terminated, truncated = np.asarray(outcome.terminated), np.asarray(outcome.truncated)
        ended = terminated | truncated
        info: dict[str, Any] = {}
        if ended.any():
            info = {"final_obs": jax.tree.map(np.asarray, outcome.final_observation), "_final_obs": ended}
        observation = jax.tree.map(np.asarray, self._state.timestep.observation)
        return observation, np.asarray(outcome.reward, np.float64), terminated, truncated, info


def as_element(space: Space, value: Any) -> Any:
    """An element of a space of this library as gymnasium holds it: NumPy arrays, whole numbers as int64 scalars."""
    if isinstance(space, Dict):
        return {name: as_element(part, value[name]) for name, part in space.spaces.items()}
    if isinstance(space, Tuple):
        return tuple(as_element(part, each) for part, each in zip(space.spaces, value, strict=True))
    return np.int64(value) if isinstance(space, Discrete) else np.asarray(value)


def gymnasium_id(env_id: str) -> str:
    """What gymnasium calls the environment."""
    suite, _, name = env_id.partition("/")
    return env_id if suite == NAMESPACE else f"{NAMESPACE}/{suite}.{name}"


def _plain(space: Space, action: Any) -> Any:
    """An action with plain dicts and tuples, in the order of this library's spaces."""
    if isinstance(space, Dict):
        return {name: _plain(part, action[name]) for name, part in space.spaces.items()}
    if isinstance(space, Tuple):
        return tuple(_plain(part, each) for part, each in zip(space.spaces, action, strict=True))
    return action


def _register() -> None:
    for env_id in list_envs():
        name = gymnasium_id(env_id)
        if name not in gymnasium.registry:
            gymnasium.register(
                name,
                entry_point=f"{__name__}:AsGymnasium",
                vector_entry_point=f"{__name__}:AsGymnasiumVector",
                kwargs={"env_id": env_id},
            )


_register()
