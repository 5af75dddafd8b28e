"""check_memory passes what is right and names the broken law of memories broken on purpose, one law each."""

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from hippodrome.memory import MemoryCheckError, check_memory, make_memory
from hippodrome.memory.core import reset_where
from tests.memory.subjects import SMALL

pytestmark = pytest.mark.usefixtures("unoptimised")
LAWS = {
    "initial carry",
    "parameters only",
    "step loop",
    "chunking",
    "reset isolation",
    "carry reset",
    "non-finite carry",
    "non-finite inputs",
    "batch invariance",
}


class Sum(nn.Module):
    """A right memory to break: h = w * h + x with a parameter w, reset by selection; carry (h, number of steps)."""

    d_model: int = 3

    def initial_carry(self, batch_shape):
        return jnp.zeros((*batch_shape, self.d_model)), jnp.zeros(batch_shape)

    @nn.compact
    def decay(self):
        return self.param("w", nn.initializers.constant(0.5), (self.d_model,))

    def load(self, reset, carry):
        return reset_where(reset, jax.tree.map(jnp.zeros_like, carry), carry)

    def advance(self, w, carry, x, reset):
        state, count = self.load(reset, carry)
        state = w * state + x
        return (state, count + 1), state + 0.1 * jnp.sin(count)[..., None]

    def step(self, carry, x, reset):
        return self.advance(self.decay(), carry, x, reset)

    def __call__(self, carry, x, reset):
        w = self.decay()
        return jax.lax.scan(lambda state, now: self.advance(w, state, *now), carry, (x, reset))


class OnesCarry(Sum):
    def initial_carry(self, batch_shape):
        return jax.tree.map(lambda leaf: leaf + 1.0, super().initial_carry(batch_shape))


class CarryNeedsParameters(Sum):
    def initial_carry(self, batch_shape):
        return jax.tree.map(lambda leaf: leaf * self.decay()[0], super().initial_carry(batch_shape))


class CarryWithoutBatch(Sum):
    def initial_carry(self, batch_shape):
        return super().initial_carry(())


class Counter(Sum):
    @nn.compact
    def decay(self):
        self.variable("statistics", "calls", jnp.zeros, ())
        return self.param("w", nn.initializers.constant(0.5), (self.d_model,))


class HalfCarry(Sum):
    def __call__(self, carry, x, reset):
        carry, y = super().__call__(carry, x, reset)
        return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), carry), y


class OtherStep(Sum):
    def step(self, carry, x, reset):
        carry, y = super().step(carry, x, reset)
        return carry, y * 1.001


class StopsGradient(Sum):
    def step(self, carry, x, reset):
        return super().step(jax.lax.stop_gradient(carry), x, reset)


class ForgetsAcrossChunks(Sum):
    """Step and sequence agree as long as nobody cuts: the first step of a call ignores the carry's count."""

    def __call__(self, carry, x, reset):
        return super().__call__((carry[0], carry[1] * (len(x) > 4)), x, reset)


class ResetsLate(Sum):
    """The reset is used one step too late, on both paths."""

    def initial_carry(self, batch_shape):
        return (*super().initial_carry(batch_shape), jnp.zeros(batch_shape))

    def advance(self, w, carry, x, reset):
        late = carry[2] > 0.5
        (state, count), y = super().advance(w, carry[:2], x, late)
        return (state, count, reset.astype(jnp.float32)), y


class NeverResetsCount(Sum):
    def load(self, reset, carry):
        return super().load(reset, carry)[0], carry[1]


class Multiplies(Sum):
    def load(self, reset, carry):
        keep = 1.0 - reset
        return carry[0] * keep[..., None], carry[1] * keep


class NanThroughInputs(Sum):
    """A masked product over the past inputs: a nan before the reset survives as 0 * nan, on the sequence path only."""

    def __call__(self, carry, x, reset):
        carry, y = super().__call__(carry, x, reset)
        return carry, y + 0.0 * jnp.cumsum(x, axis=0)


class Normalises(Sum):
    """Outputs are centred over the batch, the same way on both paths."""

    def advance(self, w, carry, x, reset):
        carry, y = super().advance(w, carry, x, reset)
        return carry, y - (0.01 * y.mean(0) if y.ndim > 1 else 0.0)


def test_a_right_memory_passes_every_law():
    assert set(check_memory(Sum())) == LAWS


@pytest.mark.parametrize("kind", ["gru", "mamba2", "s5"])
def test_registered_memories_pass(kind):
    # One of each sort; test_laws.py holds all of them to the same laws.
    layer = make_memory(kind, d_model=6, **SMALL.get(kind, {})).layers[0].layer
    deviations = check_memory(layer)
    assert set(deviations) == LAWS and max(deviations.values()) < 1e-4


def test_a_stack_with_another_input_width_passes():
    check_memory(make_memory("none", d_model=4, num_layers=2), d_in=3)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (OnesCarry, "initial carry: largest value 1, it must be zeros"),
        (CarryNeedsParameters, r"initial carry: initial_carry\(\(\)\) without parameters"),
        (CarryWithoutBatch, r"initial carry: a leaf for batch shape \(2,\) has shape \(3,\)"),
        (Counter, r"parameters only: the module has collections \['statistics'\]"),
        (HalfCarry, "parameters only: a carry leaf went from float32.* to bfloat16"),
        (OtherStep, "step loop: .* differs by 0.00"),
        (StopsGradient, "step loop: gradient.* differs by"),
        (ForgetsAcrossChunks, "chunking: chunks of 4: .* differs by"),
        (ResetsLate, "reset isolation on the sequence path: after another past"),
        (NeverResetsCount, r"carry reset on the sequence path: with garbage in carry\[1\]|reset isolation"),
        (Multiplies, "non-finite carry on the sequence path: nan before step 0, .* non-finite values"),
        (NanThroughInputs, "non-finite inputs on the sequence path: nan in x before a reset"),
        (Normalises, "batch invariance: one element alone"),
    ],
)
def test_the_broken_law_is_named(broken, message):
    with pytest.raises(MemoryCheckError, match=message):
        check_memory(broken())


def test_memories_of_masked_matmuls_may_be_excused_from_nonfinite_inputs():
    check_memory(NanThroughInputs(), nonfinite_inputs=False)


class WithoutStep(nn.Module):
    d_model: int = 4

    def initial_carry(self, batch_shape):
        return jnp.zeros((*batch_shape, 4))


class CountsInIntegers(WithoutStep):
    def initial_carry(self, batch_shape):
        return jnp.zeros(batch_shape, jnp.int32)

    def step(self, carry, x, reset):
        return carry, x


class ReturnsOneValue(WithoutStep):
    def __call__(self, carry, x, reset):
        return x

    def step(self, carry, x, reset):
        return carry, x


class StepGrowsTheCarry(WithoutStep):
    def __call__(self, carry, x, reset):
        return carry, x

    def step(self, carry, x, reset):
        return jnp.concatenate([carry, carry], -1), x


@pytest.mark.parametrize(
    ("memory", "message"),
    [
        (WithoutStep, "WithoutStep is a class; give an instance"),
        (WithoutStep(), "WithoutStep has no step"),
        (CountsInIntegers(), "initial carry: a leaf has dtype int32"),
        (ReturnsOneValue(), "the memory raises ValueError"),
        (StepGrowsTheCarry(), "the memory raises TypeError"),
    ],
)
def test_common_mistakes_are_told_as_broken_laws(memory, message):
    with pytest.raises(MemoryCheckError, match=message):
        check_memory(memory)
