"""Return by trial: played as the environment plays it, summed up as by hand, and told by the command."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from hippodrome import launch
from hippodrome.agents import Decision
from hippodrome.envs import Box, Discrete, Environment, EnvParams, EnvState, make
from hippodrome.envs.mixture import MixtureParams
from hippodrome.envs.trials import Trials
from hippodrome.training import train
from hippodrome.training.config import load_config, save_config
from hippodrome.training.errors import ConfigError
from hippodrome.training.evaluation.adaptation import (
    Adaptation,
    _oracles,
    begin_meta_episodes,
    evaluate_adaptation,
    play_meta_episodes,
    summarize_adaptation,
)
from hippodrome.training.evaluation.statistics import nested_interval
from hippodrome.training.step import initial_state, make_experiment
from tests.tiny import tiny_config

META = dict(
    env__id="meta/GridNavigation",
    env__kwargs=["trials=2", "size=3", "horizon=3"],
    total_env_steps=128,
    evaluation__episodes=4,
)


@struct.dataclass
class WalkState(EnvState):
    length: jax.Array


class Walk(Environment):
    """Trials of one to four steps; each step pays the task's worth times the action."""

    can_truncate = False

    @property
    def default_params(self):
        return EnvParams(max_steps_in_episode=4)

    def sample_task(self, key, params):
        return {"worth": jax.random.uniform(key)}

    def reset_env(self, key, params):
        length = jax.random.randint(key, (), 1, 5)
        return length.astype(jnp.float32)[None], WalkState(time=jnp.zeros((), jnp.int32), length=length)

    def step_env(self, key, state, action, params):
        state = state.replace(time=state.time + 1)
        return state.length.astype(jnp.float32)[None], state, params["worth"] * action, state.time >= state.length, {}

    def observation_space(self, params):
        return Box(0.0, 10.0, (1,))

    def action_space(self, params):
        return Discrete(100)


def counting_agent():
    """Acts how many steps its memory holds: one that was cleared, or an action that was shifted, is seen."""

    def act(params, carry, timestep, key, *, deterministic):
        carry = jnp.where(timestep.reset, 0, carry) + 1
        # What the environment showed of the action before is what the memory held then.
        shown = jnp.argmax(timestep.observation["previous_action"], axis=-1)
        agrees = jnp.where(timestep.reset, True, (shown == carry - 1) & (timestep.previous_action == carry - 1))
        action = jnp.where(agrees, carry, 99).astype(jnp.int32)
        return carry, Decision(action, action, jnp.zeros(len(carry)), jnp.zeros(len(carry)))

    return types.SimpleNamespace(act=act, initial_carry=lambda number: jnp.full(number, 7))


def test_every_trial_is_counted_and_memory_goes_through_all_of_them():
    env = Trials(Walk(), trials=3)
    given = env.default_params
    start = begin_meta_episodes(env, jax.random.key(0), num_episodes=6, given=given)
    played = play_meta_episodes(counting_agent(), env, None, start, jax.random.key(1), deterministic=True, given=given)
    assert played.trials.tolist() == [3] * 6 and played.trial_returns.shape == (6, 3)
    assert len(np.unique(played.task["worth"])) == 6
    lengths_seen = set()
    for returns, worth in zip(np.asarray(played.trial_returns), np.asarray(played.task["worth"]), strict=True):
        step = 1
        for value in returns / worth:
            # The sum of consecutive integers that begin where the last trial ended.
            sums = np.cumsum(np.arange(step, step + 4))
            length = 1 + int(np.argmin(abs(sums - value)))
            np.testing.assert_allclose(value, sums[length - 1], rtol=1e-4)
            step += length
            lengths_seen.add(length)
    assert len(lengths_seen) > 2


def test_the_summary_is_as_by_hand():
    returns = np.array([[[0.0, 1.0, 9.0], [2.0, 5.0, 0.0]], [[1.0, 3.0, 0.0], [3.0, 3.0, 0.0]]])
    trials = np.array([[3, 2], [2, 2]])  # the third trial was finished by one alone: left out
    member = np.array([[0, 1], [0, 1]])
    task = MixtureParams(max_steps_in_episode=1, member=member, members=())
    summary = summarize_adaptation(Adaptation(returns, trials, task), ("left", "right"), {"right": 10.0})
    assert [point["trial"] for point in summary["curve"]] == [1, 2]
    assert [point["mean"] for point in summary["curve"]] == [1.5, 3.0]
    assert (summary["first"]["mean"], summary["last"]["mean"], summary["gain"]["mean"]) == (1.5, 3.0, 1.5)
    assert summary["total"]["mean"] == 4.5
    assert summary["percentile_20"] == np.percentile([1, 5, 3, 3], 20)
    left, right = summary["tasks"]["left"], summary["tasks"]["right"]
    assert left["first"]["mean"] == 0.5 and left["last"]["mean"] == 2.0 and "oracle" not in left
    assert right["last"]["mean"] == 4.0 and right["gap_to_oracle"] == 6.0 and right["episodes"] == 1
    with pytest.raises(ConfigError, match="no trial was finished"):
        summarize_adaptation(Adaptation(returns, trials * 0, task), (), {})


