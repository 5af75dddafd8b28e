"""Environment ids: `suite/Name` to a class and its arguments, imported only when made."""

import difflib
import importlib
import inspect
from collections.abc import Callable
from typing import Any

_FACTORIES: dict[str, tuple[str | Callable[..., Any], dict[str, Any]]] = {}
_SUITES: dict[str, str | Callable[..., Any]] = {}
_UNAVAILABLE: dict[str, str] = {}


def register_env(env_id: str, factory: str | Callable[..., Any], **kwargs: Any) -> None:
    """Make `env_id` known to `make`.

    Args:
        env_id: `suite/Name`.
        factory: a class or function returning an environment, or its address `package.module:Name`.
        kwargs: arguments it is called with; those given to `make` come on top.

    Raises:
        ValueError: if the id is not `suite/Name`, or is taken by another factory.
    """
    suite, _, name = env_id.partition("/")
    if not suite or not name:
        raise ValueError(f"env_id={env_id!r} must read suite/Name, e.g. mine/Corridor")
    entry = (factory, kwargs)
    if _FACTORIES.get(env_id, entry) != entry:
        raise ValueError(f"env_id={env_id!r} is already registered; choose another name")
    _FACTORIES[env_id] = entry


def register_suite(suite: str, factory: str | Callable[..., Any]) -> None:
    """Let `make` know every id `suite/Name`, where another library keeps the list of names.

    Args:
        suite: the word before the first slash.
        factory: called with the name and the arguments given to `make`, or its address `package.module:name`; raises
            ValueError for a name or an argument it does not know.

    Raises:
        ValueError: if the suite is taken by another factory.
    """
    if _SUITES.get(suite, factory) != factory:
        raise ValueError(f"suite={suite!r} is already registered; choose another name")
    _SUITES[suite] = factory


def register_unavailable(env_id: str, reason: str) -> None:
    """Let `make(env_id)` fail with `reason`: for an environment people will look for and cannot have."""
    _UNAVAILABLE[env_id] = reason


def list_envs(suite: str | None = None) -> list[str]:
    """Every registered id, sorted; only those of `suite` where one is given. Names of a whole suite are not listed."""
    _load_builtin()
    return sorted(env_id for env_id in _FACTORIES if suite is None or env_id.startswith(f"{suite}/"))


def make(env_id: str, **kwargs: Any) -> Any:
    """The environment of that id; its parameters are `env.default_params`.

    Args:
        env_id: `suite/Name`, see `list_envs`.
        kwargs: arguments of the environment's constructor.

    Raises:
        ValueError: for an unknown id (with the nearest known ones), one that is not offered (with the reason), or an
            argument the environment does not take.
    """
    _load_builtin()
    if env_id in _UNAVAILABLE and env_id not in _FACTORIES:
        raise ValueError(f"env {env_id!r} is not offered: {_UNAVAILABLE[env_id]}")
    suite, _, name = env_id.partition("/")
    if env_id not in _FACTORIES and suite in _SUITES and name:
        return _resolved(_SUITES[suite])(name, **kwargs)
    if env_id not in _FACTORIES:
        raise ValueError(_unknown(env_id))
    factory, defaults = _FACTORIES[env_id]
    factory = _resolved(factory)
    try:
        return factory(**{**defaults, **kwargs})
    except TypeError as error:
        known = _argument_names(factory)
        # An error from within the constructor must not be taken for a wrong name.
        reason = f"its arguments: {', '.join(known) or 'none'}" if set(kwargs) - set(known) else str(error)
        raise ValueError(f"env {env_id!r} cannot be made with {kwargs!r}; {reason}") from error


def is_known(env_id: str) -> bool:
    """Whether `make` knows the id; of a whole suite, whether it knows the suite."""
    return env_id in list_envs() or env_id.partition("/")[0] in _SUITES


def _resolved(factory: str | Callable[..., Any]) -> Callable[..., Any]:
    if not isinstance(factory, str):
        return factory
    module, _, attribute = factory.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _argument_names(factory: Callable[..., Any]) -> list[str]:
    try:
        return list(inspect.signature(factory).parameters)
    except ValueError:  # a builtin without a signature
        return []


def _unknown(env_id: str) -> str:
    by_lower = {known.lower(): known for known in _FACTORIES}
    near = difflib.get_close_matches(env_id.lower(), by_lower, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(by_lower[name] for name in near)}?" if near else "see `hippodrome list envs`"
    return f"unknown env id {env_id!r}; {hint}"


def _load_builtin() -> None:
    for module in ("hippodrome.envs.popgym", "hippodrome.envs.adapters", "hippodrome.envs.meta"):
        importlib.import_module(module)
