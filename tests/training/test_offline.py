"""Learning from a data set: the same updates as online, bit-for-bit resumption, what is refused before compiling."""

import dataclasses
import shutil
import types
from fractions import Fraction
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from hippodrome import launch
from hippodrome.agents import Decision, Feedback
from hippodrome.envs import VectorEnv, environment_keys
from hippodrome.training import load_policy, record_episodes, replay_size, train
from hippodrome.training.advance import from_dataset, from_replay
from hippodrome.training.checkpoint.run import RunCheckpoints
from hippodrome.training.config import load_config
from hippodrome.training.dataset import file as dataset
from hippodrome.training.dataset.offline import Offline, offline_replay, read_offline, with_steps
from hippodrome.training.errors import ConfigError
from hippodrome.training.log.metrics import read_metrics
from hippodrome.training.replay import ReplayBuffer
from hippodrome.training.rollout import replay_step
from hippodrome.training.step import make_experiment, state_template
from tests.compare import assert_identical
from tests.probes import LateReward
from tests.stand_ins import Learner, State
from tests.tiny import tiny_config

TINY = (
    "--env.id popgym/RepeatPreviousEasy --env.num-envs 4 --memory.kind s5 --memory.d-model 8 --memory.d-state 4 "
    "--memory.num-layers 1 --agent.num-steps 8 --agent.batch-size 2 --agent.batch-length 8 --agent.train-ratio 2 "
    "--agent.latent-groups 2 --agent.latent-classes 3 --agent.hidden 8 --agent.units 8 --agent.value-bins 11 "
    "--agent.imagination-horizon 3 --agent.imagination-stride 4 --agent.posterior parallel --agent.learning-rate 1e-2 "
    "--agent.warmup-updates 0 --agent.replay-sampling prioritized --total-env-steps 1280 --checkpoint.every-updates 10 "
    "--evaluation.episodes 4"
)


