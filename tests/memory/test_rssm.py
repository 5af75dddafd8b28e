"""Laws of the recurrent state-space model: window = chunks = steps, resets, and what each posterior sees."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hippodrome.memory import make_memory
from hippodrome.memory.rssm import RSSM, RSSMCarry, memory_view

T, B, E, A = 12, 3, 5, 2
MEMORIES = {
    "block_gru": partial(make_memory, "block_gru", d_model=6, num_blocks=2, hidden=3),
    "s5": partial(make_memory, "s5", d_model=6, d_state=4, num_layers=2),
    "mamba2": partial(make_memory, "mamba2", d_model=6, d_state=3, head_dim=4, chunk_size=4),
    "hybrid": partial(
        make_memory, "hybrid", d_model=6, layers=[{"kind": "block_gru", "num_blocks": 2}, {"kind": "s5", "d_state": 4}]
    ),
}
# Every memory keeps the contract by its own laws; here is what the state-space model makes of it.
CASES = [
    ("block_gru", "recurrent"),
    ("s5", "parallel"),
    ("mamba2", "parallel"),
    ("hybrid", "recurrent"),
]
pytestmark = pytest.mark.usefixtures("unoptimised")
over_cases = pytest.mark.parametrize(("name", "posterior"), CASES)


@cache
def subject(name, posterior):
    """The module, its variables away from their initial values, and a stream with resets inside."""
    rssm = RSSM(MEMORIES[name](), groups=3, classes=4, hidden=7, posterior=posterior)
    generator = np.random.default_rng(0)
    reset = np.zeros((T, B), bool)
    reset[0, 0] = reset[5, 1] = reset[8, 0] = True
    inputs = (
        generator.normal(size=(T, B, E)).astype(np.float32),
        generator.normal(size=(T, B, A)).astype(np.float32),
        reset,
        generator.gumbel(size=(T, B, 3, 4)).astype(np.float32),
    )
    carry = noisy(rssm.initial_carry((B,)), 1)
    variables = jax.jit(partial(rssm.init, method="observe"))(jax.random.key(0), carry, *inputs)
    return rssm, noisy(variables, 2, 0.3), carry, inputs


def noisy(tree, seed, scale=1.0):
    generator = np.random.default_rng(seed)
    return jax.tree.map(lambda x: x + jnp.asarray(scale * generator.normal(size=x.shape), x.dtype), tree)


def window(rssm, variables, carry, inputs, stride=None):
    carries, latents = rssm.apply(variables, carry, *inputs, stride=stride, method="observe")
    return jax.tree.map(lambda leaf: leaf[-1], carries), latents


@cache
def compiled(name, posterior):
    """`window` of a subject, and its gradient by everything but the resets and the noise; weights choose the steps."""
    rssm, variables, _, _ = subject(name, posterior)

    def weighted(carry, embedding, action, reset, noise, weights):
        latents = window(rssm, variables, carry, (embedding, action, reset, noise))[1]
        return (latents.features.sum(-1) * weights).sum()

    return jax.jit(partial(window, rssm)), jax.jit(jax.grad(weighted, argnums=(0, 1, 2)))


def loop(rssm, variables, carry, inputs):
    return jax.lax.scan(lambda state, now: rssm.apply(variables, state, *now, method="step"), carry, inputs)


def close(got, want, tolerance=2e-5):
    for left, right in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(left, right, atol=tolerance * max(1.0, float(np.abs(right).max(initial=0.0))))


@over_cases
def test_window_chunks_and_steps_agree_in_values_and_gradients(name, posterior):
    rssm, variables, carry, inputs = subject(name, posterior)
    weights = noisy(jax.tree.map(jnp.zeros_like, jax.eval_shape(partial(window, rssm), variables, carry, inputs)), 3)

    def program(run):
        def loss(variables, carry, embedding):
            out = run(rssm, variables, carry, (embedding, *inputs[1:]))
            return sum(jax.tree.leaves(jax.tree.map(lambda w, v: (w * v).sum(), weights, out))), out

        (_, out), grads = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(
            variables, carry, inputs[0]
        )
        return out, grads

    want, want_grads = program(loop)
    for run in (window, partial(window, stride=4)):
        got, grads = program(run)
        close(got, want)
        close(grads, want_grads, 2e-4)


@over_cases
def test_a_reset_clears_latent_action_and_memory(name, posterior):
    """After a reset inside a window nothing depends on what was before, the previous action included; no gradient."""
    _rssm, variables, carry, inputs = subject(name, posterior)
    embedding, action, reset, noise = inputs
    cut = 5
    reset = reset.copy()
    reset[cut] = True
    run, gradient = compiled(name, posterior)
    want = run(variables, carry, (embedding, action, reset, noise))
    other = noisy((carry, embedding, action), 9, 3.0)
    changed = [
        np.where(np.arange(T)[:, None, None] < cut, new, old) for new, old in zip(other[1:], inputs[:2], strict=True)
    ]
    changed[1][cut] = 77.0
    got = run(variables, other[0], (*changed, reset, noise))
    close(got[0], want[0])
    close(jax.tree.map(lambda leaf: leaf[cut:], got[1]), jax.tree.map(lambda leaf: leaf[cut:], want[1]))

    weights = np.broadcast_to((np.arange(T) >= cut)[:, None], (T, B)).astype(np.float32)
    d_carry, d_embedding, d_action = gradient(carry, *inputs[:2], reset, noise, weights)
    for leaf in [*jax.tree.leaves(d_carry), d_embedding[:cut], d_action[: cut + 1]]:
        assert not np.asarray(leaf).any()


def test_a_carry_that_is_not_finite_does_not_survive_a_reset():
    _rssm, variables, carry, inputs = subject("s5", "parallel")
    reset = inputs[2].copy()
    reset[0] = True
    broken = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), carry)
    got = compiled("s5", "parallel")[0](variables, broken, (*inputs[:2], reset, inputs[3]))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(got))


@over_cases
def test_only_the_recurrent_posterior_sees_the_past(name, posterior):
    _rssm, variables, carry, inputs = subject(name, posterior)
    other = (inputs[0].copy(), *inputs[1:])
    other[0][1] += 1.0
    first, second = (compiled(name, posterior)[0](variables, carry, each)[1] for each in (inputs, other))
    later = np.abs(np.asarray(first.posterior - second.posterior))[2:5].max()
    assert (later > 0) == (posterior == "recurrent")
    assert np.abs(np.asarray(first.prior - second.prior))[2:5].max() > 0


@over_cases
def test_the_belief_at_a_step_has_seen_the_action_before_it_and_not_the_one_after(name, posterior):
    _rssm, variables, carry, inputs = subject(name, posterior)
    action = inputs[1].copy()
    action[3, 2] += 0.5
    run = compiled(name, posterior)[0]
    first, second = (run(variables, carry, (inputs[0], a, *inputs[2:]))[1] for a in (inputs[1], action))
    differs = np.abs(np.asarray(first.deter - second.deter)).max((1, 2)) > 0
    assert not differs[:3].any() and differs[3]


def test_imagination_is_the_step_without_an_observation():
    """One imagined step has the deter of the observed one, and its latent comes from the prior there."""
    rssm, variables, carry, inputs = subject("hybrid", "recurrent")
    running = np.zeros(B, bool)
    noise = inputs[3][0]
    imagined, deter = rssm.apply(variables, carry, inputs[1][0], noise, method="imagine")
    observed, latents = rssm.apply(variables, carry, inputs[0][0], inputs[1][0], running, noise, method="step")
    close((imagined.memory, deter), (observed.memory, latents.deter))
    want = (np.asarray(latents.prior) + noise).argmax(-1)
    assert (np.asarray(imagined.stoch).reshape(B, 3, 4).argmax(-1) == want).all()


def test_actions_beyond_their_bounds_act_as_the_bounds():
    rssm, variables, carry, inputs = subject("hybrid", "recurrent")
    at, beyond = (rssm.apply(variables, carry, np.full((B, A), v), inputs[3][0], method="imagine") for v in (1.0, 5.0))
    close(at, beyond)


def test_the_view_of_a_carry_is_real_complete_and_normalised():
    memory = {"state": jnp.array([[3.0 + 4.0j, 0.0], [0.0, 2.0j]]), "window": jnp.ones((2, 2, 3))}
    view = np.asarray(memory_view(RSSMCarry(memory, jnp.zeros((2, 4)))))
    assert view.shape == (2, 10) and view.dtype == np.float32
    np.testing.assert_allclose(view[0, :4], np.array([3.0, 0.0, 4.0, 0.0]) / 2.5, rtol=1e-3)
    np.testing.assert_allclose((view[:, :4] ** 2).mean(-1), 1.0, rtol=1e-3)
    assert memory_view(RSSMCarry((), jnp.zeros((2, 4)))).shape == (2, 0)


def test_a_stride_that_does_not_divide_the_window_is_refused():
    rssm, variables, carry, inputs = subject("s5", "parallel")
    with pytest.raises(ValueError, match="stride=5 must divide the window of 12 steps"):
        rssm.apply(variables, carry, *inputs, stride=5, method="observe")
