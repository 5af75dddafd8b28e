"""A conformance test for anybody's environment: `check_env(env)` raises, saying what is wrong and what to do."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTreeDef

from .core import Environment
from .spaces import Box, Dict, Discrete, MultiDiscrete, Space, Tuple, part_names

_METHODS = ("reset_env", "step_env", "is_truncated", "observation_space", "action_space")
_OUTPUTS = "(observation, state, reward, terminated, info)"
_NUM_COPIES = 3
_LONGEST_VALUE = 300


class EnvCheckError(ValueError):
    """An environment that breaks a rule.

    Attributes:
        env: its name.
        checked: the rule.
        got: what it did.
        expected: what the rule asks.
        remedy: what to change.
    """

    def __init__(self, env: str, checked: str, *, got: str, expected: str, remedy: str):
        self.env, self.checked, self.got, self.expected, self.remedy = env, checked, got, expected, remedy
        super().__init__(f"{env}: {checked}: got {got}; expected {expected}. {remedy}")


def check_env(env: Any, params: Any = None, *, num_steps: int = 1000, seed: int = 0) -> None:
    """Tests that `env` keeps the rules of `Environment`, by resets, single steps and `num_steps` random actions.

    The rules: spaces of this library that contain what is observed (the final observation too) and accept what they
    sample; the same outcome for the same typed key, state and action, whether called plainly, under `jit` or under
    `vmap`; arguments left as they were; shapes, dtypes and structure of observation and state that never change; scalar
    rewards and flags; finite observations and rewards; `state.time`, where there is one, that counts the steps, so
    that the environment does not begin a new episode by itself.

    Args:
        env: the environment.
        params: its parameters; `env.default_params` where None.
        num_steps: length of the random run; long enough for an episode to end is best.
        seed: of the run's randomness.

    Raises:
        EnvCheckError: naming the first rule broken.
    """
    _Checker(env, params).run(num_steps, jax.random.key(seed))


class _Checker:
    """The rules, one method each, over one environment."""

    def __init__(self, env: Any, params: Any):
        self.env = env
        self.name = getattr(env, "name", type(env).__name__)
        self.params = env.default_params if params is None else params
        self.observation_space: Any = None
        self.action_space: Any = None

    def run(self, num_steps: int, key: jax.Array) -> None:
        """Checks every rule."""
        self.check_interface()
        self.check_spaces()
        self.check_reset_and_step(key)
        self.check_transformations(key)
        self.check_run(num_steps, key)

    def fail(self, checked: str, got: Any, expected: str, remedy: str) -> None:
        """Raises the error."""
        got = str(got)
        shown = got if len(got) <= _LONGEST_VALUE else f"{got[:_LONGEST_VALUE]}..."
        raise EnvCheckError(self.name, checked, got=shown, expected=expected, remedy=remedy)

    def check_interface(self) -> None:
        """The methods are there; none of the work hides in `step`."""
        missing = [name for name in _METHODS if not callable(getattr(self.env, name, None))]
        if missing:
            self.fail(
                "methods", f"no {', '.join(missing)}", ", ".join(_METHODS), "Subclass hippodrome.envs.Environment."
            )
        if getattr(type(self.env), "step", Environment.step) is not Environment.step:
            remedy = "Nothing calls step(): move its work to step_env(); wrap a gymnax environment in GymnaxAdapter."
            self.fail("step", "an overridden step()", "only step_env()", remedy)
        pool_size = getattr(self.env, "reset_pool_size", lambda num_steps: 0)(8)
        if not isinstance(pool_size, int) or pool_size < 0:
            remedy = "Return how many resets 8 steps need, or 0."
            self.fail("reset_pool_size(8)", repr(pool_size), "an int, at least 0", remedy)

    def check_spaces(self) -> None:
        """Spaces are this library's, and the action space contains its samples."""
        for name in ("observation_space", "action_space"):
            space = self._call(name, partial(getattr(self.env, name), self.params), "a space")
            self._check_space(name, space)
            setattr(self, name, space)
        for where, part in part_names(self.action_space):
            if isinstance(part, Box) and not (np.isfinite(part.low).all() and np.isfinite(part.high).all()):
                self.fail(
                    "action_space" + where,
                    part,
                    "finite bounds",
                    "Give every continuous action a low and a high bound.",
                )
        for index in range(_NUM_COPIES):
            action = self.action_space.sample(jax.random.key(index))
            self._check_element("action_space.sample(key)", action, self.action_space, "Fix the space's sample().")

    def check_reset_and_step(self, key: jax.Array) -> None:
        """One reset and one step: purity, spaces, structure, reward and flags."""
        reset_key, action_key, step_key = jax.random.split(key, 3)
        reset = partial(self.env.reset_env, reset_key, self.params)
        observation, state = self._call("reset_env", reset, "(observation, state)", 2)
        self._check_arrays("state of reset_env", state)
        self._check_element("observation of reset_env", observation, self.observation_space, _FIX_OBSERVATION)
        self._check_same("reset_env twice with one key", reset(), (observation, state), _BE_PURE)

        before = jax.tree.map(_copied, state)
        action = self.action_space.sample(action_key)
        step = partial(self.env.step_env, step_key, state, action, self.params)
        outcome = self._call("step_env", step, _OUTPUTS, 5)
        self._check_same("state given to step_env", state, before, "Build a new state: state.replace(...).")
        self._check_same("step_env twice with the same arguments", step()[:4], outcome[:4], _BE_PURE)

        next_observation, next_state, reward, terminated, _ = outcome
        self._check_element("observation of step_env", next_observation, self.observation_space, _FIX_OBSERVATION)
        self._check_structure("state of step_env", next_state, state)
        self._check_scalar("reward", reward, jnp.floating, "Return jnp.asarray(reward, jnp.float32).")
        self._check_scalar("terminated", terminated, jnp.bool_, "Return a bool scalar, e.g. time == limit.")
        truncated = self._call("is_truncated", partial(self.env.is_truncated, next_state, self.params), "a bool scalar")
        self._check_scalar("is_truncated", truncated, jnp.bool_, "Return a bool scalar, e.g. state.time >= limit.")

    def check_transformations(self, key: jax.Array) -> None:
        """The same transition plainly, under `jit` and under `vmap`."""
        keys = jax.random.split(key, _NUM_COPIES)
        single = jax.jit(self._transition)
        jitted = self._call("jit", partial(single, keys[0]), "reset_env and step_env under jit")
        self._check_same("transition under jit", jitted, self._transition(keys[0]), _TRACE)
        batched = jax.jit(jax.vmap(self._transition))
        copies = self._call("vmap", partial(batched, keys), "reset_env and step_env under vmap")
        for index, each in enumerate(keys):
            copy = jax.tree.map(lambda leaf, index=index: leaf[index], copies)
            self._check_same("transition under vmap", copy, single(each), _TRACE)

    def check_run(self, num_steps: int, key: jax.Array) -> None:
        """Random actions for `num_steps` steps, resetting where an episode ends."""
        run = jax.jit(self._random_run, static_argnums=1)
        report = jax.device_get(self._call("scan", partial(run, key, num_steps), "steps under jax.lax.scan"))
        for rule, (kept, values) in report.items():
            if not kept.all():
                step = int(np.argmin(kept))
                got = f"{jax.tree.map(lambda leaf, step=step: leaf[step].tolist(), values)} at step {step}"
                expected, remedy = _RUN_RULES[rule]
                if rule == "observation in its space":
                    expected = str(self.observation_space)
                self.fail(rule, got, expected, remedy)

    def _transition(self, key: jax.Array) -> Any:
        reset_key, action_key, step_key = jax.random.split(key, 3)
        observation, state = self.env.reset_env(reset_key, self.params)
        outcome = self.env.step_env(step_key, state, self.action_space.sample(action_key), self.params)[:4]
        return observation, state, outcome, self.env.is_truncated(outcome[1], self.params)

    def _random_run(self, key: jax.Array, num_steps: int) -> dict[str, Any]:
        def env_step(state, key):
            step_key, action_key, reset_key = jax.random.split(key, 3)
            action = self.action_space.sample(action_key)
            observation, next_state, reward, terminated, _ = self.env.step_env(step_key, state, action, self.params)
            truncated = self.env.is_truncated(next_state, self.params)
            report = {
                "observation in its space": (self.observation_space.contains(observation), observation),
                "finite observation": (_all_finite(observation), observation),
                "finite reward": (_all_finite(reward), reward),
            }
            if hasattr(state, "time"):
                report["state.time counts the steps"] = (
                    next_state.time == state.time + 1,
                    (state.time, next_state.time),
                )
            if not getattr(self.env, "can_truncate", True):
                report["is_truncated where can_truncate is False"] = (~truncated, truncated)
            fresh = partial(self._start, reset_key)
            return jax.lax.cond(terminated | truncated, fresh, lambda: _like(next_state, state)), report

        start_key, run_key = jax.random.split(key)
        return jax.lax.scan(env_step, self._start(start_key), jax.random.split(run_key, num_steps))[1]

    def _start(self, key: jax.Array) -> Any:
        state = self.env.reset_env(key, self.params)[1]
        return _like(state, state)

    def _call(self, name: str, function: Callable[[], Any], expected: str, num_outputs: int | None = None) -> Any:
        try:
            outputs = function()
        except EnvCheckError:
            raise
        except Exception as error:
            got = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            raise EnvCheckError(self.name, name, got=got, expected=expected, remedy=_CALL_REMEDY) from error
        if num_outputs is not None and not (isinstance(outputs, tuple) and len(outputs) == num_outputs):
            got = f"{len(outputs)} outputs" if isinstance(outputs, tuple) else type(outputs).__name__
            self.fail(name, got, expected, "Return a tuple of exactly those.")
        return outputs

    def _check_space(self, name: str, space: Any) -> None:
        if isinstance(space, Tuple | Dict):
            for part in space.spaces.values() if isinstance(space, Dict) else space.spaces:
                self._check_space(name, part)
        elif not isinstance(space, Discrete | MultiDiscrete | Box):
            got = f"{space!r} of {type(space).__module__}"
            self.fail(
                name, got, "a space of hippodrome.envs", "Use Discrete, MultiDiscrete, Box, Tuple or Dict from there."
            )

    def _check_element(self, name: str, element: Any, space: Space, remedy: str) -> None:
        example = jax.eval_shape(space.sample, jax.random.key(0))
        self._check_structure(name, element, example, remedy)
        if not bool(space.contains(element)):
            self.fail(name, f"{element} outside it", str(space), remedy)

    def _check_arrays(self, name: str, tree: Any) -> None:
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            if not isinstance(leaf, jax.Array | np.ndarray | np.generic | bool | int | float):
                got = f"{type(leaf).__name__} at {jax.tree_util.keystr(path) or 'its root'}"
                self.fail(name, got, "a pytree of arrays", "Decorate the state with flax.struct.dataclass.")

    def _check_structure(self, name: str, tree: Any, example: Any, remedy: str | None = None) -> None:
        remedy = remedy or "Keep structure, shapes and dtypes from reset_env on, as jax.lax.scan asks."
        structure: PyTreeDef = jax.tree.structure(tree)
        if structure != jax.tree.structure(example):
            self.fail(name, structure, f"structure {jax.tree.structure(example)}", remedy)
        for (path, leaf), other in zip(
            jax.tree_util.tree_leaves_with_path(tree), jax.tree.leaves(example), strict=True
        ):
            if _type_of(leaf) != _type_of(other):
                where = jax.tree_util.keystr(path)
                self.fail(f"{name}{where}", _type_of(leaf), _type_of(other), remedy)

    def _check_scalar(self, name: str, value: Any, kind: Any, remedy: str) -> None:
        value = jnp.asarray(value)
        if value.shape != () or not jnp.issubdtype(value.dtype, kind):
            expected = "a bool scalar" if kind is jnp.bool_ else "a float scalar"
            self.fail(name, _type_of(value), expected, remedy)

    def _check_same(self, name: str, tree: Any, other: Any, remedy: str) -> None:
        tree, other = jax.tree.map(_without_keys, (tree, other))
        self._check_structure(name, tree, other, remedy)
        for (path, leaf), twin in zip(jax.tree_util.tree_leaves_with_path(tree), jax.tree.leaves(other), strict=True):
            if not _close(leaf, twin):
                self.fail(f"{name}{jax.tree_util.keystr(path)}", leaf, f"the same, {twin}", remedy)