def tiny(path, *flags):
    return load_config("dreamer", [*TINY.split(), "--dataset", str(path), *flags])


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Five episodes of 52 observations each."""
    path = tmp_path_factory.mktemp("data") / "random.npz"
    record_episodes("popgym/RepeatPreviousEasy", path, episodes=5, random=True)
    return path


@pytest.fixture(scope="module")
def finished(recorded, tmp_path_factory):
    """Forty steps of four updates, undisturbed."""
    config = tiny(recorded)
    return train(config, run_dir=tmp_path_factory.mktemp("offline") / "run"), config


def newest_state(run, config):
    template = state_template(make_experiment(config, dataset.read_about(config.dataset)), config)
    return RunCheckpoints(run / "checkpoints", keep=3).restore(template)


def test_it_learns_a_model_without_a_step_of_the_environment(finished):
    run, config = finished
    rows = read_metrics(run)
    assert [row["env_steps"] for row in rows] == list(range(32, 1281, 32))
    assert all(row["episode_return"] is None and row["episodes"] == 0 for row in rows)
    # 32 steps, twice, in windows of 2 x 8; 260 steps in 33 windows of 8, the last one filled up from the beginning.
    assert all(row["learner_updates"] == 4 and row["replay_steps"] == 264 for row in rows)
    terms = ("dynamics_loss", "representation_loss", "reconstruction_loss", "reward_loss", "continuation_loss")
    first, last = (sum(np.mean([row[name] for row in part]) for name in terms) for part in (rows[:4], rows[-4:]))
    assert last < 0.7 * first
    state, metadata = newest_state(run, config)
    assert int(state.learner.updates) == 160 and metadata["dataset"] == dataset.file_digest(config.dataset)
    # The environments are where they began; the steps of replay are left to the file.
    assert (np.asarray(state.envs.episode_length) == 0).all() and state.replay.steps == ()
    # The best parameters are the newest, as no episode told otherwise.
    assert_identical(state.best.params, state.learner.params)


def test_resuming_is_bit_for_bit_also_from_a_file_that_moved(finished, recorded, tmp_path):
    run, config = finished
    half = train(dataclasses.replace(config, total_env_steps=640), run_dir=tmp_path / "half")
    shutil.copy(recorded, tmp_path / "moved.npz")
    train(dataclasses.replace(config, dataset=str(tmp_path / "moved.npz")), resume=half)
    assert_identical(newest_state(half, config)[0], newest_state(run, config)[0])


def test_another_data_set_or_none_is_not_gone_on_with(finished, tmp_path):
    run, config = finished
    other = tmp_path / "other.npz"
    record_episodes("popgym/RepeatPreviousEasy", other, episodes=5, random=True, seed=1)
    with pytest.raises(ConfigError, match=r"the data set is another than the run began with \(SHA-256 "):
        train(dataclasses.replace(config, dataset=str(other)), resume=run)
    with pytest.raises(ConfigError, match=r"dataset: None now, .*random\.npz in the run"):
        train(dataclasses.replace(config, dataset=None), resume=run)


def test_the_policy_is_played_recorded_and_predicted_without_the_data_set(finished, tmp_path, capsys):
    run, config = finished
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    text = (copy / "config.yaml").read_text().replace(config.dataset, "gone.npz")
    (copy / "config.yaml").write_text(text)
    best = load_policy(copy, step="best").params
    assert_identical(best, load_policy(copy).params)
    path = tmp_path / "played.npz"
    assert launch.main(["record", str(copy), "--episodes", "2", "--deterministic", "--out", str(path)]) == 0
    about = dataset.read_about(path)
    assert about.policy == "dreamer over s5, update 40, deterministic" and about.episodes == 2
    assert "return mean" in capsys.readouterr().out


BUFFER = ReplayBuffer(capacity=24, carry_every=2, length=6, batch_size=3, sampling="prioritized", online=False)


@struct.dataclass
class Best:
    params: object
    update: object


def mixing_agent():
    """What it learns depends on every number it is given: steps, carries and key."""

    def act(params, carry, timestep, key, *, deterministic=False):
        action = jax.vmap(lambda k: jax.random.randint(k, (), 0, 2))(key)
        zeros = jnp.zeros(action.shape)
        return carry + jax.vmap(jax.random.uniform)(key), Decision(action, action, zeros, zeros)

    def learn(state, batch, key):
        parts = [leaf.astype(jnp.float32).reshape(*batch.steps.reset.shape, -1).sum(-1)
                 for leaf in jax.tree.leaves(batch.steps)]  # fmt: skip
        along = jnp.cumsum(sum(jax.random.uniform(jax.random.fold_in(key, i)) * p for i, p in enumerate(parts)), axis=0)
        along = along + batch.carry + 0.1 * state.params
        learner = Learner(0.9 * state.params + 0.1 * along.mean(), state.updates + 1)
        return learner, {"loss": along.mean()}, Feedback(along[1::2], jnp.abs(along).mean(0) + 0.1)

    return types.SimpleNamespace(act=act, learn=learn)


def test_the_same_windows_carries_and_keys_make_the_same_update_as_online(tmp_path):
    """The online learner's own stream, written and read as a data set, with the carries it had stored."""
    agent, envs = mixing_agent(), VectorEnv(LateReward())
    start = envs.reset(environment_keys(jax.random.key(0), 0, 1))
    carry, learner = jnp.zeros(1), Learner(jnp.ones(()), jnp.zeros((), jnp.int32))
    best = Best(jnp.zeros(()), jnp.zeros((), jnp.int32))
    state = State(
        learner, start, carry, BUFFER.init(replay_step(start.timestep), carry), jnp.zeros((), jnp.int32), best
    )

    def online(ratio):
        step = partial(from_replay, agent, BUFFER, envs, num_steps=12, updates_per_step=Fraction(ratio), first_env=0)
        return jax.jit(step)(state, jax.random.key(1), jax.random.key(2))

    # Twelve steps in six episodes of two: eighteen observations. Once without an update, once with five.
    (unlearnt, _, _), (expected, metrics, outcome) = online(0), online(5)
    replay = unlearnt["replay"]
    assert int(outcome.ended.sum()) == 6 and replay.count.tolist() == [18] and metrics["learner_updates"] == 5
    assert float(expected["learner"].params) != 1.0

    path = tmp_path / "stream.npz"
    rows = jax.tree.map(lambda leaf: np.asarray(leaf)[:18, 0], replay.steps)
    episodes = [jax.tree.map(lambda leaf, i=i: leaf[3 * i : 3 * i + 3], rows) for i in range(6)]
    about = dataset.write_rows(path, episodes, envs, env="tests/LateReward", policy="online")
    config = types.SimpleNamespace(
        dataset=path, num_seeds=1, agent=types.SimpleNamespace(batch_length=6, carry_steps=2)
    )
    # Where nothing is added, the ring has no more rows than there are steps.
    buffer = dataclasses.replace(BUFFER, capacity=18)
    empty = state.replace(replay=offline_replay(buffer, about, replay_step(start.timestep), carry))
    filled = with_steps(empty, read_offline(config, about, envs))
    assert_identical(filled.replay.steps, jax.tree.map(lambda leaf: leaf[:18], replay.steps))
    assert filled.replay.count.tolist() == [18] and not np.asarray(filled.replay.carries).any()

    filled = filled.replace(replay=filled.replay.replace(carries=replay.carries[:9]))
    step = partial(from_dataset, agent, buffer, envs, updates_per_step=Fraction(5), first_env=0)
    found, found_metrics, nothing = jax.jit(step)(filled, jax.random.key(8), jax.random.key(2))
    assert_identical(found["learner"], expected["learner"])
    assert_identical(found_metrics, metrics)
    for name, rows in (("carries", 9), ("written", 9), ("priority", 9), ("count", 1)):
        assert_identical(getattr(found["replay"], name), getattr(expected["replay"], name)[:rows])
    assert found["best"].params == found["learner"].params and nothing.ended.shape == (0,)
    assert set(found) == {"learner", "replay", "best"}


