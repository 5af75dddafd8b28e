"""Dreamer through the commands everybody uses: train, resume, evaluate, load_policy, and errors before any compile."""

import dataclasses
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from hippodrome import launch
from hippodrome.envs import Box, Dict, Discrete, Environment, EnvParams, EnvState, register_env
from hippodrome.training import evaluate, load_policy, replay_size, train
from hippodrome.training.checkpoint.run import RunCheckpoints
from hippodrome.training.errors import CheckpointError, ConfigError
from hippodrome.training.given import begin_with, given_params
from hippodrome.training.inspection.prediction import predict_run
from hippodrome.training.log.metrics import read_metrics
from hippodrome.training.log.progress import ProgressBar
from hippodrome.training.step import initial_state, make_experiment, state_template
from tests.compare import assert_close, assert_identical
from tests.tiny import newest_state
from tests.tiny import tiny_dreamer as tiny


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Six updates, undisturbed."""
    config = tiny()
    return train(config, run_dir=tmp_path_factory.mktemp("dreamer") / "run"), config


def test_it_trains_and_says_what_it_did(finished):
    run, config = finished
    rows = read_metrics(run)
    assert [row["env_steps"] for row in rows] == [32, 64, 96, 128, 160, 192]
    # 32 steps, twice, in windows of 2 x 8: four updates each time.
    assert [row["learner_updates"] for row in rows] == [4.0] * 6
    names = {"dynamics_loss", "representation_loss", "reconstruction_loss", "reward_loss", "continuation_loss",
             "actor_loss", "critic_loss", "replay_critic_loss", "carry_age", "grad_norm"}  # fmt: skip
    assert names <= set(rows[0]) and all(np.isfinite(row[name]) for row in rows for name in names)
    assert json.loads((run / "evaluation.json").read_text())["episodes"] == 4
    state = newest_state(run, config)
    # Every environment's stream ends at the same count here: 48 steps, none of them an episode's last.
    assert state.replay.count.tolist() == [48] * 4 and int(state.learner.updates) == 24


def test_resuming_is_bit_for_bit_with_replay_which_only_the_newest_checkpoint_holds(finished, tmp_path):
    run, config = finished
    half = train(dataclasses.replace(config, total_env_steps=96), run_dir=tmp_path / "half")
    train(config, resume=half)

    assert_identical(newest_state(half, config), newest_state(run, config))
    assert [each.name for each in (run / "checkpoints" / "replay").iterdir()] == ["step_000000000006"]


def test_a_checkpoint_whose_replay_is_gone_says_so(finished, tmp_path):
    run, config = finished
    checkpoints = RunCheckpoints(tmp_path / "checkpoints", keep=3)
    state = newest_state(run, config)
    checkpoints.save(6, state, {"update": 6}, best=False)
    (tmp_path / "checkpoints" / "replay" / "step_000000000006" / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="update 6 has lost its replay, which only the newest one keeps"):
        checkpoints.restore(state_template(make_experiment(config), config))


def test_the_policy_is_the_agent_that_acted(finished):
    run, _ = finished
    policy = load_policy(run)
    carry = policy.initial_carry(2)
    reset = jnp.ones(2, bool)
    carry, action = policy(carry, jnp.array([0, 3]), jnp.zeros(2), reset)
    assert action.shape == (2,)
    again = policy(policy.initial_carry(2), jnp.array([0, 3]), jnp.zeros(2), reset)[1]
    assert (action == again).all()
    carry, action = policy(carry, jnp.array([1, 2]), jnp.zeros(2), ~reset, key=jax.random.key(0))
    assert np.isfinite(jax.tree.leaves(carry)[0]).all()
    assert evaluate(run, episodes=2)["return"]["mean"] <= 1.0


def test_looking_at_a_run_asks_for_no_replay(finished, monkeypatch):
    """A robot may have less memory than what trained its policy."""
    monkeypatch.setattr(replay_size, "free_memory", lambda: 0)
    load_policy(finished[0])


def test_parameters_of_another_unit_of_rewards_are_refused(finished):
    config = tiny("--init-from", str(finished[0]), "--agent.reward-unit", "0.5")
    with pytest.raises(ConfigError, match=r"units of agent.reward_unit=1.0, not 0.5"):
        given_params(config, make_experiment(config))


@pytest.mark.slow
def test_seeds_train_in_one_program_as_alone(finished, tmp_path):
    run, config = finished
    pair = train(dataclasses.replace(config, num_seeds=2, total_env_steps=96), run_dir=tmp_path / "pair")
    alone, together = read_metrics(run)[2], read_metrics(pair)[2]
    assert together["per_seed"]["loss"][0] == pytest.approx(alone["loss"], rel=1e-3)


class Parts(Environment):
    """A picture, a vector and a choice of two kinds; every kind of space at once. Five steps, of seven there may be."""

    def __init__(self, image_dtype="uint8", side=4):
        self.image_dtype, self.side = image_dtype, side

    @property
    def default_params(self):
        return EnvParams(max_steps_in_episode=7)

    def observation_space(self, params):
        image = Box(0, 255 if self.image_dtype == "uint8" else 1, (self.side, self.side, 1), self.image_dtype)
        return Dict({"image": image, "speed": Box(-9.0, 9.0, (2,)), "kind": Discrete(3)})

    def action_space(self, params):
        return Dict({"push": Box(-2.0, 2.0, (2,)), "tool": Discrete(4)})

    def _see(self, key):
        return self.observation_space(None).sample(key)

    def reset_env(self, key, params):
        return self._see(key), EnvState(time=jnp.zeros((), jnp.int32))

    def step_env(self, key, state, action, params):
        state = state.replace(time=state.time + 1)
        return self._see(key), state, action["push"].sum(), state.time >= 5, {}


class Grey(Parts):
    """A picture without an axis of channels."""

    def observation_space(self, params):
        return Box(0, 255, (16, 16), "uint8")


register_env("tests/Parts", Parts)
register_env("tests/Grey", Grey)


def test_every_loss_trains_on_pictures_vectors_and_mixed_actions_and_the_target_follows(tmp_path, capsys, monkeypatch):
    flags = ("--env.id tests/Parts --total-env-steps 64 --agent.mask-ratio 0.5 "
             "--agent.mask-patch 2 --agent.latent-coef 1 --agent.bisimulation-coef 1 --agent.barlow-coef 0.1 "
             "--agent.warmup-updates 0 --agent.target-rate 0.25 --agent.batch-length 12")  # fmt: skip
    config = tiny(*flags.split())
    speeds = []
    monkeypatch.setattr(ProgressBar, "update", lambda bar, progress: speeds.append(progress.learning_speed))
    run = train(config, run_dir=tmp_path / "run")
    before, row = read_metrics(run)
    # The first update only fills replay: how long the rest will take is not known yet.
    assert before["learner_updates"] == 0 and row["learner_updates"] > 0
    assert speeds[0] is None and speeds[1] > 0
    assert all(np.isfinite(row[f"{name}_loss"]) for name in ("reconstruction", "latent", "bisimulation", "barlow"))
    learner = newest_state(run, config).learner
    assert set(learner.target) == {"encoder", "rssm", "projection"} and "decoder" in learner.params
    fresh = jax.jit(lambda: initial_state(make_experiment(config), config))().learner
    start, target, now = (each["encoder"]["params"]["mlp"]["dense_0"]["kernel"] for each in
                          (fresh.params, learner.target, learner.params))  # fmt: skip
    moved, whole = np.abs(target - start).sum(), np.abs(now - start).sum()
    assert 0 < moved < whole and learner.reward_range[0] < learner.reward_range[1]

    result = predict_run(run, context=2, horizon=6, num_episodes=3)
    # Episodes have five steps and the observation that ended them: six in all.
    assert result["episodes"] == [3] * 6 + [0, 0]
    for name in ("reward", "continuation", "image['image']", "vector['speed']", "discrete['kind']"):
        errors = result[name]["model"]
        assert all(np.isfinite(errors[:6])) and errors[6:] == [None, None]
    with Image.open(run / "prediction.gif") as video:
        assert video.n_frames == 6
    assert (run / "prediction.png").stat().st_size > 10_000
    assert json.loads((run / "prediction.json").read_text()) == result
    assert_bounded_by_what_there_is(run, capsys, monkeypatch)


def assert_bounded_by_what_there_is(run, capsys, monkeypatch):
    """Bounds by the longest episode there may be (seven steps), those played, and memory."""
    capsys.readouterr()
    assert launch.main(["predict", str(run), "--context", "5", "--episodes", "2"]) == 0
    assert "discrete['kind']" in capsys.readouterr().out
    assert json.loads((run / "prediction.json").read_text())["horizon"] == 3
    for flags, message in (
        (
            ["--context", "8"],
            "context=8 must be below 8, so that one is left to foresee: an episode of tests/Parts has",
        ),
        (
            ["--context", "2", "--horizon", "7"],
            "horizon=7 must be at most 6 after context=2: an episode of tests/Parts",
        ),
        (["--context", "6"], "context=6 must be below 6, the observations of the longest of 32 episodes"),
        (["--horizon", "0"], "--horizon 0 must be at least 1"),
    ):
        assert launch.main(["predict", str(run), *flags]) == 2
        assert message in capsys.readouterr().err
    monkeypatch.setattr(replay_size, "free_memory", lambda: 100_000)
    with pytest.raises(ConfigError, match=r"horizon=6 of num_episodes=9999 needs .* for the steps, .* fewer episodes"):
        predict_run(run, context=2, num_episodes=9999)


def test_two_devices_equal_one_whatever_the_shards_of_each():
    if jax.device_count() < 2:
        pytest.skip("needs XLA_FLAGS=--xla_force_host_platform_device_count=2, which tests/conftest.py sets")
    flags = ["--num-shards", "4", "--agent.batch-size", "4", "--agent.train-ratio", "4"]
    results = []
    for num_devices in ("1", "2"):
        config = tiny(*flags, "--num-devices", num_devices)
        experiment = make_experiment(config)
        state, step = jax.jit(partial(initial_state, experiment, config))(), jax.jit(experiment.step)
        for _ in range(2):
            state, metrics = step(state)
        results.append((state, metrics))
    (one, one_metrics), (two, two_metrics) = results
    assert len(two.replay.count.sharding.device_set) == 2 and two.replay.count.shape == (4, 1)
    assert float(two_metrics["learner_updates"]) == 4 and float(two_metrics["replay_steps"]) == 64
    for part in ("params", "slow_critic", "return_high", "reward_range"):
        assert_close(getattr(two.learner, part), getattr(one.learner, part), rtol=1e-5, atol=1e-5)
    assert_close(two.replay.steps, one.replay.steps)
    assert_close(two.replay.carries, one.replay.carries, rtol=1e-4, atol=1e-5)
    assert_close(two.replay.written, one.replay.written)
    assert set(one_metrics) == set(two_metrics)
    for name, value in one_metrics.items():
        np.testing.assert_allclose(two_metrics[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num-shards", "2", "--agent.batch-size", "3"], "agent.batch_size=3 must be divisible by num_shards=2"),
        (
            ["--env.id", "tests/Parts", "--env.kwargs", "image_dtype=float32"],
            r"observation space\['image'\] .* an image must be a uint8 Box",
        ),
        (["--agent.mask-ratio", "0.5"], r"mask_ratio=0\.5 must be 0 with the observation space Discrete\(4\)"),
        (["--env.id", "tests/Parts", "--env.kwargs", "side=2"], "must be at least 4 pixels high and wide"),
        (
            ["--agent.replay-capacity", "48"],
            r"agent.replay_capacity=48 must be at least 64: each of the env.num_envs=4",
        ),
        (
            ["--total-env-steps", "32", "--agent.batch-length", "24", "--agent.replay-capacity", "192"],
            "total_env_steps=32 ends before anything is learnt",
        ),
        (["--agent.train-ratio", "1e-9"], r"agent.train_ratio=1e-09 then gives 0 updates"),
        (["--env.id", "tests/Grey"], r"no axis of channels; a grey picture must be \(16, 16, 1\)"),
        (["--agent.replay-capacity", "4e12"], r"needs [\d.]+ GB .* but [\d.]+ GB are free: about \d+ steps fit"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_compiles(flags, message, tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "jit", lambda *_, **__: pytest.fail("compiled"))
    with pytest.raises(ConfigError, match=message):
        train(tiny(*flags), run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--agent.batch-length", "10"], r"imagination_stride=4 must divide carry_every=10 \(that of batch_length"),
        (["--agent.carry-every", "12"], "carry_every=12 must divide batch_length=32"),
        (["--agent.value-bins", "10"], "value_bins=10 must be odd and at least 3"),
        (["--agent.posterior", "both"], "posterior"),
        (["--agent.discount-horizon", "1"], "discount_horizon=1.0 must be above 1"),
        (["--agent.train-ratio", "0"], "train_ratio=0.0 must be positive"),
        (["--agent.mask-ratio", "1"], "mask_ratio=1.0 must be at least 0, below 1"),
        (
            ["--agent.reconstruction-coef", "0"],
            "one of reconstruction_coef, latent_coef and barlow_coef must be above 0",
        ),
    ],
)
def test_bad_hyper_parameters_are_named(flags, message):
    with pytest.raises(ConfigError, match=message):
        tiny(*flags)


def test_without_its_loss_there_is_no_decoder():
    agent = make_experiment(tiny("--agent.reconstruction-coef", "0", "--agent.barlow-coef", "1")).agent
    assert "decoder" not in jax.eval_shape(lambda: agent.init(jax.random.key(0), 4)).params


def test_init_from_begins_the_averages_at_the_parameters_too(finished):
    """The slow critic and the averaged branch follow from the parameters; those of a fresh agent would pull back."""
    run, config = finished
    given = load_policy(run).params
    flags = ["--init-from", str(run), "--seed", "7", "--agent.latent-coef", "0", "--agent.bisimulation-coef", "1"]
    config = tiny(*flags)
    experiment = make_experiment(config)
    state = begin_with(experiment.agent, initial_state(experiment, config), given_params(config, experiment))
    learner = state.learner
    for found, expected in (
        (learner.params, given),
        (state.best.params, given),
        (learner.slow_critic, given["critic"]),
        (learner.target, {name: given[name] for name in ("encoder", "rssm")}),
    ):
        jax.tree.map(np.testing.assert_array_equal, found, expected)
    # The train step takes over the buffers of its argument, each of them once.
    all_of_them = learner.params, learner.slow_critic, learner.target, state.best.params
    buffers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(all_of_them)]
    assert len(set(buffers)) == len(buffers)


def test_init_from_other_shapes_names_the_fields_of_the_agent(finished):
    run, _ = finished
    config = tiny("--init-from", str(run), "--agent.units", "16", "--agent.value-bins", "9", "--agent.train-ratio", "1")
    with pytest.raises(ConfigError) as refused:
        given_params(config, make_experiment(config))
    assert str(refused.value).splitlines()[1:] == [
        "  - agent.units: 16 here, 8 in the run",
        "  - agent.value_bins: 9 here, 11 in the run",
    ]
