"""Training on the host: the same numbers as in JAX; train, resume, evaluate and failures through the usual functions.

The oracle is an environment without randomness that exists twice, in JAX and in NumPy behind gymnasium.
"""

import dataclasses
import json
import shutil
from functools import partial

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from hippodrome.training import evaluate, load_policy, record_episodes, train
from hippodrome.training.config import config_differences, load_config
from hippodrome.training.errors import ConfigError, EnvironmentFailure
from hippodrome.training.given import RESUMABLE_FIELDS
from hippodrome.training.host import restarted, running
from hippodrome.training.log.metrics import read_metrics
from hippodrome.training.replay import cut_streams
from hippodrome.training.replay_size import replay_buffer
from hippodrome.training.rollout import record
from hippodrome.training.step import initial_state, make_environment, make_experiment
from tests.compare import assert_close
from tests.host_envs import LIMIT, NumpyRoom
from tests.tiny import newest_state, tiny_config

HOST, IN_JAX = "gymnasium/tests/NumpyRoom-v0", "tests/ShortRoom"
PPO = dict(env__num_envs=4, agent__num_steps=16, checkpoint__every_updates=1, evaluation__episodes=16)
DREAMER = (
    "--env.num-envs 4 --memory.kind s5 --memory.d-model 8 --memory.d-state 4 --memory.num-layers 1 --agent.num-steps 8 "
    "--agent.batch-size 2 --agent.batch-length 8 --agent.train-ratio 2 --agent.replay-capacity 192 "
    "--agent.latent-groups 2 --agent.latent-classes 3 --agent.hidden 8 --agent.units 8 --agent.value-bins 11 "
    "--agent.imagination-horizon 3 --agent.imagination-stride 4 --agent.posterior parallel --total-env-steps 192"
)


def ppo(env_id=HOST, **flags):
    return tiny_config(env__id=env_id, **PPO, **flags)


def dreamer(env_id=HOST):
    return load_config("dreamer", ["--env.id", env_id, *DREAMER.split()])


def after_updates(config):
    """The state after every update of a configuration, the metrics of all, the experiment and its compiled step."""
    experiment = make_experiment(config)
    state = jax.jit(lambda: initial_state(experiment, config))()
    step = jax.jit(experiment.step).lower(state).compile()
    metrics = []
    for _ in range(experiment.num_updates):
        state, row = step(state)
        metrics.append(row)
    return state, metrics, experiment, step


