"""Continuous control whose physics and goals are the task, from gymnax's environments, and the mixture of all.

Every member has one Box action in its own units, trials of a fixed length and rewards of about [0, 1] a step, so that
returns of different members can stand in one table. No trial ends early: an end that only begins the next trial, which
pays as much, would cost an agent nothing. Goals are a part of the task and are not observed.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Key

from hippodrome.envs.adapters.gymnax_env import make_gymnax
from hippodrome.envs.core import Environment, EnvParams
from hippodrome.envs.mixture import Mixture
from hippodrome.envs.projection import Projection, padded
from hippodrome.envs.spaces import Box, Space
from hippodrome.envs.splits import Ranges, around, check_split, holds_out_tasks

from .navigation import PointNavigation

HORIZON = 25
OBSERVATION_SIZE, ACTION_SIZE = 16, 2


@struct.dataclass
class VariedParams(EnvParams):
    """A task.

    Attributes:
        max_steps_in_episode: actions of a trial.
        point: the numbers of the task by name; gymnax's parameters follow from them.
    """

    point: Any = None


@dataclasses.dataclass(frozen=True)
class Member:
    """How an environment of gymnax becomes a family of tasks.

    Attributes:
        gymnax_id: which.
        ranges: the numbers of a task; those named as a parameter are it, the others are for `begin`.
        derive: parameters that follow from others.
        begin: changes the start state, `(state, point) -> state`.
        reward: `(state, reward) -> reward`, from the state reached.
        shown: what is seen of gymnax's observation.
        units: what its numbers are divided by, about their size under random actions: a projection adds them up, and
            the large would drown the small.
        bounds: of the action, where gymnax's are not a Box.
        fixed: parameters that are other than gymnax's for every task.
        repeat: gymnax's steps for each action, so that 25 actions are the time in which the task can be done.
    """

    gymnax_id: str
    ranges: Ranges
    derive: Callable[[Any], Any] = lambda params: params
    begin: Callable[[Any, Any], Any] = lambda state, point: state
    reward: Callable[[Any, Any], Any] = lambda state, reward: reward
    shown: Callable[[Array], Array] = lambda observation: observation
    units: tuple[float, ...] | None = None
    bounds: tuple[float, float] | None = None
    fixed: dict[str, Any] = dataclasses.field(default_factory=dict)
    repeat: int = 1


def _cartpole_masses(params: Any) -> Any:
    return params.replace(total_mass=params.masscart + params.masspole, polemass_length=params.masspole * params.length)


def _cartpole_shown(observation: Array) -> Array:
    x, x_dot, theta, theta_dot = observation
    return jnp.stack([x, x_dot, jnp.cos(theta), jnp.sin(theta), theta_dot])


def _on_the_track(state: Any) -> Array:
    return jnp.abs(state.x) <= 2.4


def _goal(state: Any, point: Any) -> Any:
    return state.replace(goal_xy=jnp.stack([point["goal_x"], point["goal_y"]]))


def _goal_alone(state: Any, point: Any) -> Any:
    """Without urchins: five that are elsewhere in each trial would be ten of the fourteen numbers seen."""
    return _goal(state.replace(urchin_xys=jnp.full_like(state.urchin_xys, jnp.inf)), point)


def _without_goal(observation: Array) -> Array:
    return observation[:-2]


def _place_and_velocity(observation: Array) -> Array:
    return observation[-6:-2]


_CARTPOLE = around(
    gravity=(9.8, 0.2, 0.5), masspole=(0.1, 0.4, 0.8), length=(0.5, 0.3, 0.6), force_mag=(10.0, 0.2, 0.5)
)
# The track goes on beyond its ends, where nothing is paid, and the pole may turn over.
_NO_END = {"theta_threshold_radians": np.inf, "x_threshold": np.inf}
_CARTPOLE_UNITS = (1.0, 1.5, 1.0, 0.5, 2.5)
# The outer frame of a square of goals is held out.
_FRAME = Ranges(
    {"goal_x": (-0.6, 0.6), "goal_y": (-0.6, 0.6)},
    {"goal_x": ((-1.0, -0.6), (0.6, 1.0)), "goal_y": ((-1.0, -0.6), (0.6, 1.0))},
)
MEMBERS = {
    "pendulum": Member(
        "Pendulum-v1",
        around(g=(10.0, 0.2, 0.5), m=(1.0, 0.2, 0.4), l=(1.0, 0.2, 0.4)),
        reward=lambda state, reward: 1.0 + reward / 16.3,
        units=(1.0, 1.0, 4.0),
        repeat=2,
    ),
    "cartpole-balance": Member(
        "CartPole-v1",
        _CARTPOLE,
        derive=_cartpole_masses,
        # Within the 12 degrees and the track whose ends gymnax's episode ends at.
        reward=lambda state, reward: (jnp.cos(state.theta) >= np.cos(np.pi / 15)) & _on_the_track(state),
        shown=_cartpole_shown,
        units=_CARTPOLE_UNITS,
        bounds=(0.0, 1.0),
        fixed=_NO_END,
        repeat=3,
    ),
    "cartpole-swing-up": Member(
        "CartPole-v1",
        _CARTPOLE,
        derive=_cartpole_masses,
        begin=lambda state, point: state.replace(theta=state.theta + jnp.pi),
        reward=lambda state, reward: 0.5 * (1.0 + jnp.cos(state.theta)) * _on_the_track(state),
        shown=_cartpole_shown,
        units=_CARTPOLE_UNITS,
        bounds=(0.0, 1.0),
        fixed=_NO_END,
        repeat=3,
    ),
    "mountain-car": Member(
        "MountainCarContinuous-v0",
        around(gravity=(0.0025, 0.2, 0.5), power=(0.0015, 0.2, 0.5)),
        # The height, and no end at the flag: gymnax's single reward is out of reach of random actions.
        reward=lambda state, reward: 0.5 * (1.0 + jnp.sin(3.0 * state.position)),
        units=(0.5, 0.02),
        fixed={"goal_position": np.inf},
        repeat=4,
    ),
    "reacher": Member("Reacher-misc", _FRAME, begin=_goal, shown=_without_goal, repeat=3),
    "swimmer": Member("Swimmer-misc", _FRAME, begin=_goal_alone, shown=_place_and_velocity, repeat=2),
}


class Varied(Environment):
    """An environment of gymnax whose physics or goal is the task (see `MEMBERS`).

    Args:
        member: a name of `MEMBERS`.
        split: "train" or "held-out-tasks": the ranges that tasks are drawn from.
        horizon: steps of a trial.

    Raises:
        ValueError: for another name or split, or no steps.
    """

    def __init__(self, member: str, split: str = "train", horizon: int = HORIZON):
        if member not in MEMBERS:
            raise ValueError(f"member={member!r} must be one of {', '.join(MEMBERS)}")
        check_split(split, projected=False)
        if horizon < 1:
            raise ValueError(f"horizon={horizon} must be at least 1")
        self.member, self.split, self.horizon = member, split, horizon
        self._rules = MEMBERS[member]
        self.env = make_gymnax(self._rules.gymnax_id)

    @property
    def name(self) -> str:
        """The member's."""
        return self.member

    @property
    def default_params(self) -> VariedParams:
        """The middle of the training ranges."""
        middle = {name: 0.5 * (low + high) for name, (low, high) in self._rules.ranges.train.items()}
        return self._task({name: jnp.asarray(value, jnp.float32) for name, value in middle.items()})

    def sample_task(self, key: Key[Array, ""], params: VariedParams) -> VariedParams:
        """Draws the numbers of the task."""
        return self._task(self._rules.ranges.sample(key, held_out=holds_out_tasks(self.split)))

    def physics(self, params: VariedParams) -> Any:
        """What the numbers of a task make of gymnax's parameters."""
        inner = self.env.default_params.replace(max_steps_in_episode=10**6, **self._rules.fixed)
        inner = inner.replace(**{name: value for name, value in params.point.items() if hasattr(inner, name)})
        return self._rules.derive(inner)

    def reset_env(self, key: Key[Array, ""], params: VariedParams) -> tuple[Any, Any]:
        """Begins a trial."""
        _, state = self.env.reset_env(key, self.physics(params))
        state = self._rules.begin(state, params.point)
        return self._shown(self.env.observe(state, self.physics(params))), state

    def step_env(self, key: Key[Array, ""], state: Any, action: Any, params: VariedParams):
        """Takes one action, `repeat` times."""
        if self._rules.bounds is not None:
            action = action[0]  # gymnax takes a number
        physics = self.physics(params)

        def one(state: Any, key: Any) -> tuple[Any, Any]:
            _, state, reward, _, _ = self.env.step_env(key, state, action, physics)
            return state, jnp.asarray(self._rules.reward(state, reward), jnp.float32)

        state, rewards = jax.lax.scan(one, state, jax.random.split(key, self._rules.repeat), unroll=True)
        # No member has an end of its own.
        return self._shown(self.env.observe(state, physics)), state, rewards.mean(), jnp.asarray(False), {}

    def is_truncated(self, state: Any, params: VariedParams) -> Array:
        """After `max_steps_in_episode` actions."""
        return jnp.asarray(state.time >= self._rules.repeat * params.max_steps_in_episode)

    def observation_space(self, params: VariedParams) -> Box:
        """What is seen of gymnax's, as one vector."""
        space: Any = self.env.observation_space(self.physics(self.default_params))
        shown = jax.eval_shape(self._shown, jax.ShapeDtypeStruct(space.shape, space.dtype))
        return Box(-jnp.inf, jnp.inf, shown.shape)

    def action_space(self, params: VariedParams) -> Space:
        """One Box."""
        if self._rules.bounds is not None:
            return Box(*self._rules.bounds, (1,))
        return self.env.action_space(self.physics(self.default_params))

    def _task(self, point: dict[str, Any]) -> VariedParams:
        return VariedParams(max_steps_in_episode=self.horizon, point=point)

    def _shown(self, observation: Array) -> Array:
        shown = self._rules.shown(observation)
        return shown if self._rules.units is None else shown / jnp.asarray(self._rules.units)


