"""Training, evaluation and the policies that come of them: the functions of the command line."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import TrainConfig, load_config, save_config
    from .dataset import write_episodes
    from .evaluation import evaluate, load_policy
    from .inspection import inspect_run
    from .loop import train
    from .policy import Policy
    from .recording import record_episodes

# Imported when first asked for, so that `hippodrome --help` and errors in a configuration do not wait for jax.
_HOMES = {
    "Policy": "policy",
    "TrainConfig": "config",
    "evaluate": "evaluation",
    "inspect_run": "inspection",
    "load_config": "config",
    "load_policy": "evaluation",
    "record_episodes": "recording",
    "save_config": "config",
    "train": "loop",
    "write_episodes": "dataset",
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
