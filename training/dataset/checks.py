"""The rules of a data set's rows; every error names the episode and the rule.

Legend: `S` rows, `T` actions of an episode.
"""

from typing import Any

import jax
import numpy as np

from hippodrome.agents import ReplayStep
from hippodrome.envs import Discrete, MultiDiscrete, VectorEnv, flat_spaces
from hippodrome.training.checkpoint.leaves import named_leaves
from hippodrome.training.errors import ConfigError


def fitted(what: str, value: Any, template: Any, length: int) -> Any:
    """Arrays of someone's own as rows hold them, leaves `[length, ...]`: types changed where no value changes.

    Args:
        what: which of which episode, for errors.
        value: an array, or a dict or tuple of arrays.
        template: shapes and types of one row.
        length: rows there must be.

    Raises:
        ConfigError: for another structure, length, shape or kind of number.
    """
    structure: Any = jax.tree.structure(template)
    if jax.tree.structure(value, is_leaf=lambda node: isinstance(node, list)) != structure:
        raise ConfigError(f"{what} must be arrays in the structure {structure}, as the space is")
    names = [name and f"/{name}" for name in named_leaves(template)]
    leaves = jax.tree.leaves(value, is_leaf=lambda node: isinstance(node, list))
    pairs = zip(names, leaves, jax.tree.leaves(template), strict=True)
    return jax.tree.unflatten(structure, [_fitted(what + name, leaf, like, length) for name, leaf, like in pairs])


def _fitted(what: str, value: Any, like: Any, length: int) -> np.ndarray:
    array = np.asarray(value)
    if len(array.shape) == 0 or len(array) != length:
        raise ConfigError(
            f"{what} has the shape {array.shape}, but must have the length {length}: an episode of T actions has T "
            "rewards, terminations and truncations, and T + 1 observations"
        )
    if array.shape[1:] != like.shape:
        raise ConfigError(f"{what} has the shape {array.shape}, but each must be of the shape {like.shape}")
    # Whole numbers may fill floats, floats never whole numbers.
    allowed = {"f": "fiu", "b": "biu"}.get(np.dtype(like.dtype).kind, "iu")
    if array.dtype.kind not in allowed:
        raise ConfigError(f"{what} is of {array.dtype}, but the space has {like.dtype}")
    with np.errstate(over="ignore"):
        changed = array.astype(like.dtype)
    if np.dtype(like.dtype).kind != "f" and not np.array_equal(changed, array):
        raise ConfigError(f"{what} holds values that {like.dtype}, the space's, cannot")
    return changed


def check_rows(steps: ReplayStep, template: ReplayStep, envs: VectorEnv, where: str) -> None:
    """Raise ConfigError unless rows `[S, ...]` keep every rule of the format (see `dataset.py`).

    Args:
        steps: all rows.
        template: shapes and types of one.
        envs: whose spaces say which numbers are choices.
        where: the file.
    """
    rows = len(steps.reset) if np.ndim(steps.reset) else 0
    likes = named_leaves(template)
    for name, leaf in named_leaves(steps).items():
        if leaf.dtype != likes[name].dtype or leaf.shape != (rows, *likes[name].shape):
            expected = f"{likes[name].dtype} of the shape {(rows, *likes[name].shape)}"
            raise ConfigError(f"{where}: {name} is {leaf.dtype} of the shape {leaf.shape}, but must be {expected}")
    if not rows:
        raise ConfigError(f"{where}: a data set must have at least one episode")
    broken = [
        *_finite_rules(steps),
        (~steps.reset & np.concatenate([[True], steps.last[:-1]]), "reset must be True at its first row"),
        (steps.reset & ~np.concatenate([[True], steps.last[:-1]]), "last must be True at the row before, its end"),
        (steps.reset & steps.last, "it must have at least one action"),
        (~steps.last & (np.arange(rows) == rows - 1), "last must be True at the final row of the file"),
        (steps.terminal & ~steps.last, "terminal must be False at rows that are not its last"),
        (steps.reset & (steps.reward != 0), "reward must be 0 at its first row, which no action led to"),
        *_choice_rules(steps, envs),
    ]
    for wrong, rule in broken:
        if wrong.any():
            row = int(wrong.argmax())
            episode = max(int(steps.reset[: row + 1].sum()) - 1, 0)
            begin = np.flatnonzero(steps.reset[: row + 1])
            within = row - int(begin[-1]) if len(begin) else row
            raise ConfigError(f"{where}: episode {episode}, row {within}: {rule} (row {row} of all)")


def _finite_rules(steps: ReplayStep) -> list[tuple[np.ndarray, str]]:
    """Rows with numbers that are not finite, and the rule with the first of them."""
    rules = []
    for name, leaf in named_leaves(steps).items():
        if leaf.dtype.kind == "f" and not np.isfinite(leaf).all():
            found = leaf[~np.isfinite(leaf)][0]
            rules.append((~_every(np.isfinite(leaf)), f"{name} is {found}, but must be finite"))
    return rules


def _choice_rules(steps: ReplayStep, envs: VectorEnv) -> list[tuple[np.ndarray, str]]:
    """Rows with numbers that are no choice there is, and the rule each."""
    rules = []
    parts = (
        ("observation", envs.observation_space, steps.observation, np.zeros_like(steps.reset)),
        ("previous_action", envs.action_space, steps.previous_action, steps.reset),
    )
    for what, whole, tree, first in parts:
        names = [what + (name and f"/{name}") for name in named_leaves(tree)]
        for name, space, leaf in zip(names, flat_spaces(whole), jax.tree.leaves(tree), strict=True):
            if isinstance(space, Discrete | MultiDiscrete):
                most = space.n if isinstance(space, Discrete) else space.nvec
                # No action led to a first row: there it is -1.
                inside = _every((leaf >= 0) & (leaf < most))
                wrong = np.where(first, ~_every(leaf == -1), ~inside)
                where = ", and -1 at a first row" if what == "previous_action" else ""
                rules.append((wrong, f"{name} must be an element of {space!r}{where}"))
    return rules


def _every(holds: np.ndarray) -> np.ndarray:
    """Whether it holds for all of a row, `[S]`."""
    return np.asarray(holds.reshape(len(holds), -1).all(axis=1))
