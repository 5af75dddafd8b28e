"""A good environment, and one broken on purpose for each rule of check_env, with what it is then told."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import spaces as gymnax_spaces

from hippodrome.envs import Box, Discrete, Environment, EnvParams, EnvState


@struct.dataclass
class LineState(EnvState):
    place: Any


class Line(Environment):
    """A good environment: a place in 0 to 8 that the action moves; ends at 8 or after 20 steps."""

    @property
    def default_params(self):
        return EnvParams(max_steps_in_episode=20)

    def reset_env(self, key, params):
        place = jax.random.uniform(key)
        return place, LineState(time=0, place=place)

    def step_env(self, key, state, action, params):
        place = jnp.clip(state.place + action, 0.0, 8.0)
        return place, LineState(time=state.time + 1, place=place), place / 8, place >= 8, {}

    def observation_space(self, params):
        return Box(0, 8, ())

    def action_space(self, params):
        return Box(-1, 1, ())


class Missing:
    name = "Missing"
    default_params = EnvParams()


class Unwritten(Line):
    reset_env = Environment.reset_env


class OwnStep(Line):
    def step(self, key, state, action, params=None):
        return self.step_env(key, state, action, params)


class NegativePool(Line):
    def reset_pool_size(self, num_steps):
        return -1


class GymnaxSpace(Line):
    def observation_space(self, params):
        return gymnax_spaces.Box(0, 8, ())


class Unbounded(Line):
    def action_space(self, params):
        return Box(-np.inf, 1, ())


class OutOfReach(Discrete):
    def sample(self, key):
        return jnp.int32(self.n)


class BadSample(Line):
    def action_space(self, params):
        return OutOfReach(3)


class RawKeys(Line):
    def reset_env(self, key, params):
        return super().reset_env(jax.random.wrap_key_data(key.at[0].set(0)), params)


class WrongShape(Line):
    def reset_env(self, key, params):
        observation, state = super().reset_env(key, params)
        return observation[None], state


class WrongDtype(Line):
    def step_env(self, key, state, action, params):
        return (jnp.int32(0), *super().step_env(key, state, action, params)[1:])


class StartsOutside(Line):
    def reset_env(self, key, params):
        return jnp.float32(9), super().reset_env(key, params)[1]


class Leaves(Line):
    def step_env(self, key, state, action, params):
        return (1.0 + state.time, *super().step_env(key, state, action, params)[1:])

    def observation_space(self, params):
        return Box(0, 10, ())


class CountsOnItself(Line):
    calls = 0

    def step_env(self, key, state, action, params):
        self.calls += 1
        observation, state, _, terminated, info = super().step_env(key, state, action, params)
        return observation, state, jnp.float32(self.calls), terminated, info


class Forgets(Line):
    def reset_env(self, key, params):
        return super().reset_env(jax.random.key(np.random.default_rng().integers(1 << 30)), params)


class WritesIntoState(Line):
    def reset_env(self, key, params):
        observation, state = super().reset_env(key, params)
        return observation, state.replace(place=np.array([observation]))

    def step_env(self, key, state, action, params):
        state.place[0] = 5.0
        return jnp.float32(5), state.replace(time=state.time + 1), jnp.float32(0), jnp.asarray(False), {}


class StateOfText(Line):
    def reset_env(self, key, params):
        observation, state = super().reset_env(key, params)
        return observation, state.replace(place="here")


class ChangesDtype(Line):
    def step_env(self, key, state, action, params):
        observation, state, *rest = super().step_env(key, state, action, params)
        return observation, state.replace(place=jnp.int32(0)), *rest


class ChangesStructure(Line):
    def step_env(self, key, state, action, params):
        observation, state, *rest = super().step_env(key, state, action, params)
        return observation, state.replace(place=(observation, observation)), *rest


class FourOutputs(Line):
    def step_env(self, key, state, action, params):
        return super().step_env(key, state, action, params)[:4]


class RewardVector(Line):
    def step_env(self, key, state, action, params):
        observation, state, reward, *rest = super().step_env(key, state, action, params)
        return observation, state, reward[None], *rest


class RewardInteger(Line):
    def step_env(self, key, state, action, params):
        observation, state, _, *rest = super().step_env(key, state, action, params)
        return observation, state, jnp.int32(1), *rest


class TerminatedFloat(Line):
    def step_env(self, key, state, action, params):
        return (*super().step_env(key, state, action, params)[:3], jnp.float32(0), {})


class TruncatedTwice(Line):
    def is_truncated(self, state, params):
        return jnp.array([False, False])


class NoLimit(Line):
    def is_truncated(self, state, params):
        return state.limit_reached


class TruncatesAfterAll(Line):
    can_truncate = False

    def is_truncated(self, state, params):
        return state.time >= 4


class PythonIf(Line):
    def step_env(self, key, state, action, params):
        if state.place > 4:
            return super().step_env(key, state, action, params)
        return super().step_env(key, state, -action, params)


class OtherUnderJit(Line):
    def step_env(self, key, state, action, params):
        observation, state, reward, *rest = super().step_env(key, state, action, params)
        return observation, state, reward + isinstance(reward, jax.core.Tracer), *rest


@jax.custom_batching.custom_vmap
def shifted_in_batches(value):
    return value


@shifted_in_batches.def_vmap
def _(axis_size, in_batched, value):
    return value + 1, True


class OtherUnderVmap(Line):
    def step_env(self, key, state, action, params):
        observation, state, reward, *rest = super().step_env(key, state, action, params)
        return observation, state, shifted_in_batches(reward), *rest


class NotANumber(Line):
    def step_env(self, key, state, action, params):
        observation, state, reward, *rest = super().step_env(key, state, action, params)
        return observation, state, jnp.where(state.time == 7, jnp.nan, reward), *rest


class InfinitelyFar(Line):
    def step_env(self, key, state, action, params):
        return (jnp.where(state.time == 7, jnp.inf, 0.0), *super().step_env(key, state, action, params)[1:])

    def observation_space(self, params):
        return Box(0, np.inf, ())


class ResetsItself(Line):
    def step_env(self, key, state, action, params):
        observation, state, *rest = super().step_env(key, state, action, params)
        fresh = self.reset_env(key, params)[1]
        ended = state.time >= 5
        return observation, jax.tree.map(lambda new, old: jnp.where(ended, new, old), fresh, state), *rest


BROKEN = {
    Missing: "methods: got no reset_env, step_env",
    Unwritten: r"reset_env: got NotImplementedError: Unwritten must define reset_env",
    OwnStep: r"step: got an overridden step\(\); expected only step_env\(\)",
    NegativePool: r"reset_pool_size\(8\): got -1; expected an int, at least 0",
    GymnaxSpace: r"observation_space: got Box.* of gymnax.*; expected a space of hippodrome.envs",
    Unbounded: "action_space: got Box.*; expected finite bounds",
    BadSample: r"action_space.sample\(key\): got 3 outside it; expected Discrete\(3\)",
    RawKeys: r"reset_env: got .*; expected \(observation, state\). It must run with a typed key",
    WrongShape: r"observation of reset_env: got float32\[1\]; expected float32\[\]",
    WrongDtype: r"observation of step_env: got int32\[\]; expected float32\[\]",
    StartsOutside: "observation of reset_env: got 9.0 outside it; expected Box",
    Leaves: r"observation in its space: got 11.0 at step 10; expected Box\(0.0, 10.0",
    CountsOnItself: r"step_env twice with the same arguments\[2\]: got 2.0; expected the same, 1.0",
    Forgets: r"reset_env twice with one key\[0\]: got .*; expected the same",
    WritesIntoState: r"state given to step_env.place: got \[5.\]; expected the same.*Build a new state",
    StateOfText: "state of reset_env: got str at .place; expected a pytree of arrays",
    ChangesDtype: r"state of step_env.place: got int32\[\]; expected float32\[\]. Keep structure",
    ChangesStructure: "state of step_env: got PyTreeDef.*; expected structure PyTreeDef",
    FourOutputs: r"step_env: got 4 outputs; expected \(observation, state, reward, terminated, info\)",
    RewardVector: r"reward: got float32\[1\]; expected a float scalar",
    RewardInteger: r"reward: got int32\[\]; expected a float scalar",
    TerminatedFloat: r"terminated: got float32\[\]; expected a bool scalar",
    TruncatedTwice: r"is_truncated: got bool\[2\]; expected a bool scalar",
    NoLimit: "is_truncated: got AttributeError: .*limit_reached",
    TruncatesAfterAll: "is_truncated where can_truncate is False: got True at step 3; expected False",
    PythonIf: "jit: got TracerBoolConversionError",
    OtherUnderJit: r"transition under jit\[2\]\[2\]: got .*; expected the same",
    OtherUnderVmap: r"transition under vmap\[2\]\[2\]: got .*; expected the same",
    NotANumber: "finite reward: got nan at step 6; expected a finite number",
    InfinitelyFar: "finite observation: got inf at step 7; expected finite numbers",
    ResetsItself: r"state.time counts the steps: got \(4, 0\) at step 4; expected one more after each step",
}