assert_equal = partial(assert_close, rtol=1e-6)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Four updates of PPO on the host."""
    config = ppo()
    return train(config, run_dir=tmp_path_factory.mktemp("host") / "run"), config


def test_ppo_learns_the_same_numbers_as_in_jax(finished):
    run, config = finished
    state, metrics, _, _ = after_updates(ppo(IN_JAX))
    on_host = newest_state(run, config)
    assert_equal(on_host.learner, state.learner)
    assert_equal((on_host.carry, on_host.envs.timestep), (state.carry, state.envs.timestep))
    rows = read_metrics(run)
    assert [row["episodes"] for row in rows] == [int(row["episodes"]) for row in metrics] and rows[-1]["episodes"] > 3
    assert_equal([row["loss"] for row in rows], [float(row["loss"]) for row in metrics])


def test_evaluation_plays_the_same_episodes_as_in_jax(finished):
    run, _ = finished
    on_host = json.loads((run / "evaluation.json").read_text())
    in_jax = evaluate(run, env=IN_JAX, episodes=16)
    for name in ("return", "return_sampled"):
        assert on_host[name]["mean"] == pytest.approx(in_jax[name]["mean"])
        assert on_host[name]["iqm"] == pytest.approx(in_jax[name]["iqm"])
    assert on_host["return_sampled"]["max"] > 0 and on_host["length_sampled"] == in_jax["length_sampled"] < LIMIT


def test_the_policy_loads_without_an_environment_and_acts(finished):
    run, _ = finished
    policy = load_policy(run)
    room = gymnasium.make("tests/NumpyRoom-v0")
    observation, _ = room.reset()
    _, action = policy(policy.initial_carry(1), jnp.asarray(observation)[None], jnp.zeros(1), jnp.ones(1, bool))
    room.step(int(action[0]))
    room.close()


def test_a_resumed_run_begins_new_episodes_and_one_that_raises_ends_with_its_traceback(
    finished, tmp_path, monkeypatch, capsys
):
    run, config = finished
    copy = shutil.copytree(run, tmp_path / "copy")
    closed = []
    monkeypatch.setattr(NumpyRoom, "fail_at", 20)  # in the second update: four environments, 16 steps each
    monkeypatch.setattr(NumpyRoom, "close", lambda room: closed.append(room.steps))
    with pytest.raises(EnvironmentFailure, match="copy 0 failed in step") as failure:
        train(dataclasses.replace(config, total_env_steps=64 * 6), resume=copy)
    errors, message = capsys.readouterr().err, str(failure.value)
    assert "not in a checkpoint: each begins a new episode, reset True" in errors and "io_callback" not in errors
    assert [row["update"] for row in read_metrics(copy)] == [1, 2, 3, 4, 5]
    assert "ArithmeticError: the floor gave way" in message and "xla" not in message.lower()
    assert "the newest checkpoint is that of update 5. Once the cause is mended, go on with" in message
    assert sorted(closed)[-4:] == [19, 19, 19, 20] and failure.value.exit_code == 1


def acted(config):
    """A fresh state of Dreamer after 24 steps in every environment, all of them in its replay; and the environments."""
    experiment, buffer = make_experiment(config), replay_buffer(config)

    def act():
        state = experiment.init(jax.random.key(0))
        envs_state, carry, stream, _ = record(
            experiment.agent, experiment.envs, state.learner.params, state.envs, state.carry, state.key, num_steps=24
        )
        replay = buffer.add(state.replay, stream.steps, stream.valid, stream.carries, 0)
        return dataclasses.replace(state, envs=envs_state, carry=carry, replay=replay)

    return jax.jit(act)(), experiment.envs


def test_dreamer_stores_the_same_steps_as_in_jax_and_a_restart_cuts_its_streams():
    (host, envs), (in_jax, _) = (acted(dreamer(each)) for each in (HOST, IN_JAX))
    assert_equal((host.replay, host.carry, host.envs.timestep), (in_jax.replay, in_jax.carry, in_jax.envs.timestep))
    assert (host.replay.count > 24).all()  # episodes ended
    with running(envs):
        again = restarted(envs, host)
    assert again.envs.timestep.reset.all() and (again.envs.episode_length == 0).all()
    newest, env = (host.replay.count - 1) % 48, np.arange(4)
    assert not host.replay.steps.last[newest, env].any()
    np.testing.assert_array_equal(again.replay.steps.last, host.replay.steps.last.at[newest, env].set(True))
    empty = dataclasses.replace(host.replay, count=jnp.zeros(4, jnp.int32))
    np.testing.assert_array_equal(cut_streams(empty).steps.last, host.replay.steps.last)


@pytest.mark.slow
def test_dreamer_learns_the_same_numbers_as_in_jax_and_goes_on_after_a_restart():
    (host, _, experiment, step), (in_jax, _, _, _) = (after_updates(dreamer(each)) for each in (HOST, IN_JAX))
    assert int(host.learner.updates) > 10
    assert_equal(host.learner, in_jax.learner)
    assert_equal((host.replay.steps, host.replay.count), (in_jax.replay.steps, in_jax.replay.count))
    with running(experiment.envs):
        state, metrics = step(restarted(experiment.envs, host))
        assert (state.replay.steps.reset[host.replay.count % 48, np.arange(4)]).all() and np.isfinite(metrics["loss"])
        # The same checkpoint goes on in the same way.
        twin, _ = step(restarted(experiment.envs, host))
        assert_equal(twin.learner, state.learner)


def test_a_policy_of_ones_own_is_evaluated_on_the_host():
    result = evaluate("tests.training.test_host_runs:Forward", env=HOST, episodes=2)
    assert result["return"]["mean"] == 0.0 and result["length"] == LIMIT


class Forward:
    """Walks into the wall."""

    def initial_carry(self, num_envs):
        return num_envs

    def __call__(self, carry, observation, reward, reset, key=None):
        return carry, jnp.full(carry, 2)


class Odd(gymnasium.Env):
    """Spaces that cannot be taken."""

    def __init__(self, part="mission"):
        bounded = part == "mission"
        self.observation_space = spaces.Dict({"mission": spaces.Text(9)}) if bounded else spaces.Discrete(2)
        self.action_space = spaces.Discrete(2) if bounded else spaces.Box(-np.inf, np.inf, (2,))


gymnasium.register("tests/Odd-v0", Odd)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            dict(num_seeds=2),
            r"num_seeds=2 must be 1 with env.id='gymnasium/tests/NumpyRoom-v0', which steps on the host",
        ),
        (dict(num_devices=2, num_shards=2), r"num_devices=2 must be 1 with env.id=.*host: set num_devices=1"),
        (
            {"cluster.num-workers": 1},
            r"cluster.num_workers=1 must be 0 with env.id=.*host: act in it in other processes by --cluster.num-actors",
        ),
        ({"cluster.num-actors": 3}, "env.num_envs=4 must be divisible by cluster.num_actors=3"),
        (
            {"cluster.num-actors": 2, "env.host-workers": 2},
            "env.host_workers=2 must be 0 with cluster.num_actors=2: more --cluster.num-actors do the same",
        ),
        ({"cluster.actor-lag": 1}, "cluster.actor_lag=1 must be 0 with cluster.num_actors=0"),
        (
            {"env__id": IN_JAX, "cluster.address": "127.0.0.1:1"},
            "cluster.address=127.0.0.1:1 must be null with cluster.num_workers=0 .* --cluster.address None",
        ),
        (
            {"env__id": IN_JAX, "cluster.num-actors": 2},
            "cluster.num_actors=2 must be 0: env.id='tests/ShortRoom' steps in JAX.* by --cluster.num-workers",
        ),
        (
            dict(env__id=IN_JAX, env__host_workers=1),
            "env.host_workers=1 must be 0: env.id='tests/ShortRoom' steps in JAX",
        ),
        (dict(env__id="gymnasium/Nowhere-v3"), "gymnasium/Nowhere-v3' cannot be made: NameNotFound"),
        (dict(env__id="gymnasium/tests/Odd-v0"), r"observation space\['mission'\] Text\(.* must be one of gymnasium's"),
        (
            dict(env__id="gymnasium/tests/Odd-v0", env__kwargs="part=action"),
            "action space Box.* must have finite bounds",
        ),
        (dict(env__params="max_steps_in_episode=0"), "max_steps_in_episode=0 must be an integer of at least 1"),
        (dict(env__params="max_step=9"), "env.params: parameter 'max_step' is unknown; did you mean"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_compiles(flags, message, tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "jit", lambda *_, **__: pytest.fail("compiled"))
    with pytest.raises(ConfigError, match=message):
        train(tiny_config(**{"env__id": HOST, **PPO, **flags}), run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_how_copies_are_spread_may_change_when_a_run_goes_on(finished):
    _, config = finished
    spread = dataclasses.replace(config, env=dataclasses.replace(config.env, host_workers=3))
    assert make_environment(spread.env, num_steps=1).workers == 3
    assert config_differences(spread, config, ignore=RESUMABLE_FIELDS) == []


def test_episodes_are_recorded_and_the_environments_closed(tmp_path):
    result = record_episodes(HOST, tmp_path / "rooms.npz", random=True, episodes=3)
    assert result["episodes"] == 3 and result["env"] == HOST
    assert 3 * 2 <= result["steps"] <= 3 * (LIMIT + 1)
