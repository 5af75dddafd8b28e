"""Environments that step in Python, in actors of their own; the learner, in the driver's process, gets what they saw.

An actor has its share of the environments and acts in them with the parameters that it is sent by reference. It answers
with a chunk: `num_steps` steps with their reset flags, the carry before them and after. The learner's program is the
one that steps environments itself, with a single callback in place of the rollout; with `actor_lag` 0 its numbers are
the same.

Legend: `B` environments in all, `W` actors.
"""

import collections
import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import ray
from jax.experimental import io_callback
from jaxtyping import Array, Key

from hippodrome.envs import VectorState, environment_keys
from hippodrome.envs.host import HostEnvironment, HostVectorEnv
from hippodrome.envs.host_copies import HostEnvError
from hippodrome.training.config import TrainConfig, load_config
from hippodrome.training.config.schema import ClusterConfig
from hippodrome.training.errors import HippodromeError
from hippodrome.training.host import telling
from hippodrome.training.rollout import collect, record
from hippodrome.training.step import make_experiment

from .group import Group, WorkerLost, death_of, started

_ROLLOUTS: dict[str, Callable[..., Any]] = {each.__name__: each for each in (collect, record)}


class EnvActor:
    """One process that acts. Arrays come and go as NumPy's, keys as their data."""

    def where(self) -> dict[str, Any]:
        """The process and its node."""
        return {"pid": os.getpid(), "host": ray.util.get_node_ip_address()}

    def open(self, folder: Path, first_env: int, num_envs: int) -> None:
        """Makes environments `first_env` to `first_env + num_envs` of the run in a folder."""
        config = dataclasses.replace(load_config(folder), cluster=ClusterConfig())
        experiment = make_experiment(config)
        self.agent, self.envs = experiment.agent, experiment.envs
        self.first_env, self.num_envs = first_env, num_envs
        self.reset_program = jax.jit(self.envs.reset)

    def reset(self, keys: np.ndarray) -> Any:
        """Begins an episode in every environment; the `VectorState`."""
        with telling(self.envs):
            self.state = jax.block_until_ready(self.reset_program(jax.random.wrap_key_data(jnp.asarray(keys))))
        self.carry = self.agent.initial_carry(self.num_envs)
        return _to_host(self.state)

    def compile(self, rollout: str, options: dict[str, Any], params: Any, key: Any) -> None:
        """Makes a function of `training.rollout` the program of `play`; given shapes."""
        function = partial(_ROLLOUTS[rollout], self.agent, self.envs, first_env=self.first_env, **options)
        self.program = jax.jit(function).lower(params, self.state, self.carry, key).compile()

    def play(self, params: Any, key: np.ndarray) -> Any:
        """What that function returns."""
        with telling(self.envs):
            chunk = jax.block_until_ready(
                self.program(params, self.state, self.carry, jax.random.wrap_key_data(jnp.asarray(key)))
            )
        self.state, self.carry = chunk[:2]
        return _to_host(chunk)

    def close(self) -> None:
        """Closes the environments."""
        self.envs.close()


class Actors:
    """The actors as the learner sees them.

    At most `lag + 1` chunks of an actor are asked for and not yet learnt from, so what is sent and kept is bounded.

    Attributes:
        lost: the actor's death, or its error that no message explains, that ended the last call; None while there is
            none.
    """

    def __init__(self, group: Group, lag: int):
        self.handles = group.workers
        self.places = group.places
        self.lag = lag
        self.lost: WorkerLost | None = None
        self._asked: collections.deque[list[Any]] = collections.deque()
        self._compiling: list[Any] = []

    def vectorize(self, env: HostEnvironment, params: Any) -> "ActorVectorEnv":
        """The environments of all actors."""
        return ActorVectorEnv(env, params, self)

    def rollout(
        self,
        function: Callable[..., Any],
        agent: Any,
        envs: "ActorVectorEnv",
        params: Any,
        envs_state: VectorState,
        carry: Any,
        key: Key[Array, ""],
        *,
        first_env: int,
        **options: Any,
    ) -> Any:
        """In the place of `function(agent, envs, ...)`, one of `training.rollout`: a chunk of every actor, joined.

        With a lag the chunk is of the parameters so many updates ago, and the actors go on while the learner learns.
        """
        here = partial(function, agent, envs, first_env=first_env, **options)
        shapes = jax.eval_shape(here, params, envs_state, carry, key)
        keys = environment_keys(key, 0, self.lag + 1) if self.lag else key[None]
        # Now, at tracing: the actors compile while the learner's own program is compiled.
        given = jax.eval_shape(lambda *given: given, params, key)
        self._compiling = [actor.compile.remote(function.__name__, options, *given) for actor in self.handles]

        def play(params: Any, keys: Any) -> list[np.ndarray]:
            with envs.remembered():
                return self._next_chunk(params, np.asarray(keys), shapes)

        return _called_back(play, shapes, params, jax.random.key_data(keys))

    def reset(self, envs: "ActorVectorEnv", keys: Key[Array, " B"], shapes: VectorState) -> VectorState:
        """Begins an episode in every environment; chunks asked for before are forgotten."""

        def begin(keys: Any) -> list[np.ndarray]:
            with envs.remembered():
                self._asked.clear()
                parts = np.split(np.asarray(keys), len(self.handles))
                asked = [actor.reset.remote(part) for actor, part in zip(self.handles, parts, strict=True)]
                return _joined(self.get(asked), shapes)

        return _called_back(begin, shapes, jax.random.key_data(keys))

    def get(self, references: list[Any]) -> list[Any]:
        """What each actor answers.

        Raises:
            HippodromeError: the actor's own.
            WorkerLost: for an actor that died or raised another error.
        """
        answers = []
        for index, reference in enumerate(references):
            place = self.places[index]
            who = f"environment actor {index} (process {place['pid']} on {place['host']})"
            try:
                answers.append(ray.get(reference))
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, HippodromeError):
                    raise error.cause from None
                raise WorkerLost(f"{who} raised an error:\n{error}") from None
            except ray.exceptions.RayError as error:
                raise WorkerLost(f"{who} died: {death_of(error)}") from None
        return answers

    def _next_chunk(self, params: Any, keys: np.ndarray, shapes: Any) -> list[np.ndarray]:
        self.get(self._compiling)
        reference = ray.put(jax.tree.map(np.asarray, params))
        # At first as many chunks as are to be under way, then one for each that is learnt from.
        for key in keys[len(self._asked) :]:
            self._asked.append([actor.play.remote(reference, key) for actor in self.handles])
        return _joined(self.get(self._asked.popleft()), shapes)


