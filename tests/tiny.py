"""The smallest configuration that exercises everything, and the state a run left, for tests of training."""

from pathlib import Path
from typing import Any

from hippodrome.training.checkpoint.run import RunCheckpoints
from hippodrome.training.config import TrainConfig, load_config
from hippodrome.training.step import TrainState, make_experiment, state_template

TINY = {
    "env.id": "popgym/RepeatPreviousEasy",
    "env.num-envs": 8,
    "memory.kind": "s5",
    "memory.d-model": 8,
    "memory.d-state": 4,
    "memory.num-layers": 1,
    "agent.num-steps": 8,
    "agent.num-epochs": 1,
    "agent.num-minibatches": 2,
    "agent.encoder-sizes": 8,
    "agent.head-sizes": 8,
    "total-env-steps": 64 * 4,
}


TINY_DREAMER = (
    "--env.id popgym/RepeatPreviousEasy --env.num-envs 4 --memory.kind s5 --memory.d-model 8 --memory.d-state 4 "
    "--memory.num-layers 1 --agent.num-steps 8 --agent.batch-size 2 --agent.batch-length 8 --agent.train-ratio 2 "
    "--agent.replay-capacity 96 --agent.latent-groups 2 --agent.latent-classes 3 --agent.hidden 8 --agent.units 8 "
    "--agent.value-bins 11 --agent.imagination-horizon 3 --agent.imagination-stride 4 --agent.posterior parallel "
    "--total-env-steps 192 --checkpoint.every-updates 1 --evaluation.episodes 4"
)


def tiny_flags(**overrides: Any) -> list[str]:
    """Command-line flags of the tiny configuration: `agent__gamma=0.5` is `--agent.gamma 0.5`, a list several words."""
    options = {**TINY, **{name.replace("__", ".").replace("_", "-"): value for name, value in overrides.items()}}
    flags = []
    for name, value in options.items():
        words = value if isinstance(value, list) else [] if value is True else [value]
        flags += [f"--{name}", *map(str, words)]
    return flags


def tiny_config(**overrides: Any) -> TrainConfig:
    """The tiny configuration with overrides, see `tiny_flags`."""
    return load_config("quickstart", tiny_flags(**overrides))


def tiny_dreamer(*flags: str) -> TrainConfig:
    """The tiny configuration of Dreamer, with flags besides."""
    return load_config("dreamer", [*TINY_DREAMER.split(), *flags])


def newest_state(run: Path, config: TrainConfig) -> TrainState:
    """The training state of a run's newest checkpoint, with its replay."""
    return RunCheckpoints(run / "checkpoints", keep=3).restore(state_template(make_experiment(config), config))[0]