_FIX_OBSERVATION = "Correct the observation or the space, dtype and shape included."
_BE_PURE = "Take all randomness from the key and keep everything in the state, nothing on the object."
_TRACE = "Use jnp and jax.lax on values: no Python `if`, numpy or side effects, and keys by jax.random.split."
_CALL_REMEDY = "It must run with a typed key (jax.random.key), plainly and traced; the cause is above."
_RUN_RULES = {
    "observation in its space": ("", _FIX_OBSERVATION),
    "finite observation": ("finite numbers", "Find where nan or infinity arises, or clip."),
    "finite reward": ("a finite number", "Find where nan or infinity arises, or clip."),
    "is_truncated where can_truncate is False": (
        "False",
        "Drop can_truncate = False: a limit does end its episodes.",
    ),
    "state.time counts the steps": (
        "one more after each step",
        "Add 1 to state.time in step_env, and do not begin a new episode there: VectorEnv does.",
    ),
}


def _type_of(leaf: Any) -> str:
    leaf = leaf if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct) else jnp.asarray(leaf)
    return f"{leaf.dtype}{list(leaf.shape)}"


def _close(leaf: Any, twin: Any) -> bool:
    leaf, twin = np.asarray(leaf), np.asarray(twin)
    if np.issubdtype(leaf.dtype, np.floating):
        return np.allclose(leaf, twin, rtol=1e-4, atol=1e-5, equal_nan=True)
    return np.array_equal(leaf, twin)


def _copied(leaf: Any) -> np.ndarray:
    return np.array(_without_keys(leaf))


def _without_keys(leaf: Any) -> Any:
    """The numbers of a typed key; another leaf as it is."""
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _like(tree: Any, example: Any) -> Any:
    def like(leaf: Any, other: Any) -> Any:
        return leaf if _is_key(leaf) else jax.lax.convert_element_type(leaf, jnp.asarray(other).dtype)

    return jax.tree.map(like, tree, example)


def _all_finite(tree: Any) -> jax.Array:
    return jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]).all()
