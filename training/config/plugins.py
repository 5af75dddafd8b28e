"""Other people's code: packages named by `--import` or by entry points, imported so that they can register."""

import importlib
import importlib.metadata
import os
import sys
from collections.abc import Iterable

from hippodrome.training.errors import ConfigError

ENTRY_POINT_GROUPS = ("hippodrome.memories", "hippodrome.envs", "hippodrome.agents")


def load_plugins(modules: Iterable[str] = ()) -> None:
    """Import every entry point of `ENTRY_POINT_GROUPS`, then `modules`; importing twice does nothing.

    A module registers its own memories (`hippodrome.memory.register`), environments (`hippodrome.envs.register_env`)
    and agents (`hippodrome.agents.register_agent`) as it is imported. The current folder is searched last.

    Raises:
        ConfigError: naming every module that could not be imported, and why.
    """
    errors = []
    for group in ENTRY_POINT_GROUPS:
        for point in importlib.metadata.entry_points(group=group):
            try:
                point.load()
            except Exception as error:  # a plugin may fail in any way; the message must name it
                package = point.dist.name if point.dist else point.value
                errors.append(f"entry point {point.name!r} of {group} ({package}): {_reason(error)}")
    for module in modules:
        try:
            import_module(module)
        except ConfigError as error:
            errors += error.errors
    if errors:
        raise ConfigError(errors)


def import_module(name: str):
    """The module of that name; the current folder is searched after everything installed.

    Raises:
        ConfigError: when it cannot be imported, with the reason.
    """
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        return importlib.import_module(name)
    except Exception as error:  # a user's module may fail in any way; the message must name it
        missing = isinstance(error, ModuleNotFoundError) and name.startswith(error.name or "")
        remedy = "; install it, or start from the folder that holds it" if missing else ""
        raise ConfigError(f"--import {name}: {_reason(error)}{remedy}") from error


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
