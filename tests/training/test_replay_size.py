"""How much memory replay takes, by hand."""

import types

import jax.numpy as jnp
import pytest

from hippodrome.envs import VectorEnv
from hippodrome.training import replay_size
from hippodrome.training.errors import ConfigError
from tests.probes import LateReward

B, T, K, L = 4, 8, 8, 8
CONFIG = types.SimpleNamespace(
    num_seeds=2,
    num_devices=1,
    total_devices=1,
    num_shards=1,
    env=types.SimpleNamespace(num_envs=B),
    agent=types.SimpleNamespace(
        num_steps=T,
        replay_capacity=24 * B,
        carry_steps=K,
        carry_every=K,
        batch_length=L,
        batch_size=2,
        replay_sampling="uniform",
        priority_exponent=1.0,
        online_queue=True,
    ),
)
# A float32 observation, an int32 action, a float32 reward and three flags; a carry of three float32.
STEP, CARRY = 4 + 4 + 4 + 3, 12
REPLAY = 2 * B * (24 * STEP + 24 // K * CARRY)
# Once more while a checkpoint is written.
REPLAY *= 2
# Two of each for every step taken, and the carries of all of them.
ROLLOUT = 2 * B * 2 * T * (STEP + CARRY)


def check():
    agent = types.SimpleNamespace(initial_carry=lambda num_envs: jnp.zeros((num_envs, 3)))
    replay_size.check_replay_memory(CONFIG, agent, VectorEnv(LateReward()))


def test_replay_and_a_rollout_are_counted_to_the_byte(monkeypatch):
    monkeypatch.setattr(replay_size, "free_memory", lambda: REPLAY + ROLLOUT)
    check()
    monkeypatch.setattr(replay_size, "free_memory", lambda: REPLAY + ROLLOUT - 1)
    with pytest.raises(ConfigError, match=r"agent.replay_capacity=96 needs .* for a rollout of agent.num_steps=8"):
        check()


def test_a_container_may_have_less_than_the_machine(tmp_path):
    assert replay_size._free_of_container(tmp_path) is None
    files = {"memory.max": "1000", "memory.current": "700", "memory.stat": "anon 1\ninactive_file 50\n"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert replay_size._free_of_container(tmp_path) == 350
    (tmp_path / "memory.max").write_text("max\n")
    assert replay_size._free_of_container(tmp_path) is None


def test_what_fits_is_told(monkeypatch):
    monkeypatch.setattr(replay_size, "free_memory", lambda: REPLAY // 2 + ROLLOUT)
    with pytest.raises(ConfigError, match="about 48 steps fit"):
        check()
    monkeypatch.setattr(replay_size, "free_memory", lambda: ROLLOUT // 2)
    with pytest.raises(ConfigError, match=r"about 0 steps fit; lower it, or agent\.num_steps"):
        check()


def test_where_memory_is_unknown_nothing_is_refused(monkeypatch):
    monkeypatch.setattr(replay_size, "free_memory", lambda: None)
    check()
