"""The agent protocol and the registry of agents.

Legend: `T` steps, `B` environments. An agent is pure functions over explicit state; it reaches memory by the memory
contract alone, so every agent runs with every memory.
"""

import difflib
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar

from flax import struct
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Key

from hippodrome.envs import Outcome, Timestep


@struct.dataclass
class Decision:
    """What an agent decided at one step, for `B` environments.

    Attributes:
        action: as the agent stores it (before clipping and scaling), leaves `[B, ...]`.
        env_action: as the environment takes it.
        log_prob: float32 `[B]`, of `action`.
        value: float32 `[B]`, V(observation).
    """

    action: Any
    env_action: Any
    log_prob: Float[Array, "..."]
    value: Float[Array, "..."]


@struct.dataclass
class Rollout:
    """`T` steps of `B` environments, time-major; the batch that `learn` takes.

    Attributes:
        timestep: what the policy saw at each step, leaves `[T, B, ...]`.
        decision: what it decided.
        outcome: what came of it; `final_observation` is dropped (None) since its value is in `final_value`.
        final_value: float32 `[T, B]`; V(final_observation[t]) where truncated, 0 elsewhere.
        last_value: float32 `[B]`; V of the observation after the last step, under the carry handed on.
        initial_carry: the agent's carry before the first step, leaves `[B, ...]`.
    """

    timestep: Timestep
    decision: Decision
    outcome: Outcome
    final_value: Float[Array, "T B"]
    last_value: Float[Array, " B"]
    initial_carry: Any


@struct.dataclass
class ReplayStep:
    """One step of a stream as replay keeps it; the observation that ended an episode is a step of its own.

    Attributes:
        observation: the space's element.
        reset: bool; True when `observation` is the first of an episode.
        previous_action: the environment action that led to it; null where `reset`.
        reward: float32; what that action yielded; 0 where `reset`.
        terminal: bool; the episode ended with this observation and nothing is beyond.
        last: bool; the episode ended with it, or was cut off. No action follows.
    """

    observation: Any
    reset: Bool[Array, "..."]
    previous_action: Any
    reward: Float[Array, "..."]
    terminal: Bool[Array, "..."]
    last: Bool[Array, "..."]


@struct.dataclass
class ReplayBatch:
    """`N` windows of `L` consecutive steps.

    Attributes:
        steps: leaves `[L, N, ...]`.
        carry: the agent's carry from before each window's first step, leaves `[N, ...]`.
    """

    steps: ReplayStep
    carry: Any


@struct.dataclass
class Feedback:
    """What replay is to keep of an update.

    Attributes:
        carries: the carries after steps K-1, 2K-1, ..., L-1 of each window, leaves `[L/K, N, ...]`.
        priority: float32 `[N]`, how much there was to learn from each window.
    """

    carries: Any
    priority: Float[Array, " N"]


class Agent(Protocol):
    """What training, evaluation and deployment need of an agent. All methods are pure.

    Beside them, an agent whose state holds more that follows from its parameters has `with_params(state, params)`: a
    fresh state that begins with the parameters given. `shape_fields` names the fields of its configuration that decide
    their shapes.
    """

    def init(self, key: Key[Array, ""], num_envs: int) -> Any:
        """The learner's state: parameters (in `state.params`), optimiser, statistics, and per-environment parts."""

    def initial_carry(self, num_envs: int) -> Any:
        """The policy's carry before anything was seen; needs no parameters."""

    def act(
        self, params: Any, carry: Any, timestep: Timestep, key: Key[Array, " B"], *, deterministic: bool = False
    ) -> tuple[Any, Decision]:
        """One step of the policy; one key per environment."""

    def value(self, params: Any, carry: Any, timestep: Timestep) -> Float[Array, " B"]:
        """V(observation) under this carry; the carry is not advanced."""

    def learn(self, state: Any, batch: Rollout, key: Key[Array, ""]) -> tuple[Any, dict[str, Float[Array, ""]]]:
        """One update from a rollout; the metrics are scalars.

        An agent with the attribute `learns_from_replay` True takes a `ReplayBatch` instead and returns a `Feedback` as
        well; the training step then keeps replay and calls it as often as the replay ratio says.
        """

    def state_partition(self, split: PartitionSpec) -> Any:
        """A pytree prefix of the state: `split` for what belongs to environments, `PartitionSpec()` for the rest."""


# An agent that learns from replay is no `Agent` to a type checker: its `learn` returns a `Feedback` as well.
_Class = TypeVar("_Class", bound=Callable[..., Any])


class _Entry(NamedTuple):
    build: Callable[..., Any]
    config: type


_AGENTS: dict[str, _Entry] = {}


def register_agent(kind: str, config: type) -> Callable[[_Class], _Class]:
    """Class decorator that makes an agent available under `kind`.

    Args:
        kind: its name in configurations.
        config: a frozen dataclass whose first field is `kind: Literal[kind]`, every field with a default. The class is
            called as `cls(config, memory_config, observation_space, action_space, num_updates=..., ...)`.

    Raises:
        ValueError: where the name is taken by another class.
    """

    def add(cls: _Class) -> _Class:
        if kind in _AGENTS and _AGENTS[kind].build is not cls:
            raise ValueError(f"register_agent({kind!r}): the name is taken by {_AGENTS[kind].build!r}; choose another")
        _AGENTS[kind] = _Entry(cls, config)
        return cls

    return add


def list_agents() -> list[str]:
    """Names of all registered agents, sorted."""
    return sorted(_AGENTS)


def agent_config(kind: str) -> type:
    """The configuration type of an agent. Raises ValueError for an unknown kind, with the nearest known one."""
    if kind not in _AGENTS:
        near = difflib.get_close_matches(kind, _AGENTS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(list_agents())}"
        raise ValueError(f"unknown agent {kind!r}; {hint}")
    return _AGENTS[kind].config


def agent_learns_from_replay(kind: str) -> bool:
    """Whether a registered agent takes windows of replay and not rollouts."""
    return getattr(_AGENTS[kind].build, "learns_from_replay", False)


def make_agent(config: Any, memory_config: Any, observation_space: Any, action_space: Any, **options: Any) -> Agent:
    """The agent of a configuration, over a memory and the spaces of an environment."""
    return _AGENTS[config.kind].build(config, memory_config, observation_space, action_space, **options)
