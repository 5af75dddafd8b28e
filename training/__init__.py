"""Training, evaluation and the policies that come of them: the functions of the command line."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import TrainConfig, load_config, save_config
    from .dataset.file import write_episodes
    from .dataset.recording import record_episodes
    from .evaluation.evaluate import evaluate, load_policy
    from .evaluation.policy import Policy
    from .inspection.inspect import inspect_run
    from .loop import train

# Imported when first asked for, so that `hippodrome --help` and errors in a configuration do not wait for jax.
_HOMES = {
    "Policy": "evaluation.policy",
    "TrainConfig": "config",
    "evaluate": "evaluation.evaluate",
    "inspect_run": "inspection.inspect",
    "load_config": "config",
    "load_policy": "evaluation.evaluate",
    "record_episodes": "dataset.recording",
    "save_config": "config",
    "train": "loop",
    "write_episodes": "dataset.file",
}

__all__ = [
    "Policy",
    "TrainConfig",
    "evaluate",
    "inspect_run",
    "load_config",
    "load_policy",
    "record_episodes",
    "save_config",
    "train",
    "write_episodes",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
