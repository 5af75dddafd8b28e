"""Evaluation: one episode per environment, the protocol of policies, statistics by hand."""

import json
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from hippodrome.agents import Decision
from hippodrome.envs import Box, Dict, Discrete, Environment, EnvParams, EnvState, VectorEnv, make, register_env
from hippodrome.training import evaluate, load_policy, train
from hippodrome.training.errors import ConfigError
from hippodrome.training.evaluation.episodes import EpisodeLimitError, agent_episodes, policy_episodes, require_ended
from hippodrome.training.evaluation.policy import Policy
from hippodrome.training.evaluation.statistics import bootstrap_interval, interquartile_mean, summarize_returns
from tests.tiny import tiny_config


class CoinLength(Environment):
    """Each step ends the episode with probability 1/8 and pays 1: the mean return is 8, short episodes finish first."""

    @property
    def default_params(self):
        return EnvParams(max_steps_in_episode=10_000)

    def observation_space(self, params):
        return Discrete(2)

    def action_space(self, params):
        return Discrete(2)

    def reset_env(self, key, params):
        return jnp.zeros((), jnp.int32), EnvState(time=jnp.zeros((), jnp.int32))

    def step_env(self, key, state, action, params):
        ends = jax.random.bernoulli(key, 1 / 8)
        return jnp.zeros((), jnp.int32), state.replace(time=state.time + 1), 1.0, ends, {}


class FixedPolicy:
    """Always action 0; counts its calls."""

    def initial_carry(self, num_envs):
        return jnp.zeros((num_envs,), jnp.int32)

    def __call__(self, carry, observation, reward, reset, key=None):
        return carry + 1, jnp.zeros(reset.shape, jnp.int32)


def test_mean_is_unbiased_where_episodes_have_random_lengths():
    envs = VectorEnv(CoinLength())
    returns, lengths, done = policy_episodes(
        FixedPolicy(), envs, jax.random.key(0), num_episodes=4096, deterministic=True
    )
    assert done.all()
    np.testing.assert_array_equal(returns, lengths)
    # The standard error is sqrt(56) / 64 = 0.12; the first 4096 finishers of fewer environments would fall short.
    np.testing.assert_allclose(returns.mean(), 8.0, atol=0.4)


