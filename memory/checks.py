"""The public conformance check: the laws of the memory contract, run on any module.

Legend: T steps, B batch, d_in width of the input.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTreeDef

from .core import Carry, Memory

NUM_STEPS = 8
BATCH = 3


class MemoryCheckError(AssertionError):
    """A memory broke a law of the contract; the message says which, where and by how much."""


def check_memory(
    memory: Memory,
    *,
    d_in: int | None = None,
    seed: int = 0,
    tolerance: float = 1e-5,
    gradient_tolerance: float = 1e-4,
    nonfinite_inputs: bool = True,
) -> dict[str, float]:
    """Run every law of the `Memory` contract on `memory`, with random parameters, inputs and resets.

    Laws: initial carry (zeros, no parameters, any batch axes); parameters only; step loop (sequence call = loop over
    `step`, values and gradients); chunking (carry handed on); reset isolation (nothing before a reset changes
    anything after it, no gradient crosses, a reset equals a fresh start); carry reset (every leaf); non-finite carry
    and inputs never survive a reset; batch invariance.

    Args:
        memory: an unbound linen module that follows the contract.
        d_in: width of the test inputs, the memory's d_model if not given.
        seed: of parameters, inputs and resets.
        tolerance, gradient_tolerance: largest difference, relative to the largest value compared.
        nonfinite_inputs: also ask of the sequence call that a nan input before a reset does not survive it, as the
            step path always must; False suits memories that mask matmuls.

    Returns:
        The largest deviation found for each law.

    Raises:
        MemoryCheckError: naming the broken law, what differed and by how much.
    """
    _check_contract(memory, d_in)
    deviations = {"initial carry": _initial_carry_law(memory)}
    try:
        subject = _make_subject(memory, memory.d_model if d_in is None else d_in, seed, tolerance, gradient_tolerance)
    except Exception as error:
        raise MemoryCheckError(f"sequence call: init with a sequence fails: {_headline(error)}") from error
    laws: dict[str, Callable[[_Subject], float]] = {
        "parameters only": _parameters_law,
        "step loop": _step_loop_law,
        "chunking": _chunking_law,
        "reset isolation": _isolation_law,
        "carry reset": _carry_reset_law,
        "non-finite carry": _nonfinite_carry_law,
        "non-finite inputs": partial(_nonfinite_inputs_law, on_sequence=nonfinite_inputs),
        "batch invariance": _batch_law,
    }
    for name, law in laws.items():
        try:
            deviations[name] = law(subject)
        except MemoryCheckError:
            raise
        except Exception as error:
            raise MemoryCheckError(f"{name}: the memory raises {_headline(error)}") from error
    return deviations


def _check_contract(memory: Any, d_in: int | None) -> None:
    """Raise unless `memory` is an instance with the members that the contract names."""
    if isinstance(memory, type):
        raise MemoryCheckError(f"contract: {memory.__name__} is a class; give an instance: {memory.__name__}()")
    for member in ("d_model", "initial_carry", "step"):
        if not hasattr(memory, member):
            raise MemoryCheckError(f"contract: {type(memory).__name__} has no {member}; see hippodrome.memory.Memory")
    if d_in is not None and d_in < 1:
        raise ValueError(f"d_in={d_in} must be at least 1")


def _headline(error: Exception) -> str:
    """Type and first line of an error."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"


@dataclasses.dataclass(frozen=True)
class _Subject:
    """A memory under test with parameters, one stream of data and its two compiled paths."""

    memory: Memory
    params: Any
    carry: Carry
    x: Array
    reset: Array
    tolerance: float
    gradient_tolerance: float
    sequence: Callable[..., Any]
    loop: Callable[..., Any]
    gradients: dict[str, Callable[..., Any]]

    @property
    def paths(self) -> dict[str, Callable[..., Any]]:
        """Both ways to run the whole stream."""
        return {"sequence": self.sequence, "step": self.loop}