def test_the_interval_knows_seeds_and_episodes():
    generator = np.random.default_rng(0)
    assert nested_interval(np.full((3, 5), 2.0)) == (2.0, 2.0)
    # One seed: the standard error of a mean over episodes.
    values = generator.normal(size=(1, 4000))
    low, high = nested_interval(values)
    np.testing.assert_allclose(high - low, 2 * 1.96 / 4000**0.5, rtol=0.1)
    # Seeds that differ: the interval is that of their means, however many episodes.
    values = generator.normal(size=(40, 1)) + 0.01 * generator.normal(size=(40, 500))
    low, high = nested_interval(values)
    np.testing.assert_allclose(high - low, 2 * 1.96 * values.mean(1).std() / 40**0.5, rtol=0.15)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(tiny_config(**META, num_seeds=2), run_dir=tmp_path_factory.mktemp("meta") / "run")


def test_the_command_tells_the_return_by_trial(run, capsys):
    assert launch.main(["evaluate", str(run), "--split", "held-out-tasks", "--episodes", "8"]) == 0
    assert "held-out-tasks: 2 trials, 8 tasks, 2 seeds" in capsys.readouterr().out
    result = json.loads((run / "adaptation-held-out-tasks.json").read_text())
    assert [point["trial"] for point in result["sampled"]["curve"]] == [1, 2]
    assert result["trained_trials"] == result["trials"] == 2 and result["seeds"] == 2
    # More trials than were trained on.
    assert launch.main(["evaluate", str(run), "--split", "train", "--trials", "5", "--episodes", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["trials"] == 5
    assert (run / "adaptation-train-5-trials.png").stat().st_size > 5_000


def test_evaluation_plays_whole_meta_episodes(run):
    # Two trials of three steps, whose parameters say three.
    assert json.loads((run / "evaluation.json").read_text())["length"] == 6.0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--split", "held-out-both"], "split='held-out-both' must be one of train, held-out-tasks"),
        (["--split", "train", "--trials", "0"], "trials=0 must be at least 1"),
        (["--trials", "3"], "--trials and --oracle need --split"),
        (["--split", "train", "--env", "meta/Bandit"], "--split train needs a run folder, and its own environment"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(run, words, message, capsys):
    assert launch.main(["evaluate", str(run), *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (
            ["trials=9", "size=3", "horizon=3"],
            r"a meta-episode of up to 27 steps must fit into the 16 steps of each env",
        ),
        (["trials=1", "size=2"], "size=2 must be at least 3"),
        (["trials=1", "split=test"], "split='test' must be one of train, held-out-tasks"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_before_training(kwargs, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        train(tiny_config(**{**META, "env__kwargs": kwargs}), run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_dreamer_takes_the_same_environments():
    flags = "--env.id meta/GridNavigation --env.num-envs 4 --agent.num-steps 8 --total-env-steps 1024"
    config = load_config("dreamer", flags.split())
    experiment = make_experiment(config)
    state = jax.eval_shape(lambda: initial_state(experiment, config))
    after, metrics = jax.eval_shape(experiment.step, state)
    assert jax.tree.structure(after) == jax.tree.structure(state) and "reconstruction_loss" in metrics


def test_an_oracle_must_be_of_a_member(run):
    with pytest.raises(ConfigError, match=r"oracle .* must be trained on one member of this mixture \(it has none\)"):
        evaluate_adaptation(run, episodes=2, oracles=[run])


def test_an_oracle_must_be_comparable(tmp_path):
    def run_of(name, *kwargs):
        kwargs = ["trials=2", "horizon=10", "projected=false", "members=[point]", *kwargs]
        config = tiny_config(env__id="meta/Control", env__kwargs=kwargs)
        (tmp_path / name).mkdir()
        save_config(config, tmp_path / name / "config.yaml")
        return tmp_path / name

    env = make("meta/Control", members=("point", "pendulum"), trials=4, horizon=10)
    good = run_of("good")
    assert _oracles([good], env) == {"point": good}
    for folders, message in (
        (
            [run_of("behind", "projected=true")],
            r"behind must be trained without projections.* projected=false horizon=10",
        ),
        ([run_of("longer", "horizon=12")], "longer has trials of 12 steps, those of this run have 10"),
        ([good, good], "are both of point"),
        ([run_of("other", "members=[reacher]")], r"one member of this mixture \(point, pendulum\).* on reacher"),
    ):
        with pytest.raises(ConfigError, match=message):
            _oracles(folders, env)


def test_a_run_without_meta_episodes_has_no_splits(tmp_path):
    plain = train(tiny_config(total_env_steps=64, evaluation__episodes=2), run_dir=tmp_path / "plain")
    with pytest.raises(ConfigError, match=r"env.id='popgym/RepeatPreviousEasy' has no meta-episodes.*trials/popgym"):
        evaluate_adaptation(plain, split="held-out-tasks")