def test_episodes_follow_one_another_and_the_last_window_begins_anew(recorded):
    config = tiny(recorded, "--agent.batch-length", "40", "--agent.carry-every", "20", "--num-seeds", "2")
    about = dataset.read_about(recorded)
    experiment = make_experiment(config, about)
    offline = read_offline(config, about, experiment.envs)
    rows = dataset.read_rows(recorded, experiment.envs)
    assert offline.steps.reset.shape == (2, 280, 1)
    np.testing.assert_array_equal(offline.steps.observation[1, :260, 0], rows.observation)
    np.testing.assert_array_equal(offline.steps.observation[0, 260:, 0], rows.observation[:20])
    assert np.flatnonzero(offline.steps.reset[0, :, 0]).tolist() == [0, 52, 104, 156, 208, 260]
    state = jax.eval_shape(lambda: jax.vmap(experiment.init)(jax.random.split(jax.random.key(0), 2)))
    assert state.replay.steps == () and state.replay.count.shape == (2, 1)
    assert jax.tree.leaves(state.replay.carries)[0].shape[:3] == (2, 14, 1)
    assert isinstance(offline, Offline) and replay_size.tree_bytes(offline.steps) == 2 * 280 * (4 + 4 + 4 + 3)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dataset", "nowhere.npz"], "the data set nowhere.npz cannot be read: No such file"),
        (["--env.id", "popgym/CountRecallEasy"], "has the observation space Discrete.*but the environment has"),
        (["--agent.batch-length", "264"], "has 260 steps, fewer than a window: agent.batch_length=264"),
        (["--curriculum.kind", "space"], "curriculum.kind=space must be none with dataset="),
        (["--num-shards", "2"], "num_shards=2 must be 1 with dataset="),
        (["--stop-at-return", "1"], "stop_at_return=1 must be null with dataset="),
    ],
)
def test_what_cannot_work_is_refused_before_anything_compiles(flags, message, recorded, tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "jit", lambda *_, **__: pytest.fail("compiled"))
    with pytest.raises(ConfigError, match=message):
        train(tiny(recorded, *flags), run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_data_set_of_another_environment_with_the_same_spaces_is_told(recorded, caplog):
    about = dataset.read_about(recorded)
    make_experiment(tiny(recorded), about)
    assert "not env.id=" not in caplog.text
    make_experiment(tiny(recorded), dataclasses.replace(about, env="tests/Elsewhere"))
    assert "is of tests/Elsewhere, not env.id=popgym/RepeatPreviousEasy" in caplog.text


def test_ppo_is_refused_by_name(recorded, tmp_path):
    with pytest.raises(ConfigError, match=r"needs an agent that learns from replay, such as dreamer; agent\.kind=ppo"):
        train(tiny_config(dataset=recorded), run_dir=tmp_path / "run")


def test_a_data_set_that_does_not_fit_into_memory_is_refused_with_its_bytes(recorded, tmp_path, monkeypatch):
    config = tiny(recorded)
    carry = jax.eval_shape(lambda: make_experiment(config, None).agent.initial_carry(1))
    # 264 steps of 15 bytes, once read and once on the device, and a carry before every eighth.
    needed = 2 * 264 * 15 + 33 * replay_size.tree_bytes(carry)
    monkeypatch.setattr(replay_size, "free_memory", lambda: needed)
    make_experiment(config, dataset.read_about(recorded))
    monkeypatch.setattr(replay_size, "free_memory", lambda: needed - 1)
    with pytest.raises(ConfigError, match=r"random\.npz needs 0\.00 GB \(.* for steps, .* make a smaller data set"):
        train(config, run_dir=tmp_path / "run")


@pytest.mark.slow
def test_seeds_learn_in_one_program_as_alone(finished, tmp_path):
    run, config = finished
    pair = train(dataclasses.replace(config, num_seeds=2, total_env_steps=96), run_dir=tmp_path / "pair")
    alone, together = read_metrics(run)[2], read_metrics(pair)[2]
    assert together["per_seed"]["loss"][0] == pytest.approx(alone["loss"], rel=1e-3)