def _make_subject(memory, d_in, seed, tolerance, gradient_tolerance) -> _Subject:
    keys = jax.random.split(jax.random.key(seed), 5)
    x = jax.random.normal(keys[0], (NUM_STEPS, BATCH, d_in))
    # One reset inside, at different steps of different elements, and one element without any.
    reset = jnp.zeros((NUM_STEPS, BATCH), bool).at[3, 0].set(True).at[6, 1].set(True)
    zero = memory.initial_carry((BATCH,))
    variables = jax.jit(memory.init)(keys[1], zero, x, reset)
    # Away from the initial values: a bias or an initial state of zero would hide what it does.
    noise = _random_like(keys[2], variables)
    params = jax.tree.map(lambda value, each: value + 0.1 * each, variables, noise)

    def sequence(params, carry, x, reset):
        return memory.apply(params, carry, x, reset)

    def loop(params, carry, x, reset):
        return jax.lax.scan(lambda state, now: memory.apply(params, state, *now, method="step"), carry, (x, reset))

    def gradient(run):
        def loss(params, carry, x, reset, weights):
            return jnp.sum(jnp.where(weights == 0, 0.0, run(params, carry, x, reset)[1] * weights))

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))

    return _Subject(
        memory,
        params,
        _random_like(keys[3], zero),
        x,
        reset,
        tolerance,
        gradient_tolerance,
        jax.jit(sequence),
        jax.jit(loop),
        {"sequence": gradient(sequence), "step": gradient(loop)},
    )