class ActorVectorEnv(HostVectorEnv):
    """The environments of all actors: they can be reset and, by `Actors.rollout`, acted in; not stepped one by one."""

    def __init__(self, env: HostEnvironment, params: Any, actors: Actors):
        super().__init__(env, params)
        self._actors = actors

    def reset(self, keys: Key[Array, " B"]) -> VectorState:
        """Begins an episode in every environment, seeded by its key."""
        return self._actors.reset(self, keys, jax.eval_shape(super().reset, keys))

    @contextlib.contextmanager
    def remembered(self) -> Iterator[None]:
        """Keeps the error that leaves the block, of which JAX reports only the text."""
        try:
            yield
        except WorkerLost as lost:
            self._actors.lost = lost
            raise
        except BaseException as error:
            self.failure = HostEnvError(str(error)) if isinstance(error, HippodromeError) else error
            raise


@contextlib.contextmanager
def actors_of(config: TrainConfig, folder: Path) -> Iterator[Actors]:
    """`cluster.num_actors` actors with the environments of the run in a folder; ended with the block.

    Raises:
        TrainingError: if the cluster has no room for them within `cluster.start_timeout`.
        WorkerLost: if one dies before all have environments.
    """
    count = config.cluster.num_actors
    share = config.env.num_envs // count
    with started(EnvActor, config, count, max_concurrency=1) as group:
        actors = Actors(group, config.cluster.actor_lag)
        actors.get([actor.open.remote(folder, i * share, share) for i, actor in enumerate(actors.handles)])
        yield actors
        with contextlib.suppress(HippodromeError, WorkerLost):
            actors.get([actor.close.remote() for actor in actors.handles])


def _as_data(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def _to_host(tree: Any) -> list[np.ndarray]:
    return [np.asarray(_as_data(leaf)) for leaf in jax.tree.leaves(tree)]


def _joined(parts: list[list[np.ndarray]], shapes: Any) -> list[np.ndarray]:
    """The leaves of all actors side by side, along whichever axis is that of the environments."""
    joined = []
    for leaves, shape in zip(zip(*parts, strict=True), _data_shapes(shapes), strict=True):
        axes = [axis for axis, size in enumerate(shape.shape) if leaves[0].shape[axis] != size]
        joined.append(np.concatenate(leaves, axes[0]) if axes else leaves[0])
    return joined


def _data_shapes(shapes: Any) -> list[jax.ShapeDtypeStruct]:
    return jax.tree.leaves(jax.eval_shape(lambda tree: jax.tree.map(_as_data, tree), shapes))


def _called_back(function: Callable[..., list[np.ndarray]], shapes: Any, *args: Any) -> Any:
    """What an ordered callback returns, as the tree of `shapes`; it is given and returns keys as their data."""
    leaves = io_callback(function, _data_shapes(shapes), *args, ordered=True)
    wanted, structure = jax.tree.flatten(shapes)
    typed = [
        jax.random.wrap_key_data(leaf) if jnp.issubdtype(shape.dtype, jax.dtypes.prng_key) else leaf
        for leaf, shape in zip(leaves, wanted, strict=True)
    ]
    return jax.tree.unflatten(structure, typed)
