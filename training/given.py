"""What a run takes over from another one: the whole of it when resumed, or the parameters it begins with."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from .checkpoint.checkpointer import Checkpointer
from .config import TrainConfig, config_differences, load_config
from .errors import ConfigError
from .evaluation.evaluate import load_policy
from .step import Experiment, TrainState, state_template

# What may change when a run is resumed: how long it lasts, what is recorded, and what it runs on.
RESUMABLE_FIELDS = (
    "total_env_steps",
    "max_time",
    "env.host_workers",
    "stop_at_return",
    "checkpoint",
    "evaluation",
    "log",
    "num_devices",
    "cluster",
    "import_modules",
)

# What decides the shapes of the parameters, whoever the agent; `shape_fields` of an agent adds its own.
_SHAPE_FIELDS = ("memory.", "env.id", "env.kwargs", "env.params", "agent.kind")


def require_same_config(config: TrainConfig, run: Path) -> None:
    """Raise ConfigError, with the fields that differ, unless a run can be resumed with this configuration."""
    before = load_config(run)
    # The data set may have moved; that it is the same is judged by its content.
    moved = ("dataset",) if config.dataset and before.dataset else ()
    ignore = (*RESUMABLE_FIELDS, *moved)
    differences = config_differences(config, before, names=("now", "in the run"), ignore=ignore)
    if differences:
        listing = "\n".join(f"  - {line}" for line in differences)
        raise ConfigError(
            f"{run} was trained with another configuration, so it cannot be resumed with this one:\n{listing}\n"
            "Leave these as they were, or begin a new run with --init-from"
        )
    trained = max(Checkpointer(run / "checkpoints").steps(), default=0)
    if config.num_updates < trained:
        raise ConfigError(
            f"total_env_steps={config.total_env_steps} is less than the {trained * config.steps_per_update:,} that "
            f"{run} was trained for; give at least as many, or leave it out"
        )


def given_params(config: TrainConfig, experiment: Experiment) -> Any:
    """The parameters of the run that `init_from` names, the same in every seed.

    Raises:
        ConfigError: if there is no such run, or its parameters have other shapes, with the fields that differ.
    """
    source = Path(str(config.init_from))
    if not (source / "config.yaml").is_file():
        raise ConfigError(f"init_from={config.init_from}: there is no run folder of that name (no config.yaml in it)")
    expected = state_template(experiment, config).learner.params
    seeds = (config.num_seeds,) if config.num_seeds > 1 else ()
    params = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (*seeds, *leaf.shape)), load_policy(source).params)
    _require_same_unit(config, source)
    if _shapes(params) != _shapes(expected):
        fields = (*_SHAPE_FIELDS, *(f"agent.{name}" for name in getattr(experiment.agent, "shape_fields", ())))
        differences = config_differences(config, load_config(source), names=("here", "in the run"))
        listing = [line for line in differences if line.startswith(fields)]
        raise ConfigError("\n  - ".join([f"init_from={config.init_from} has parameters of other shapes:", *listing]))
    return params


def begin_with(agent: Any, state: TrainState, params: Any) -> TrainState:
    """A state that has learnt nothing yet, with the parameters given; see `Agent` for `with_params`."""
    # A copy for the best ones: the train step takes over the buffers of its argument, each of them once.
    best = dataclasses.replace(state.best, params=jax.tree.map(jnp.copy, params))
    if hasattr(agent, "with_params"):
        return dataclasses.replace(state, learner=agent.with_params(state.learner, params), best=best)
    return dataclasses.replace(state, learner=dataclasses.replace(state.learner, params=params), best=best)


def _require_same_unit(config: TrainConfig, source: Path) -> None:
    """Raise ConfigError where outputs of the same shape would mean other numbers."""
    here = getattr(config.agent, "reward_unit", None)
    there = getattr(load_config(source).agent, "reward_unit", here)
    if here != there:
        raise ConfigError(
            f"init_from={config.init_from}: its rewards and values are in units of agent.reward_unit={there}, not "
            f"{here}; set agent.reward_unit={there}"
        )


def _shapes(tree: Any) -> tuple:
    return jax.tree.structure(tree), [leaf.shape for leaf in jax.tree.leaves(tree)]
