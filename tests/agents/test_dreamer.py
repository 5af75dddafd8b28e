"""The agent as a whole: what it acts by is what it learns by, and how its losses are put together."""

import dataclasses
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hippodrome.agents import Dreamer, DreamerConfig, ReplayBatch
from hippodrome.agents.distributions import ActionDistribution
from hippodrome.agents.dreamer.actor import policy_parameters
from hippodrome.agents.dreamer.behaviour import imagine, starting_points
from hippodrome.agents.dreamer.open_loop import predict
from hippodrome.agents.dreamer.twohot import two_hot_mean
from hippodrome.agents.dreamer.world_model import Beliefs, weighted_sum, world_model_loss, world_model_losses
from hippodrome.envs import Box, Dict, Discrete, MultiDiscrete, VectorEnv, environment_keys, make
from hippodrome.memory import memory_config
from hippodrome.memory.latents import gumbel_noise
from hippodrome.memory.rssm import Latents
from hippodrome.training.rollout import record

T, B = 12, 3
SMALL = {
    "batch_length": 12, "latent_groups": 3, "latent_classes": 4, "hidden": 8, "units": 8, "value_bins": 11,
    "imagination_horizon": 4, "imagination_stride": 2,
}  # fmt: skip


@cache
def played(posterior):
    """An agent with parameters away from their initial values, and a stream it has acted, its carries stored."""
    env = make("popgym/PositionOnlyCartPoleEasy")
    envs = VectorEnv(env, env.default_params.replace(max_steps_in_episode=5))
    config = DreamerConfig(posterior=posterior, **SMALL)
    memory = memory_config("s5")(d_model=6, d_state=4, num_layers=1)
    agent = Dreamer(config, memory, envs.observation_space, envs.action_space)
    params = jax.jit(lambda key: agent.init(key, B).params)(jax.random.key(0))
    generator = np.random.default_rng(0)
    params = jax.tree.map(lambda x: x + jnp.asarray(0.3 * generator.normal(size=x.shape), x.dtype), params)

    class Deterministic:
        act = staticmethod(partial(agent.act, deterministic=True))

    state = envs.reset(environment_keys(jax.random.key(1), 0, B))
    run = jax.jit(
        lambda params, state: record(
            Deterministic(), envs, params, state, agent.initial_carry(B), jax.random.key(2), num_steps=2 * T
        )
    )
    _, _, stream, _ = run(params, state)
    order = np.argsort(~np.asarray(stream.valid), axis=0, kind="stable")
    steps, carries = jax.tree.map(lambda leaf: leaf[order, np.arange(B)], (stream.steps, stream.carries))
    return agent, params, steps, carries


@pytest.mark.parametrize("posterior", ["recurrent", "parallel"])
def test_a_replayed_window_retraces_the_path_that_acted(posterior):
    """From a stored carry, across ends of episodes: latents and what the actor sees are those it acted by."""
    agent, params, steps, carries = played(posterior)
    first = 3  # inside an episode
    window = jax.tree.map(lambda leaf: leaf[first : first + T], steps)
    assert np.asarray(window.reset).any() and np.asarray(window.last).any()
    start = jax.tree.map(lambda leaf: leaf[first], carries)
    embedding = agent.apply("encoder", params, window.observation)
    inputs = (start, embedding, agent.encode_actions(window.previous_action), window.reset, jnp.zeros((T, B, 3, 4)))
    observe = partial(agent.rssm.apply, stride=1, method="observe")
    after, latents = jax.jit(lambda p: observe(p, *inputs))(params["rssm"])
    acted = jax.tree.map(lambda leaf: leaf[first + 1 : first + 1 + T], carries)
    # The carry before a first step is not reset yet: it has seen the step that ended the episode only in replay.
    compared = ~np.asarray(window.last)
    for got, want in zip(jax.tree.leaves(after), jax.tree.leaves(acted), strict=True):
        np.testing.assert_allclose(np.asarray(got)[compared], np.asarray(want)[compared], rtol=2e-4, atol=2e-5)
    features = jax.vmap(agent.actor_features)(after, latents.deter)
    assert features.shape[-1] == 12 + 6 + 4  # latent, output, and the carry of S5


def test_imagination_starts_where_the_carries_are():
    agent, params, steps, carries = played("parallel")
    batch = ReplayBatch(jax.tree.map(lambda leaf: leaf[:T], steps), jax.tree.map(lambda leaf: leaf[0], carries))
    from hippodrome.agents.dreamer.world_model import observe_window

    beliefs = observe_window(agent, params, (), batch, jax.random.key(0))
    carry, deter = starting_points(agent, beliefs)
    # Stride 2: steps 1, 3, ..., 11, windows side by side.
    want = np.asarray(beliefs.latents.features)[1::2].reshape(-1, 18)
    np.testing.assert_array_equal(jnp.concatenate([deter, carry.stoch], -1), want)
    imagined = imagine(agent, params, carry, deter, jax.random.key(1))
    assert imagined.features.shape == (5, 6 * B, 18) and imagined.action.shape == (4, 6 * B)
    np.testing.assert_array_equal(imagined.features[0], want)
    # No gradient of what is imagined reaches the model or the actor; it is learnt by REINFORCE.
    gradient = jax.grad(lambda p: imagine(agent, p, carry, deter, jax.random.key(1)).features.sum())(params)
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(gradient))