def make_control(
    members: tuple[str, ...] | None = None, *, split: str = "train", projected: bool = True, horizon: int = HORIZON
) -> Projection:
    """The mixture of families of tasks, each seen through random projections to 16 and 2 numbers.

    Members are padded to the same sizes and projected together: one draw of matrices serves all, of variance 1 / n for
    n the widest of the members, so what is seen of a narrow one is smaller.

    Args:
        members: which; all of `MEMBERS`, and "point", where None.
        split: "train", "held-out-tasks", and where projected "held-out-projections" or "held-out-both".
        projected: False pads observations and actions to the same sizes in place of projecting them.
        horizon: steps of a trial.
    """
    if not isinstance(projected, bool):
        raise ValueError(f"projected={projected!r} must be true or false")
    check_split(split, projected=projected)
    known = (*MEMBERS, "point")
    names = known if members is None else (members,) if isinstance(members, str) else tuple(members)
    unknown = [name for name in names if name not in known]
    if unknown or not names or len(set(names)) < len(names):
        raise ValueError(f"members={list(names)} must be some of {', '.join(known)}, each once")
    if not isinstance(horizon, int) or isinstance(horizon, bool):
        raise ValueError(f"horizon={horizon!r} must be a whole number")
    tasks = "held-out-tasks" if holds_out_tasks(split) else "train"

    envs = {
        name: PointNavigation(horizon, tasks, dense=True) if name == "point" else Varied(name, tasks, horizon)
        for name in names
    }
    mixture = Mixture(padded(envs))
    return Projection(
        mixture, observation_size=OBSERVATION_SIZE, action_size=ACTION_SIZE, split=split, identity=not projected
    )
