"""The leaves of a training state as plain arrays by path, and back."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hippodrome.training.errors import CheckpointError


def named_leaves(tree: Any) -> dict[str, Any]:
    """Every leaf of a pytree by its path, such as `learner/params/encoder/kernel`.

    Raises:
        CheckpointError: if two leaves have the same path.
    """
    pairs = jax.tree_util.tree_leaves_with_path(tree)
    named = {_name(path): leaf for path, leaf in pairs}
    if len(named) != len(pairs):
        raise CheckpointError("two leaves of the state have the same path; rename the keys that hold a '/'")
    return named


def to_arrays(state: Any) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]]]:
    """The leaves of `state` as NumPy arrays by path, and what JSON must know about each.

    Typed PRNG keys become their key data. Arrays without elements, which Orbax refuses, are only described.
    """
    arrays, leaves = {}, {}
    for name, leaf in named_leaves(state).items():
        leaves[name] = _describe(leaf)
        data = jax.random.key_data(leaf) if _is_key(leaf) else leaf
        array = np.asarray(jax.device_get(data))
        if array.size:
            arrays[name] = array
    return arrays, leaves


def fill(template: Any, arrays: dict[str, Any], leaves: dict[str, dict[str, Any]], *, under: str, where: str) -> Any:
    """`template` with its leaves replaced by the saved ones, of the same kind and sharding.

    Args:
        template: pytree of arrays, `jax.ShapeDtypeStruct`s and Python numbers.
        arrays: what `to_arrays` gave.
        leaves: what it said about them.
        under: path that the template's paths are below.
        where: the checkpoint, for the error.

    Raises:
        CheckpointError: naming the leaves that differ in presence, shape or dtype.
    """
    prefix = f"{under}/" if under else ""
    saved = {name.removeprefix(prefix): each for name, each in leaves.items() if name.startswith(prefix)}
    wanted = {name: _describe(leaf) for name, leaf in named_leaves(template).items()}
    if saved != wanted:
        raise CheckpointError(_differences(wanted, saved, where))

    def load(path: tuple, leaf: Any) -> Any:
        name = prefix + _name(path)
        return _like(leaf, arrays.get(name))

    return jax.tree_util.tree_map_with_path(load, template)


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


@functools.cache
def _key_impls() -> dict[Any, str]:
    """Names of the PRNG implementations JAX has, by the dtype of their keys."""
    return {jax.random.key(0, impl=name).dtype: name for name in ("threefry2x32", "rbg", "unsafe_rbg")}


def _describe(leaf: Any) -> dict[str, Any]:
    if isinstance(leaf, bool | int | float):
        return {"shape": [], "dtype": type(leaf).__name__}
    if _is_key(leaf):
        return {"shape": list(leaf.shape), "dtype": f"key<{_key_impls()[leaf.dtype]}>"}
    return {"shape": list(leaf.shape), "dtype": str(leaf.dtype)}


def _like(leaf: Any, array: Any) -> Any:
    """A saved array as what `leaf` is; None stands for an array without elements."""
    if isinstance(leaf, bool | int | float):
        return type(leaf)(array.item())
    if array is None:
        array = np.zeros(leaf.shape, leaf.dtype)
    if isinstance(leaf, np.ndarray | np.generic):
        return array if isinstance(leaf, np.ndarray) else array[()]
    # A copy: a buffer borrowed from NumPy must not be donated to a jitted step.
    value = jnp.array(array, copy=True)
    if _is_key(leaf):
        value = jax.random.wrap_key_data(value, impl=_key_impls()[leaf.dtype])
    sharding = getattr(leaf, "sharding", None)
    return value if sharding is None else jax.device_put(value, sharding)


def _differences(here: dict[str, Any], there: dict[str, Any], where: str, most: int = 10) -> str:
    def show(description: dict[str, Any] | None) -> str:
        if description is None:
            return "absent"
        return f"{description['dtype']}[{','.join(map(str, description['shape']))}]"

    lines = [
        f"  - {name}: {show(here.get(name))} here, {show(there.get(name))} in the checkpoint"
        for name in dict.fromkeys([*here, *there])
        if here.get(name) != there.get(name)
    ]
    more = [f"  - and {len(lines) - most} more"] if len(lines) > most else []
    head = f"{where} holds another state than this configuration makes; {len(lines)} leaves differ:"
    return "\n".join([head, *lines[:most], *more])