def test_free_nats_are_of_the_sum_over_groups_at_each_step():
    """Three groups with a KL of .5 each are 1.5 nats, above 1 at one step; .2 each are below it at another."""
    agent, params, steps, _ = played("parallel")

    def distribution(kl):
        # A coin of log odds x against a fair one has this KL; found by bisection.
        low, high = 0.0, 20.0
        for _ in range(60):
            x = (low + high) / 2
            p = 1 / (1 + np.exp(-x))
            now = p * np.log(2 * p) + (1 - p) * np.log(2 * (1 - p))
            low, high = (x, high) if now < kl else (low, x)
        return np.log([p, 1 - p])

    posterior = np.stack([np.tile(distribution(0.5), (3, 1)), np.tile(distribution(0.2), (3, 1))])[:, None]
    prior = np.full((2, 1, 3, 2), np.log(0.5))
    latents = Latents(jnp.zeros((2, 1, 6)), jnp.zeros((2, 1, 12)), jnp.asarray(posterior), jnp.asarray(prior))
    window = jax.tree.map(lambda leaf: leaf[:2, :1], steps)
    beliefs = Beliefs(latents, None, None, None)
    losses, metrics = world_model_losses(
        agent, params, (), (jnp.zeros(()), jnp.ones(())), ReplayBatch(window, None), beliefs, jax.random.key(0)
    )
    for name in ("dynamics", "representation"):
        np.testing.assert_allclose(losses[name][:, 0], [1.5, 1.0], rtol=1e-4)
    assert float(metrics["kl"]) == pytest.approx((1.5 + 0.6) / 2, rel=1e-4)


def test_every_term_of_the_world_models_loss_has_its_own_weight():
    names = ("dynamics", "representation", "reward", "reconstruction", "latent", "bisimulation", "barlow")
    config = DreamerConfig(**{f"{name}_coef": float(2**power) for power, name in enumerate(names)})
    # In the digits of base 4 no two terms can be taken for each other; the continuation weighs 1.
    losses = {name: jnp.full((2, 3), 4.0**power) for power, name in enumerate((*names, "continuation"))}
    expected = sum(2.0**power * 4.0**power for power in range(len(names))) + 4.0 ** len(names)
    np.testing.assert_array_equal(weighted_sum(config, losses), np.full((2, 3), expected))


def test_the_weight_of_the_reward_multiplies_its_loss_and_its_gradient():
    """A power of two, so that floating point multiplies exactly; the reward's head is moved by no other term."""
    agent, params, steps, carries = played("parallel")
    batch = ReplayBatch(jax.tree.map(lambda leaf: leaf[:T], steps), jax.tree.map(lambda leaf: leaf[0], carries))

    @partial(jax.jit, static_argnums=0)
    def learnt(weight):
        config = dataclasses.replace(agent.config, reward_coef=weight)
        memory = memory_config("s5")(d_model=6, d_state=4, num_layers=1)
        weighted = Dreamer(config, memory, agent.observation_space, agent.action_space)

        def loss(params):
            total, (losses, _, _) = world_model_loss(
                weighted, params, (), (jnp.zeros(()), jnp.ones(())), batch, jax.random.key(5)
            )
            return total, losses["reward"].mean()

        return jax.value_and_grad(loss, has_aux=True)(params)

    ((one, reward), grads), ((many, same), larger), ((none, _), absent) = map(learnt, (1.0, 32.0, 0.0))
    assert reward == same and float(reward) > 0.1
    assert float(many) == pytest.approx(float(one) + 31 * float(reward), rel=1e-5)
    assert float(none) == pytest.approx(float(one) - float(reward), rel=1e-5)
    for each, bigger, zero in zip(*(jax.tree.leaves(tree["reward"]) for tree in (grads, larger, absent)), strict=True):
        np.testing.assert_allclose(bigger, 32 * each, rtol=1e-6)
        assert not np.asarray(zero).any()
    # What lies below the head is moved by the other terms too: the gradient is linear in the weight.
    for each, bigger, zero in zip(*map(jax.tree.leaves, (grads, larger, absent)), strict=True):
        scale = 1e-4 * np.abs(bigger).max() + 1e-7
        np.testing.assert_allclose(bigger - zero, 32 * (each - zero), rtol=1e-3, atol=scale)
    kernels = [tree["encoder"]["params"]["mlp"]["dense_0"]["kernel"] for tree in (larger, absent)]
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-4