def test_an_episode_without_end_is_an_error():
    envs = VectorEnv(CoinLength(), EnvParams(max_steps_in_episode=3))
    with pytest.raises(EpisodeLimitError, match="2 of 3 evaluation episodes did not end"):
        require_ended(np.array([True, False, False]), envs)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run with two seeds."""
    config = tiny_config(num_seeds=2, evaluation__episodes=8, agent__num_steps=64, total_env_steps=64 * 16)
    return train(config, run_dir=tmp_path_factory.mktemp("runs") / "two-seeds"), config


def test_evaluation_of_a_run_is_repeatable_and_written(run):
    folder, _ = run
    first = evaluate(folder, episodes=8, seed=1)
    assert first == evaluate(folder, episodes=8, seed=1)
    assert json.loads((folder / "evaluation.json").read_text()) == first
    assert first["evaluation_seed"] == 1 and first["update"] > 0
    assert first["seeds"] == 2 and len(first["return"]["per_seed"]) == 2
    with pytest.raises(ConfigError, match="seed=4294967296 must be from 0 to 4294967295"):
        evaluate(folder, episodes=8, seed=2**32)
    assert first["return"]["per_seed"] != evaluate(folder, episodes=8, seed=2)["return"]["per_seed"]


def test_another_environment_needs_the_same_spaces(run):
    folder, _ = run
    result = evaluate(folder, env="popgym/RepeatPreviousMedium", episodes=4)
    assert result["env"] == "popgym/RepeatPreviousMedium"
    assert (folder / "evaluation-popgym-RepeatPreviousMedium.json").exists()
    with pytest.raises(ConfigError, match="has the observation space"):
        evaluate(folder, env="popgym/HigherLowerEasy", episodes=4)


def test_loaded_policy_acts_as_the_agent_is_evaluated(run):
    folder, config = run
    envs = VectorEnv(make(config.env.id))
    policy = load_policy(folder, train_seed=1)
    by_steps = policy_episodes(policy, envs, jax.random.key(5), num_episodes=6, deterministic=True)
    whole = jax.jit(
        lambda key: agent_episodes(policy.agent, envs, policy.params, key, num_episodes=6, deterministic=True)
    )(jax.random.key(5))
    for ours, theirs in zip(by_steps, whole, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_policy_ignores_what_came_before_a_reset(run):
    policy = load_policy(run[0])
    carry = policy.initial_carry(2)
    first = jnp.array([True, True])
    for observation in (1, 3, 2):
        carry, _ = policy(carry, jnp.full(2, observation), jnp.array([0.5, -0.5]), jnp.array([False, False]))
    poisoned = jax.tree.map(lambda leaf: jnp.full_like(leaf, 7), carry)
    for reward in (0.0, 9.0):
        fresh = policy(policy.initial_carry(2), jnp.array([1, 2]), jnp.zeros(2), first)
        used = policy(poisoned, jnp.array([1, 2]), jnp.full(2, reward), first)
        jax.tree.map(np.testing.assert_array_equal, used, fresh)


def test_policy_samples_with_a_key_and_refuses_a_wrong_reset(run):
    policy = load_policy(run[0])
    carry = policy.initial_carry(64)
    observation, reset = jnp.zeros(64, jnp.int32), jnp.ones(64, bool)
    _, mode = policy(carry, observation, jnp.zeros(64), reset)
    assert len(np.unique(mode)) == 1
    _, sampled = policy(carry, observation, jnp.zeros(64), reset, key=jax.random.key(0))
    assert len(np.unique(sampled)) > 1
    with pytest.raises(ValueError, match=r"reset has shape \(2,\), expected \(64,\)"):
        policy(carry, observation, jnp.zeros(64), jnp.ones(2, bool))
    with pytest.raises(ValueError, match=r"observation has shape \(64, 1\), expected \(64,\)"):
        policy(carry, observation[:, None], jnp.zeros(64), reset)


EYE = np.zeros((2, 1, 1, 1), np.uint8).astype(int)


class AddingAgent:
    """Adds up what it sees of `speed`, and acts as `kind` says."""

    def initial_carry(self, num_envs):
        return jnp.zeros(num_envs)

    def act(self, params, carry, timestep, key, *, deterministic=False):
        action, zeros = timestep.observation["kind"], jnp.zeros(carry.shape)
        return carry + timestep.observation["speed"].sum(-1), Decision(action, action, zeros, zeros)


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_a_policy_refuses_numbers_that_are_not_finite_and_names_their_part(array):
    """Where they are known: a traced step goes through, as it did."""
    space = Dict({"kind": Discrete(3), "speed": Box(-1.0, 1.0, (2,))})
    policy = Policy(AddingAgent(), {}, space, Discrete(3))
    carry, rest = policy.initial_carry(2), (jnp.zeros(2), jnp.ones(2, bool))
    good = {"kind": array([1, 2]), "speed": array([[0.0, 1.0], [0.5, 0.5]])}
    assert policy(carry, good, *rest)[1].tolist() == [1, 2]
    for value in (np.nan, np.inf):
        bad = {**good, "speed": array([[0.0, 1.0], [0.5, value]])}
        with pytest.raises(ValueError, match=rf"observation\['speed'\] holds {value} for environment 1, but must be"):
            policy(carry, bad, *rest)
        after, _ = jax.jit(lambda bad: policy(carry, bad, *rest))(bad)
        assert np.isfinite(after.memory).tolist() == [True, False]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"observation": {"kind": np.array([1, 3]), "eye": EYE}}, r"\['kind'\] holds 3 for environment 1, .* Discrete"),
        ({"observation": {"kind": np.array([-1, 0]), "eye": EYE}}, r"\['kind'\] holds -1 for environment 0"),
        ({"observation": {"kind": np.zeros(2, int), "eye": 300 + EYE}}, r"\['eye'\] holds 300 for environment 0"),
        (
            {"observation": {"kind": np.zeros(2, int), "eye": EYE / 255}},
            r"\['eye'\] has dtype float.* expected integers",
        ),
        ({"observation": {"kin": np.zeros(2, int), "eye": EYE}}, r"the parts \['eye', 'kin'\], expected a dict of"),
        ({"observation": [np.zeros(2, int), EYE]}, "observation has type list, expected a dict"),
        ({"observation": {"kind": [0, 0], "eye": EYE}}, r"\['kind'\] is a list, expected an array"),
        ({"reward": np.zeros(3)}, r"reward has shape \(3,\), expected \(2,\)"),
        ({"reset": np.array([0.3, 1.0])}, r"reset has dtype float\d+, expected bool"),
        ({"carry": None}, "carry is a NoneType; begin with that of initial_carry"),
    ],
)
def test_what_is_no_step_of_the_environment_is_refused(changes, message):
    space = Dict({"kind": Discrete(3), "eye": Box(0, 255, (1, 1, 1), "uint8")})
    policy = Policy(AddingAgent(), {}, space, Discrete(3))
    step = {
        "carry": policy.initial_carry(2), "observation": {"kind": np.zeros(2, int), "eye": EYE},
        "reward": np.zeros(2), "reset": np.ones(2, bool),
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        policy(**(step | changes))


@pytest.mark.parametrize("number", [0, -1, 2.0])
def test_a_carry_is_of_one_environment_at_least(number):
    with pytest.raises(ValueError, match=r"num_envs=.* must be an integer of at least 1"):
        Policy(AddingAgent(), {}, Discrete(2), Discrete(3)).initial_carry(number)


def test_seed_and_run_that_are_not_there(run, tmp_path):
    with pytest.raises(ConfigError, match="train_seed=2 must be below the run's num_seeds=2"):
        load_policy(run[0], train_seed=2)
    with pytest.raises(ConfigError, match=r"without config\.yaml"):
        load_policy(tmp_path)


def test_anybodys_policy_can_be_scored(monkeypatch):
    register_env("test-evaluation/CoinLength", CoinLength)
    module = types.ModuleType("somebodys_agent")
    module.policy, module.make_policy, module.number = FixedPolicy(), FixedPolicy, 3
    monkeypatch.setitem(sys.modules, "somebodys_agent", module)
    result = evaluate("somebodys_agent:policy", env="test-evaluation/CoinLength", episodes=64)
    assert result["return"]["mean"] == result["length"] > 4
    assert (
        evaluate("somebodys_agent:make_policy", env="test-evaluation/CoinLength", episodes=64)
        | {"policy": "somebodys_agent:policy"}
        == result
    )
    made_for = []
    module.make_for = lambda env: made_for.append(env) or FixedPolicy()
    evaluate("somebodys_agent:make_for", env="test-evaluation/CoinLength", episodes=4)
    assert made_for == ["test-evaluation/CoinLength"]
    with pytest.raises(ConfigError, match="needs an environment"):
        evaluate("somebodys_agent:policy")
    with pytest.raises(ConfigError, match="must have initial_carry"):
        evaluate("somebodys_agent:number", env="test-evaluation/CoinLength")
    module.action_only = type("ActionOnly", (FixedPolicy,), {"__call__": lambda *_, **__: jnp.zeros(4)})
    with pytest.raises(ConfigError, match=r"must return the pair \(carry, action\)"):
        evaluate("somebodys_agent:action_only", env="test-evaluation/CoinLength", episodes=4)
    with pytest.raises(ConfigError, match=r"Box\(.* needs \(\(4, 1\), 'f'\)"):
        evaluate("somebodys_agent:policy", env="gymnax/Pendulum-v1", episodes=4)
    with pytest.raises(ConfigError, match="names no policy"):
        evaluate("somebodys_agent:missing", env="test-evaluation/CoinLength")


def test_interquartile_mean_by_hand():
    assert interquartile_mean(np.array([0.0, 1.0, 2.0, 100.0])) == 1.5
    assert interquartile_mean(np.array([5.0])) == 5.0
    values = np.random.default_rng(0).normal(size=40)
    np.testing.assert_allclose(interquartile_mean(values), np.sort(values)[10:30].mean())


def test_bootstrap_interval_matches_the_normal_theory_and_respects_strata():
    values = np.random.default_rng(0).normal(size=400)
    low, high = bootstrap_interval(lambda x: float(x.mean()), [values])
    half = stats.norm.ppf(0.975) * values.std() / 20
    np.testing.assert_allclose([low, high], [values.mean() - half, values.mean() + half], atol=0.02)
    # Each stratum keeps its share: between two constant strata nothing varies.
    low, high = bootstrap_interval(lambda x: float(x.mean()), [np.zeros(3), np.ones(3)])
    assert low == high == 0.5


def test_summary_over_seeds_resamples_seeds():
    returns = np.array([[0.0, 2.0], [1.0, 3.0], [2.0, 4.0], [3.0, 5.0]])
    summary = summarize_returns(returns)
    assert summary["per_seed"] == [1.0, 2.0, 3.0, 4.0]
    assert summary["mean"] == 2.5 and summary["iqm"] == 2.5
    assert summary["min"] == 0.0 and summary["max"] == 5.0
    assert 1.0 <= summary["iqm_low"] < 2.5 < summary["iqm_high"] <= 4.0
    single = summarize_returns(returns[:1])
    assert single["iqm_low"] >= 0.0 and single["iqm_high"] <= 2.0 and single["iqm"] == 1.0
