"""Environments in Python, acted in by processes that Ray starts: the numbers of one process, whatever dies."""

import dataclasses
import json
import math
import os
import signal
import threading

import pytest

from hippodrome.training import train
from hippodrome.training.cluster import acting
from hippodrome.training.config.schema import ClusterConfig
from hippodrome.training.errors import EnvironmentFailure
from hippodrome.training.log.metrics import read_metrics
from tests.ray_sessions import newest, processes_of, ray_session, wait_until
from tests.tiny import tiny_config, tiny_dreamer

UPDATES = 6
PPO = dict(
    env__id="gymnasium/CartPole-v1",
    agent__num_steps=16,
    agent__normalize_observation=True,
    total_env_steps=8 * 16 * UPDATES,
    checkpoint__every_updates=1,
    evaluation__episodes=2,
    log__no_tensorboard=True,
)
# An environment that works in the driver and in no actor.
MOODY = """
import sys
import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv
class Moody(CartPoleEnv):
    def step(self, action):
        if "ray" in sys.argv[0]:
            raise ArithmeticError("the moon is in the wrong house")
        return super().step(action)
gymnasium.register("Moody-v0", Moody)
"""

pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """The mark of the processes of Ray."""
    yield from ray_session(tmp_path_factory.mktemp("session"), {"moody_in_actors": MOODY})


def with_actors(config, **options):
    return dataclasses.replace(config, cluster=ClusterConfig(num_actors=2, max_failures=1, **options))


def told(run, *names):
    """What the log says of every update."""
    rows = ([row[name] for name in ("episodes", "episode_return", *names)] for row in read_metrics(run))
    return [[math.nan if value is None else value for value in row] for row in rows]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A run in one process, and its configuration."""
    config = tiny_config(**PPO)
    return train(config, run_dir=tmp_path_factory.mktemp("alone") / "run"), config


def test_two_actors_equal_one_process(session, alone, tmp_path):
    run, config = alone
    two = train(with_actors(config), run_dir=tmp_path / "two")
    assert [row["update"] for row in read_metrics(two)] == list(range(1, UPDATES + 1))
    assert sum(row["episodes"] for row in read_metrics(two)) > UPDATES
    for found, expected in zip(told(two, "loss"), told(run, "loss"), strict=True):
        assert found == pytest.approx(expected, rel=1e-4)
    results = [json.loads((folder / "evaluation.json").read_text()) for folder in (two, run)]
    assert results[0]["return"]["mean"] == results[1]["return"]["mean"]
    wait_until(lambda: not [words for words in processes_of(session).values() if "EnvActor" in words], 30)


@pytest.mark.slow
def test_dreamer_with_actors_equals_one_process(session, tmp_path):
    config = tiny_dreamer("--env.id", "gymnasium/CartPole-v1", "--total-env-steps", "192")
    one = train(config, run_dir=tmp_path / "one")
    two = train(with_actors(config), run_dir=tmp_path / "two")
    names = ("learner_updates", "dynamics_loss", "actor_loss", "replay_steps")
    rows = told(two, *names)
    assert rows[-1][2] > 0
    for found, expected in zip(rows, told(one, *names), strict=True):
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-6, nan_ok=True)


@pytest.mark.slow
def test_with_a_lag_the_actors_go_on_and_no_queue_grows(session, alone, tmp_path, monkeypatch):
    _, config = alone
    waiting, published = [], []
    get, put = acting.Actors.get, acting.ray.put
    monkeypatch.setattr(
        acting.Actors, "get", lambda self, asked: (waiting.append(len(self._asked)), get(self, asked))[1]
    )
    monkeypatch.setattr(acting.ray, "put", lambda value: (published.append(value), put(value))[1])
    run = train(with_actors(config, actor_lag=2), run_dir=tmp_path / "run")
    assert len(read_metrics(run)) == len(published) == UPDATES
    assert max(waiting) == 2
    # The first chunks are all of the first parameters; from the fourth on they follow what was learnt.
    assert told(run)[0] != told(alone[0])[0] and len({str(row) for row in told(run, "loss")}) == UPDATES


@pytest.mark.slow
def test_an_actor_that_is_killed_is_replaced_and_the_log_says_so(session, tmp_path, capsys):
    config = with_actors(tiny_config(**PPO | dict(total_env_steps=8 * 16 * 40)))

    def kill():
        wait_until(lambda: newest(tmp_path / "run") >= 2)
        actors = sorted(pid for pid, words in processes_of(session).items() if words.startswith("ray::EnvActor"))
        os.kill(actors[1], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    run = train(config, run_dir=tmp_path / "run")
    thread.join()
    assert [row["update"] for row in read_metrics(run)] == list(range(1, 41))
    (line,) = [json.loads(line) for line in (run / "failures.jsonl").read_text().splitlines()]
    assert "environment actor" in line["what"] and "died" in line["what"]
    assert line["env_steps_resumed_from"] >= 2 * 8 * 16 and line["seconds_until_next_report"] > 0
    said = capsys.readouterr().err
    assert "2 environment actors on 1 node" in said and "each begins a new episode, reset True" in said


def test_an_environment_that_fails_stops_the_run_with_its_own_traceback(session, tmp_path):
    config = with_actors(tiny_config(**PPO | {"env__id": "gymnasium/Moody-v0", "import": "moody_in_actors"}))
    with pytest.raises(EnvironmentFailure) as stop:
        train(config, run_dir=tmp_path / "run")
    message = str(stop.value)
    assert message.startswith("environment gymnasium/Moody-v0: copy ") and "in step()" in message
    assert "ArithmeticError: the moon is in the wrong house" in message
    assert "hippodrome train --resume" in message and message.count("Traceback") == 1