def _random_like(key, tree):
    """Normal values in the structure, shapes and types of `tree`."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves) + 1)
    values = [jax.random.normal(keys[i], leaf.shape, leaf.dtype) for i, leaf in enumerate(leaves)]
    return jax.tree.unflatten(structure, values)


def _compare(law: str, what: str, got: Any, want: Any, tolerance: float) -> float:
    """Largest relative difference of two pytrees; MemoryCheckError where it exceeds the tolerance."""
    structure: PyTreeDef = jax.tree.structure(got)
    if structure != jax.tree.structure(want):
        raise MemoryCheckError(f"{law}: {what}: {structure}, expected {jax.tree.structure(want)}")
    worst = 0.0
    for (path, left), right in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want), strict=True):
        left, right = np.asarray(left), np.asarray(right)
        label = f"{what}{jax.tree_util.keystr(path)}"
        if left.shape != right.shape:
            raise MemoryCheckError(f"{law}: {label} has shape {left.shape}, expected {right.shape}")
        if not np.isfinite(left).all():
            raise MemoryCheckError(f"{law}: {label} has {int((~np.isfinite(left)).sum())} non-finite values")
        if left.size:
            difference = float(np.abs(left - right).max() / max(np.abs(right).max(), 1e-3))
            if not difference <= tolerance:
                raise MemoryCheckError(f"{law}: {label} differs by {difference:.3g} relative, allowed {tolerance:.3g}")
            worst = max(worst, difference)
    return worst


def _initial_carry_law(memory: Memory) -> float:
    for batch_shape in ((), (2,), (2, 3)):
        try:
            carry = memory.initial_carry(batch_shape)
        except Exception as error:
            raise MemoryCheckError(
                f"initial carry: initial_carry({batch_shape}) without parameters: {error}"
            ) from error
        for leaf in jax.tree.leaves(carry):
            if not hasattr(leaf, "shape"):
                raise MemoryCheckError(f"initial carry: a leaf is a {type(leaf).__name__}, it must be an array")
            if leaf.shape[: len(batch_shape)] != batch_shape:
                raise MemoryCheckError(f"initial carry: a leaf for batch shape {batch_shape} has shape {leaf.shape}")
            if not jnp.issubdtype(leaf.dtype, jnp.inexact):
                raise MemoryCheckError(f"initial carry: a leaf has dtype {leaf.dtype}; carries are floating or complex")
            if np.any(np.asarray(leaf) != 0):
                raise MemoryCheckError(f"initial carry: largest value {np.abs(leaf).max():.3g}, it must be zeros")
    return 0.0


def _parameters_law(subject: _Subject) -> float:
    extra = sorted(set(subject.params) - {"params"})
    if extra:
        raise MemoryCheckError(f"parameters only: the module has collections {extra}, only params are allowed")
    carry, y = subject.sequence(subject.params, subject.carry, subject.x, subject.reset)
    wanted = (NUM_STEPS, BATCH, subject.memory.d_model)
    if y.shape != wanted:
        raise MemoryCheckError(f"parameters only: y has shape {y.shape}, expected [T, B, d_model] = {wanted}")
    for name, run in subject.paths.items():
        again, first = (run(subject.params, subject.carry, subject.x, subject.reset) for _ in range(2))
        _compare("parameters only", f"two calls of {name}", again, first, 0.0)
    # The new carry must be usable as the next one: same structure, shapes and types.
    for new, old in zip(jax.tree.leaves(carry), jax.tree.leaves(subject.carry), strict=True):
        if (new.shape, new.dtype) != (old.shape, old.dtype):
            raise MemoryCheckError(f"parameters only: a carry leaf went from {old.aval} to {new.aval}")
    return 0.0


def _step_loop_law(subject: _Subject) -> float:
    arguments = (subject.params, subject.carry, subject.x, subject.reset)
    weights = jax.random.normal(jax.random.key(1), (NUM_STEPS, BATCH, subject.memory.d_model))
    sequence, loop = subject.sequence(*arguments), subject.loop(*arguments)
    values = _compare("step loop", "(carry, y)", sequence, loop, subject.tolerance)
    left, right = (subject.gradients[name](*arguments, weights) for name in ("sequence", "step"))
    return max(values, _compare("step loop", "gradient", left, right, subject.gradient_tolerance))


def _chunking_law(subject: _Subject) -> float:
    whole = subject.sequence(subject.params, subject.carry, subject.x, subject.reset)
    worst = 0.0
    for size in (NUM_STEPS // 2, 1):
        carry, pieces = subject.carry, []
        for start in range(0, NUM_STEPS, size):
            stop = start + size
            carry, y = subject.sequence(subject.params, carry, subject.x[start:stop], subject.reset[start:stop])
            pieces.append(y)
        got = (carry, jnp.concatenate(pieces))
        worst = max(worst, _compare("chunking", f"chunks of {size}: (carry, y)", got, whole, subject.tolerance))
    return worst


def _isolation_law(subject: _Subject) -> float:
    cut = NUM_STEPS // 2
    before = (jnp.arange(NUM_STEPS) < cut)[:, None, None]
    reset = subject.reset.at[cut].set(True)
    other_x = jnp.where(before, subject.x[::-1] + 3.0, subject.x)
    other_carry = jax.tree.map(lambda leaf: 2.0 * leaf + 1.0, subject.carry)
    # Element by element the stream after the reset, padded behind: the same program serves the fresh start.
    fresh_x, fresh_reset = jnp.roll(subject.x, -cut, 0), jnp.roll(reset, -cut, 0)
    weights = jnp.broadcast_to(jnp.where(before, 0.0, 1.0), (NUM_STEPS, BATCH, subject.memory.d_model))
    worst = 0.0
    for name, run in subject.paths.items():
        carry, y = run(subject.params, subject.carry, subject.x, reset)
        changed_carry, changed = run(subject.params, other_carry, other_x, reset)
        law = f"reset isolation on the {name} path"
        got, want = (changed_carry, changed[cut:]), (carry, y[cut:])
        worst = max(worst, _compare(law, "after another past, (carry, y)", got, want, subject.tolerance))
        fresh = run(subject.params, subject.memory.initial_carry((BATCH,)), fresh_x, fresh_reset)[1]
        worst = max(worst, _compare(law, "against a fresh start, y", y[cut:], fresh[:cut], subject.tolerance))
        _, d_carry, d_x = subject.gradients[name](subject.params, subject.carry, subject.x, reset, weights)
        crossing = (d_carry, d_x[:cut])
        _compare(law, "gradient across the reset", crossing, jax.tree.map(jnp.zeros_like, crossing), 0.0)
    return worst


def _carry_reset_law(subject: _Subject) -> float:
    leaves, structure = jax.tree.flatten(subject.carry)
    reset = subject.reset.at[0].set(True)
    worst = 0.0
    for name, run in subject.paths.items():
        want = run(subject.params, subject.memory.initial_carry((BATCH,)), subject.x, reset)
        for index, (path, leaf) in enumerate(jax.tree_util.tree_leaves_with_path(subject.carry)):
            garbage = [100.0 * leaf + 7.0 if index == each else zero for each, zero in enumerate(leaves)]
            got = run(subject.params, jax.tree.unflatten(structure, garbage), subject.x, reset)
            what = f"with garbage in carry{jax.tree_util.keystr(path)}, (carry, y)"
            worst = max(worst, _compare(f"carry reset on the {name} path", what, got, want, subject.tolerance))
    return worst


def _nonfinite_carry_law(subject: _Subject) -> float:
    cut, worst = NUM_STEPS // 2, 0.0
    for at in (0, cut):
        reset = subject.reset.at[at].set(True)
        kept = (jnp.arange(NUM_STEPS) >= at).astype(jnp.float32)[:, None, None]
        weights = jnp.broadcast_to(kept, (NUM_STEPS, BATCH, subject.memory.d_model))
        for name, run in subject.paths.items():
            law = f"non-finite carry on the {name} path"
            clean_carry, clean = run(subject.params, subject.carry, subject.x, reset)
            for bad in (jnp.nan, jnp.inf):
                carry = jax.tree.map(partial(jnp.full_like, fill_value=bad), subject.carry)
                bad_carry, y = run(subject.params, carry, subject.x, reset)
                got, want = (bad_carry, y[at:]), (clean_carry, clean[at:])
                worst = max(worst, _compare(law, f"{bad} before step {at}, (carry, y)", got, want, subject.tolerance))
                d_params, d_carry, d_x = subject.gradients[name](subject.params, carry, subject.x, reset, weights)
                # What touched a nan before the reset has no gradient; at step 0 nothing has.
                finite = (d_params, d_carry, d_x) if at == 0 else d_x[at:]
                _compare(law, f"{bad} before step {at}, gradient", finite, finite, subject.tolerance)
    return worst


def _nonfinite_inputs_law(subject: _Subject, *, on_sequence: bool) -> float:
    cut, worst = NUM_STEPS // 2, 0.0
    reset = subject.reset.at[cut].set(True)
    for name, run in subject.paths.items():
        if name == "sequence" and not on_sequence:
            continue
        want = run(subject.params, subject.carry, subject.x, reset)
        for bad in (jnp.nan, jnp.inf):
            carry, y = run(subject.params, subject.carry, subject.x.at[cut - 2].set(bad), reset)
            what = f"{bad} in x before a reset, (carry, y)"
            law = f"non-finite inputs on the {name} path"
            worst = max(worst, _compare(law, what, (carry, y[cut:]), (want[0], want[1][cut:]), subject.tolerance))
    return worst


def _batch_law(subject: _Subject) -> float:
    arguments = (subject.params, subject.carry, subject.x, subject.reset)
    carry, y = subject.sequence(*arguments)
    turn = partial(jnp.roll, shift=1)
    turned = (subject.params, jax.tree.map(lambda leaf: turn(leaf, axis=0), subject.carry))
    got = subject.sequence(*turned, turn(subject.x, axis=1), turn(subject.reset, axis=1))
    want = (jax.tree.map(lambda leaf: turn(leaf, axis=0), carry), turn(y, axis=1))
    worst = _compare("batch invariance", "elements in another order, (carry, y)", got, want, subject.tolerance)
    alone = jax.tree.map(lambda leaf: leaf[0], subject.carry)
    got = subject.sequence(subject.params, alone, subject.x[:, 0], subject.reset[:, 0])
    want = (jax.tree.map(lambda leaf: leaf[0], carry), y[:, 0])
    return max(worst, _compare("batch invariance", "one element alone, (carry, y)", got, want, subject.tolerance))
