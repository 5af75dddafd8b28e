"""Meta-episodes: several episodes of one task one after the other, for agents that adapt inside their memory.

Legend: `K` trials (episodes of the environment within) at most, `A` width of an encoded action.

Sources: Duan et al. 2016 (RL^2); Wang et al. 2016.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key

from .core import Environment, EnvState, longest_episode
from .encoding import encode_action, space_width
from .host import require_in_jax
from .spaces import Box, Dict, Discrete, Space, flat_spaces

SHOWS = ("previous_observation", "progress")


@struct.dataclass
class TrialsState(EnvState):
    """Where a meta-episode stands.

    Attributes:
        time: int32; steps since the meta-episode began.
        inner: state of the environment within.
        task: its parameters, the same from the first trial to the last.
        start_key: what trials begin with, where every trial begins alike.
        trial: int32; trials finished.
        trial_return: float32; rewards of the running trial.
        trial_returns: float32 `[K]`; of the finished ones, 0 elsewhere.
        observation: what the next step will show as the previous one; () where it is not shown.
    """

    inner: Any
    task: Any
    start_key: Key[Array, ""]
    trial: Int[Array, ""]
    trial_return: Float[Array, ""]
    trial_returns: Float[Array, " K"]
    observation: Any = ()


@struct.dataclass
class TaskSet:
    """Parameters of `Trials` that draw tasks from a finite set, in place of all there are.

    Attributes:
        inner: parameters of the environment within, from which tasks are made.
        order: int32 `[n]`; the tasks by number.
        size: int32; how many of the first are drawn from, evenly.
    """

    inner: Any
    order: Int[Array, " n"]
    size: Int[Array, ""]


class Trials(Environment):
    """A meta-episode of trials: a task is drawn once, start states for every trial, and only the last trial ends it.

    An episode of this environment is a meta-episode, so an agent's memory lives from trial to trial and is cleared
    between meta-episodes, and discounted returns cross the ends of trials. Its end is a termination: nothing is beyond,
    unless it is `endless`.
    The step that ends a trial shows the first observation of the next one, with `trial_start` 1 and the reward that
    ended the last.

    Observations are dicts: `observation` of the environment within; `previous_action` `[A]`, one-hot where discrete and
    scaled to [-1, 1] where not, 0 at the first step of a meta-episode; `previous_reward`; `trial_start` and
    `first_step`, 0 or 1; and what `shows` adds. Parameters (`env.params`) are those of the environment within, from
    which tasks are drawn.

    Args:
        env: the environment within; tasks come from its `sample_task`.
        trials: K, the number of trials.
        steps: in place of `trials`, the number of steps; as many trials as fit, the last one cut off.
        same_start: every trial of a meta-episode begins in the same state, given the same task.
        endless: the last trial cuts the meta-episode off (a truncation) in place of ending it: what would follow is
            valued too, so that an agent that cannot see the end does not learn from returns that stop there.
        shows: what observations hold besides. "previous_observation": the observation that the previous action was
            taken at, zeros at the first step, so that one input holds a whole transition. "progress": the share of the
            meta-episode that is over, 0 to 1, by trials or by steps: without it a critic cannot tell the end, where
            returns stop, from the middle (Pardo et al. 2018, "Time limits in reinforcement learning").

    Raises:
        ValueError: for another word in `shows`, unless exactly one of `trials` and `steps` is given, whole, at least 1
            and below 2^31 steps in all, where `steps` is less than the longest trial, or for an environment that steps
            on the host or whose episodes have no limit.
    """

    def __init__(
        self,
        env: Environment,
        *,
        trials: int | None = None,
        steps: int | None = None,
        same_start: bool = False,
        endless: bool = False,
        shows: Sequence[str] = (),
    ):
        if (trials is None) == (steps is None):
            raise ValueError(f"exactly one of trials={trials} and steps={steps} must be given, the other be None")
        self._most: Any = trials if steps is None else steps
        given = f"trials={trials!r}" if steps is None else f"steps={steps!r}"
        if not isinstance(self._most, int) or isinstance(self._most, bool) or self._most < 1:
            raise ValueError(f"{given} must be a whole number of at least 1")
        for name, value in (("same_start", same_start), ("endless", endless)):
            if not isinstance(value, bool):
                raise ValueError(f"{name}={value!r} must be true or false")
        shows = (shows,) if isinstance(shows, str) else shows
        unknown = [word for word in shows if word not in SHOWS]
        if unknown:
            raise ValueError(f"shows={unknown} must be of {', '.join(SHOWS)}")
        require_in_jax(env, "meta-episodes")
        self.env = env
        self.trials = trials
        self.steps = steps
        self.same_start = same_start
        self.can_truncate = endless
        self.shows = tuple(shows)
        self._check_budget(env.default_params)
        if self.longest_episode(env.default_params) >= 2**31:
            raise ValueError(f"{given} makes meta-episodes of 2^31 steps or more; lower it")

    @property
    def name(self) -> str:
        """That of the environment within, and how many trials."""
        length = f"{self.trials} trials" if self.steps is None else f"{self.steps} steps"
        return f"{self.env.name}, {length}"

    @property
    def default_params(self) -> Any:
        """Those of the environment within."""
        return self.env.default_params

    def longest_episode(self, params: Any) -> int:
        """Steps of a meta-episode at most."""
        return self._most * self._longest_trial(params) if self.steps is None else self.steps

    def most_trials(self) -> int:
        """K: trials in a meta-episode at most; where the number of steps is given, one for each step."""
        return self._most

    def reset_pool_size(self, num_steps: int) -> int:
        """Meta-episodes that can end within `num_steps` steps, each trial at least one; 0 where that saves nothing."""
        most = -(-num_steps // self._most)
        return most if most < num_steps else 0

    def sample_task(self, key: Key[Array, ""], params: Any) -> Any:
        """Parameters of a task; `reset_env` draws one itself."""
        return self.env.sample_task(key, params)

    def reset_env(self, key: Key[Array, ""], params: Any) -> tuple[dict, TrialsState]:
        """Draws a task and begins its first trial."""
        task_key, start_key = jax.random.split(key)
        if isinstance(params, TaskSet):
            number = params.order[jax.random.randint(task_key, (), 0, params.size)]
            return self.begin(self.sample_task(self.task_key(number), params.inner), start_key)
        return self.begin(self.sample_task(task_key, params), start_key)

    @staticmethod
    def task_key(number: Int[Array, ""]) -> Key[Array, ""]:
        """The key that the task of that number in a finite set is drawn by."""
        return jax.random.fold_in(jax.random.key(0), number)

    def begin(self, task: Any, key: Key[Array, ""]) -> tuple[dict, TrialsState]:
        """Begins a meta-episode of a task that is given."""
        observation, inner = self.env.reset_env(key, task)
        state = TrialsState(
            time=jnp.zeros((), jnp.int32),
            inner=inner,
            task=task,
            start_key=key,
            trial=jnp.zeros((), jnp.int32),
            trial_return=jnp.zeros(()),
            trial_returns=jnp.zeros(self.most_trials()),
            observation=self._kept(observation),
        )
        shown = self._observed(
            state,
            observation,
            previous_action=jnp.zeros(space_width(self.env.action_space(task))),
            previous_reward=jnp.zeros(()),
            previous_observation=jax.tree.map(jnp.zeros_like, state.observation),
            trial_start=True,
            first_step=True,
        )
        return shown, state

    def step_env(self, key: Key[Array, ""], state: TrialsState, action: Any, params: Any):
        """Takes one action; where it ended a trial, begins the next."""
        del params  # the task's are in the state
        step_key, reset_key = jax.random.split(key)
        reached, inner, reward, terminated, info = self.env.step_env(step_key, state.inner, action, state.task)
        reward = jnp.asarray(reward, jnp.float32)
        ended = jnp.asarray(terminated, bool) | self.env.is_truncated(inner, state.task)
        trial_return = state.trial_return + reward
        row = jnp.where(ended, state.trial, self.most_trials())  # out of range and dropped while a trial goes on
        trial, time = state.trial + ended, state.time + 1
        done = self._is_over(trial, time)
        # What a meta-episode ended with is shown as it is.
        starts = ended & ~done
        fresh = self.env.reset_env(state.start_key if self.same_start else reset_key, state.task)
        observation, inner = jax.tree.map(lambda new, old: jnp.where(starts, new, old), fresh, (reached, inner))
        previous_observation = state.observation
        state = dataclasses.replace(
            state,
            observation=self._kept(observation),
            time=time,
            inner=inner,
            trial=trial,
            trial_return=jnp.where(ended, 0.0, trial_return),
            trial_returns=state.trial_returns.at[row].set(trial_return, mode="drop"),
        )
        leaves = zip(flat_spaces(self.env.action_space(state.task)), jax.tree.leaves(action), strict=True)
        previous_action = jnp.concatenate([encode_action(leaf, part) for leaf, part in leaves], axis=-1)
        shown = self._observed(
            state,
            observation,
            previous_action=previous_action,
            previous_reward=reward,
            previous_observation=previous_observation,
            trial_start=starts,
            first_step=False,
        )
        return shown, state, reward, done & (not self.can_truncate), info

    def is_truncated(self, state: TrialsState, params: Any) -> Bool[Array, ""]:
        """Whether the meta-episode is over, where it is endless."""
        del params
        return self._is_over(state.trial, state.time) & self.can_truncate

    def observation_space(self, params: Any) -> Dict:
        """See the class."""
        self._check_budget(params)
        flag = Discrete(2)
        more = {"previous_observation": self.env.observation_space(params), "progress": Box(0.0, 1.0, ())}
        return Dict(
            {
                "observation": self.env.observation_space(params),
                "previous_action": Box(-1.0, 1.0, (space_width(self.action_space(params)),)),
                "previous_reward": Box(-jnp.inf, jnp.inf, ()),
                "trial_start": flag,
                "first_step": flag,
                **{name: more[name] for name in self.shows},
            }
        )

    def action_space(self, params: Any) -> Space:
        """That of the environment within."""
        return self.env.action_space(params)

    def _is_over(self, trial: Int[Array, ""], time: Int[Array, ""] | int) -> Bool[Array, ""]:
        return jnp.asarray(trial >= self._most if self.steps is None else time >= self.steps)

    def _kept(self, observation: Any) -> Any:
        return observation if "previous_observation" in self.shows else ()

    def _observed(
        self,
        state: TrialsState,
        observation: Any,
        *,
        previous_action: Any,
        previous_reward: Any,
        previous_observation: Any,
        trial_start: Any,
        first_step: Any,
    ) -> dict[str, Any]:
        over = state.trial if self.steps is None else state.time
        more = {"previous_observation": previous_observation, "progress": jnp.asarray(over, jnp.float32) / self._most}
        return {
            "observation": observation,
            "previous_action": previous_action,
            "previous_reward": previous_reward,
            "trial_start": jnp.asarray(trial_start, jnp.int32),
            "first_step": jnp.asarray(first_step, jnp.int32),
            **{name: more[name] for name in self.shows},
        }

    def _longest_trial(self, params: Any) -> int:
        longest = longest_episode(self.env, params)
        if longest is None:
            raise ValueError(f"trials of {self.env.name} have no limit; it needs a max_steps_in_episode")
        return longest

    def _check_budget(self, params: Any) -> None:
        longest = self._longest_trial(params)
        if self.steps is not None and longest > self.steps:
            raise ValueError(
                f"steps={self.steps} of a meta-episode must be at least the longest trial, max_steps_in_episode="
                f"{longest} of {self.env.name}; raise the one or lower the other"
            )
