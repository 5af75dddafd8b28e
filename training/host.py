"""Environments on the host while a command runs: telling their failures, ending their processes, their restart."""

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator

import jax

from hippodrome.envs import VectorEnv

from .errors import EnvironmentFailure
from .replay import cut_streams
from .step import TrainState

_CALLBACK_LOG = logging.getLogger("jax._src.callback")


@contextlib.contextmanager
def running(envs: VectorEnv, advice: Callable[[], str] = str) -> Iterator[VectorEnv]:
    """Closes environments at the end of the block, and tells what failed in them as `telling` does."""
    try:
        with telling(envs, advice):
            yield envs
    finally:
        envs.close()


@contextlib.contextmanager
def telling(envs: VectorEnv, advice: Callable[[], str] = str) -> Iterator[None]:
    """Tells what fails in environments by their own traceback.

    Args:
        envs: any; those that step in JAX do not fail.
        advice: what to add to the message of a failure.

    Raises:
        EnvironmentFailure: in the place of XLA's error, which quotes its own frames.
    """
    _CALLBACK_LOG.addFilter(_is_news)
    try:
        yield
    except RuntimeError as error:
        if envs.failure is None:
            raise
        if isinstance(envs.failure, KeyboardInterrupt):  # it came while the program was with an environment
            raise envs.failure from error
        raise EnvironmentFailure("\n".join(filter(None, [str(envs.failure), advice()]))) from envs.failure
    finally:
        _CALLBACK_LOG.removeFilter(_is_news)


def restarted(envs: VectorEnv, state: TrainState) -> TrainState:
    """A restored state whose environments on the host begin new episodes, as what they were in is lost.

    Seeds are folded from the keys saved and the update, so that the episodes of the run's beginning do not come again.
    The first step has `reset` True, which clears the agent's carry; in replay the newest step of every stream becomes
    its episode's last, as if the episode had been cut off there.
    """
    keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(state.envs.key, state.update)
    replay = () if state.replay == () else jax.jit(cut_streams)(state.replay)
    return dataclasses.replace(state, envs=jax.jit(envs.reset)(keys), replay=replay)


def _is_news(record: logging.LogRecord) -> bool:
    """Not so the traceback that JAX logs of an error in a callback: `running` tells it."""
    return "io_callback failed" not in record.getMessage()