def test_each_kl_moves_only_its_side():
    agent, params, steps, _ = played("parallel")
    window = jax.tree.map(lambda leaf: leaf[:2, :1], steps)

    def total(posterior, prior, name):
        shaped = [jax.nn.log_softmax(each) for each in (posterior, prior)]
        latents = Latents(jnp.zeros((2, 1, 6)), jnp.zeros((2, 1, 12)), *shaped)
        losses, _ = world_model_losses(
            agent, params, (), (jnp.zeros(()), jnp.ones(())), ReplayBatch(window, None),
            Beliefs(latents, None, None, None), jax.random.key(0),
        )  # fmt: skip
        return losses[name].sum()

    logits = jnp.asarray(3.0 * np.random.default_rng(0).normal(size=(2, 2, 1, 3, 4)))
    for name, moves in (("dynamics", (False, True)), ("representation", (True, False))):
        grads = jax.grad(total, argnums=(0, 1))(*logits, name)
        assert tuple(bool(np.asarray(each).any()) for each in grads) == moves


def test_discrete_policies_are_mixed_with_the_uniform_one_and_gaussians_bounded():
    space = Dict({"push": Box(-2.0, 2.0, (2,)), "tool": Discrete(4), "turn": MultiDiscrete([2, 3])})
    distribution = ActionDistribution(space)
    outputs = jnp.asarray(50.0 * np.random.default_rng(0).normal(size=(5, distribution.num_outputs + 2)))
    parameters, log_std = policy_parameters(distribution, outputs, 0.01)
    assert (np.abs(parameters[:, :2]) <= 1.0).all()
    for part in (parameters[:, 2:6], parameters[:, 6:8], parameters[:, 8:11]):
        probs = np.exp(part)
        np.testing.assert_allclose(probs.sum(-1), 1.0, rtol=1e-5)
        assert probs.min() >= 0.01 / part.shape[-1] - 1e-6
    assert (np.exp(log_std) >= 0.1 - 1e-6).all() and (np.exp(log_std) <= 1.0).all()
    neutral = np.exp(policy_parameters(distribution, jnp.zeros((1, 13)), 0.01)[1])
    np.testing.assert_allclose(neutral, 0.1 + 0.9 / (1 + np.exp(-2.0)), rtol=1e-5)


def test_what_is_observed_is_predicted_from_the_beliefs_and_the_context_is_checked():
    agent, params, steps, _ = played("parallel")
    steps = jax.tree.map(lambda leaf: leaf[:5], steps)
    seen, rest = (predict(agent, params, steps, jax.random.key(0), context=x) for x in (4, 1))
    noise = gumbel_noise(jax.random.split(jax.random.key(0))[0], agent.rssm.noise_shape(4, B))
    embedding = agent.apply("encoder", params, steps.observation)
    inputs = (embedding[:4], agent.encode_actions(steps.previous_action)[:4], steps.reset[:4], noise)
    carry = agent.rssm.initial_carry((B,))
    _, beliefs = agent.rssm.apply(params["rssm"], carry, *inputs, method="observe")
    reward = two_hot_mean(agent.apply("reward", params, beliefs.features), agent.bins)
    np.testing.assert_allclose(seen.reward[:4], reward, rtol=1e-5, atol=1e-6)
    assert rest.reward.shape == (5, B) and float(rest.continuation.max()) <= 1.0
    assert np.abs(np.asarray(seen.reward - rest.reward))[1:].max() > 0
    for context in (0, 5):
        with pytest.raises(ValueError, match=f"context={context} must be from 1 to 4"):
            predict(agent, params, steps, jax.random.key(0), context=context)


def test_a_reward_unit_learns_small_rewards_as_the_same_rewards_made_large():
    """Rewards of a quarter under a unit of a quarter: the same gradients, and values of a quarter."""
    agent, params, steps, carries = played("parallel")
    batch = ReplayBatch(jax.tree.map(lambda leaf: leaf[:T], steps), jax.tree.map(lambda leaf: leaf[0], carries))
    config = dataclasses.replace(agent.config, reward_unit=0.25)
    memory = memory_config("s5")(d_model=6, d_state=4, num_layers=1)
    small = Dreamer(config, memory, agent.observation_space, agent.action_space)
    quarter = dataclasses.replace(batch, steps=dataclasses.replace(batch.steps, reward=0.25 * batch.steps.reward))
    state = agent.init(jax.random.key(0), B)
    state = dataclasses.replace(state, params=params, return_high=jnp.asarray(3.0))
    fourth = dataclasses.replace(state, return_high=0.25 * state.return_high)
    learnt = [
        jax.jit(who.learn)(start, window, jax.random.key(5))[:2]
        for who, start, window in ((agent, state, batch), (small, fourth, quarter))
    ]
    (large, metrics), (tiny, small_metrics) = learnt
    for left, right in zip(jax.tree.leaves(large.params), jax.tree.leaves(tiny.params), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-6)
    assert float(metrics["grad_norm"]) == pytest.approx(float(small_metrics["grad_norm"]), rel=1e-4)
    assert float(small_metrics["value"]) == pytest.approx(0.25 * float(metrics["value"]), rel=1e-3)
    assert float(small_metrics["advantage_scale"]) == 0.75
