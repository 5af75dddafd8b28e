"""Data sets: what is recorded is what was played, one's own episodes by hand, and every broken rule by its name."""

import dataclasses
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hippodrome import launch
from hippodrome.agents import Decision, ReplayStep
from hippodrome.envs import Box, Dict, Discrete, VectorEnv, register_env
from hippodrome.training import replay_size, write_episodes
from hippodrome.training.dataset import file as dataset
from hippodrome.training.dataset import recording
from hippodrome.training.errors import ConfigError, RunFolderError
from tests.probes import Probe


class Turns(Probe):
    """Shows the step and the action before; action 2 ends the episode, the fifth step cuts it off."""

    length = 5
    truncates = True
    actions = Discrete(3)

    def observation_space(self, params):
        return Dict({"clock": Box(0.0, 1.0, (1,)), "kind": Discrete(3)})

    def reset_env(self, key, params):
        observation, state = super().reset_env(key, params)
        return {"clock": observation * 0.0, "kind": jnp.zeros((), jnp.int32)}, state

    def step_env(self, key, state, action, params):
        state = state.replace(time=state.time + 1)
        kind = jnp.asarray(action, jnp.int32)
        observation = {"clock": state.time[None] / 10.0, "kind": kind}
        return observation, state, action.astype(jnp.float32), action == 2, {}


register_env("tests/Turns", Turns)
ENVS = VectorEnv(Turns())


def scripted_agent():
    """Episode e of a batch plays 1, 1, ... and 2 at its step 2 e; its carry counts its steps."""

    def act(params, carry, timestep, key):
        steps = jnp.where(timestep.reset, 0, carry)
        action = jnp.where(steps == 2 * jnp.arange(steps.shape[0]), 2, 1)
        zeros = jnp.zeros(steps.shape)
        return steps + 1, Decision(action, action, zeros, zeros)

    return types.SimpleNamespace(act=act, initial_carry=lambda num_envs: jnp.zeros(num_envs, jnp.int32))


def rows(actions, terminal):
    """The rows of an episode of Turns by hand."""
    number = len(actions) + 1
    return ReplayStep(
        observation={
            "clock": (np.arange(number, dtype=np.float32) / np.float32(10.0))[:, None],
            "kind": np.array([0, *actions], np.int32),
        },
        reset=np.arange(number) == 0,
        previous_action=np.array([-1, *actions], np.int32),
        reward=np.array([0, *actions], np.float32),
        terminal=(np.arange(number) == number - 1) & terminal,
        last=np.arange(number) == number - 1,
    )


PLAYED = [rows([2], True), rows([1, 1, 2], True), rows([1, 1, 1, 1, 2], True), rows([1, 1, 1, 1, 1], False)]


def assert_rows(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b, strict=True), found, expected)


def played(agent, key, number):
    return [each for some in recording.play_episodes(agent, ENVS, None, key, num_episodes=number) for each in some]


@pytest.mark.parametrize("chunk", [2, 64])
def test_what_is_recorded_and_read_is_what_was_played(chunk, tmp_path, monkeypatch):
    """Episodes shorter and longer than a chunk of steps; the last of them cut off at its fifth step."""
    monkeypatch.setattr(recording, "_CHUNK", chunk)
    found = played(scripted_agent(), jax.random.key(0), 4)
    for episode, expected in zip(found, PLAYED, strict=True):
        assert_rows(episode, expected)
    path = tmp_path / "played.npz"
    about = dataset.write_rows(path, found, ENVS, env="tests/Turns", policy="scripted")
    assert dataset.read_about(path) == about and (about.episodes, about.steps) == (4, 2 + 4 + 6 + 6)
    whole = jax.tree.map(lambda *parts: np.concatenate(parts), *PLAYED)
    assert_rows(dataset.read_rows(path, ENVS), whole)
    with np.load(path) as file:  # the format as it is documented
        assert set(file.files) == {"observation/clock", "observation/kind", "reset", "previous_action", "reward",
                                   "terminal", "last", "about"}  # fmt: skip
        assert json.loads(str(file["about"]))["version"] == 1
    assert [each.name for each in tmp_path.iterdir()] == ["played.npz"]


def test_an_episode_does_not_depend_on_how_many_are_played(monkeypatch):
    agent = recording._random_agent(ENVS)
    four = played(agent, jax.random.key(3), 4)
    monkeypatch.setattr(recording, "_TOGETHER", 3)
    for episode, expected in zip(played(agent, jax.random.key(3), 5)[:4], four, strict=True):
        assert_rows(episode, expected)
    assert len({len(each.reset) for each in four}) > 1


def own(**changes):
    """Three actions in the usual layout, of types as other libraries store them."""
    episode = {
        "observations": {"clock": np.array([[0.0], [0.1], [0.2], [0.3]]), "kind": np.array([0, 1, 1, 2])},
        "actions": [1, 1, 2],
        "rewards": np.array([1.0, 1.0, 2.0]),
        "terminations": np.array([False, False, True]),
        "truncations": np.array([False, False, False]),
    }
    return {**episode, **changes}


def test_ones_own_episodes_become_rows(tmp_path):
    """Terminated; cut off, as an object and not a mapping; and both at once, where terminated wins."""
    cut = own(terminations=[False] * 3, truncations=[False, False, True])
    both = own(truncations=[0, 0, 1])
    about = write_episodes(
        tmp_path / "own.npz", iter([own(), types.SimpleNamespace(**cut), both]), "tests/Turns", policy="mine"
    )
    assert dataclasses.asdict(about) == {
        "env": "tests/Turns",
        "policy": "mine",
        "observation_space": "Dict({'clock': Box(0.0, 1.0, (1,), float32), 'kind': Discrete(3)})",
        "action_space": "Discrete(3)",
        "episodes": 3,
        "steps": 12,
    }
    parts = [rows([1, 1, 2], True), rows([1, 1, 2], False), rows([1, 1, 2], True)]
    assert_rows(dataset.read_rows(tmp_path / "own.npz", ENVS), jax.tree.map(lambda *a: np.concatenate(a), *parts))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"actions": [1, 1]}, r"actions has the shape \(2,\), but must have the length 3: an episode of T actions"),
        ({"observations": own()["observations"]["clock"]}, "observations must be arrays in the structure"),
        (
            {"observations": {"clock": np.zeros((4, 2)), "kind": np.zeros(4, int)}},
            r"observations/clock has the shape \(4, 2\), but each must be of the shape \(1,\)",
        ),
        (
            {"observations": {"clock": np.zeros((3, 1)), "kind": np.zeros(4, int)}},
            r"observations/clock has the shape \(3, 1\), but must have the length 4",
        ),
        ({"actions": [1.0, 1.0, 2.0]}, "actions is of float64, but the space has int32"),
        ({"actions": [1, 1, 2**40]}, "actions holds values that int32, the space's, cannot"),
        ({"actions": [1, 3, 2]}, r"episode 1, row 2: previous_action must be an element of Discrete\(3\)"),
        (
            {"rewards": [1.0, np.nan, np.inf]},
            r"episode 1, row 2: reward is nan, but must be finite \(row 6 of all\)",
        ),
        ({"rewards": [1.0, 1e300, 0.0]}, "episode 1, row 2: reward is inf, but must be finite"),
        (
            {"observations": {"clock": np.full((4, 1), np.inf), "kind": np.zeros(4, int)}},
            "episode 1, row 0: observation/clock is inf, but must be finite",
        ),
        ({"rewards": []}, "rewards is empty; an episode must have at least one action"),
        ({"terminations": [True, False, True]}, "step 0 ends it, but 2 is its last; make two episodes of it"),
        ({"terminations": [False] * 3}, "its last step must be terminated or truncated; where the recording was cut"),
        ({"truncations": [0, 0, 2]}, "truncations holds values that bool"),
        ({"truncations": None}, "lacks truncations; an episode has observations, actions"),
    ],
)
def test_a_broken_rule_names_the_episode_and_itself(changes, message, tmp_path):
    with pytest.raises(ConfigError, match=message) as refused:
        write_episodes(tmp_path / "own.npz", [own(), own(**changes)], "tests/Turns")
    assert "episode 1" in str(refused.value) and not list(tmp_path.iterdir())


def test_a_file_that_is_there_or_cannot_be_is_not_written(tmp_path):
    write_episodes(tmp_path / "own.npz", [own()], "tests/Turns")
    for path, message in ((tmp_path / "own.npz", "exists; choose another"), (tmp_path / "a" / "b.npz", "is no folder")):
        with pytest.raises(RunFolderError, match=message):
            write_episodes(path, [own()], "tests/Turns")
    with pytest.raises(ConfigError, match="must have at least one episode"):
        write_episodes(tmp_path / "none.npz", [], "tests/Turns")


def rewritten(path, **changes):
    """A data set with arrays replaced, or left out where None."""
    with np.load(path) as file:
        arrays = {**file, **changes}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"about": None}, "is no data set of hippodrome; make one by `hippodrome record`"),
        ({"about": np.array('{"format": "hippodrome episodes", "version": 2}')}, "has version 2 of the format"),
        ({"observation/kind": None, "last": None}, "lacks the arrays observation/kind, last"),
        ({"reward": np.zeros(4)}, r"reward is float64 of the shape \(4,\), but must be float32 of the shape \(8,\)"),
        ({"reset": np.zeros(8, bool)}, "episode 0, row 0: reset must be True at its first row"),
        ({"last": np.arange(8) == 7}, "episode 1, row 0: last must be True at the row before"),
        ({"last": np.arange(8) == 3}, "episode 1, row 3: last must be True at the final row"),
        ({"terminal": np.arange(8) == 5}, "episode 1, row 1: terminal must be False at rows that are not its last"),
        ({"reward": np.ones(8, np.float32)}, "episode 0, row 0: reward must be 0 at its first row"),
        (
            {"reward": np.array([0, 1, 1, 2, np.nan, 1, -np.inf, 2], np.float32)},
            r"episode 1, row 0: reward is nan, but must be finite \(row 4 of all\)",
        ),
        ({"previous_action": np.ones(8, np.int32)}, r"row 0: previous_action must be .* -1 at a first row"),
    ],
)
def test_a_file_that_breaks_a_rule_is_refused(changes, message, tmp_path):
    path = tmp_path / "own.npz"
    write_episodes(path, [own(), own()], "tests/Turns")
    rewritten(path, **changes)
    with pytest.raises(ConfigError, match=message):
        dataset.read_rows(path, ENVS)


def test_files_that_are_none_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        dataset.read_about(tmp_path / "nothing.npz")
    (tmp_path / "text.npz").write_text("episodes")
    np.save(tmp_path / "array.npy", np.zeros(3))
    for name in ("text.npz", "array.npy"):
        with pytest.raises(ConfigError, match=r"cannot be read: it is no \.npz file"):
            dataset.read_about(tmp_path / name)


def test_whatever_byte_is_damaged_the_file_is_read_or_refused(tmp_path):
    write_episodes(tmp_path / "own.npz", [own(), own()], "tests/Turns")
    whole = (tmp_path / "own.npz").read_bytes()
    damaged, refused, read = tmp_path / "damaged.npz", 0, 0
    for place in range(0, len(whole), 37):
        data = bytearray(whole)
        data[place] ^= 0xFF
        damaged.write_bytes(data)
        try:
            dataset.read_rows(damaged, ENVS)
        except ConfigError as error:
            refused += "damaged.npz" in str(error)
        else:
            read += 1
    assert refused + read == len(range(0, len(whole), 37)) and refused > 20


def test_what_was_played_before_an_interruption_is_written(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(recording, "_TOGETHER", 2)
    whole = recording.play_episodes

    def interrupted(*args, **kwargs):
        yield next(whole(*args, **kwargs))
        raise KeyboardInterrupt

    monkeypatch.setattr(recording, "play_episodes", interrupted)
    result = recording.record_episodes("tests/Turns", tmp_path / "some.npz", episodes=6, random=True)
    assert result["episodes"] == 2 == dataset.read_about(tmp_path / "some.npz").episodes
    assert "stopped: 2 of 6 episodes were played and are written" in caplog.text


def test_more_episodes_than_memory_holds_are_refused_after_the_first(tmp_path, monkeypatch):
    monkeypatch.setattr(recording, "_TOGETHER", 2)
    monkeypatch.setattr(replay_size, "free_memory", lambda: 10_000)
    with pytest.raises(ConfigError, match=r"episodes=900 needs .* for a copy to be written.* record fewer"):
        recording.record_episodes("tests/Turns", tmp_path / "all.npz", episodes=900, random=True)


def test_other_spaces_are_named_with_ours(tmp_path):
    write_episodes(tmp_path / "own.npz", [own()], "tests/Turns")
    with pytest.raises(ConfigError) as refused:
        dataset.read_rows(tmp_path / "own.npz", VectorEnv(Probe()))
    for text in ("the observation space Dict", "has Box(-1.0, 1.0", "action space Discrete(3)", "has Discrete(2)"):
        assert text in str(refused.value)


def test_the_command_records_random_actions(tmp_path, capsys):
    path = tmp_path / "random.npz"
    command = ["record", "tests/Turns", "--random", "--episodes", "6", "--out", str(path)]
    assert launch.main([*command, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    steps = dataset.read_rows(path, ENVS)
    assert (result["episodes"], result["steps"]) == (6, len(steps.reset)) and result["policy"] == "random"
    assert result["return"]["mean"] == pytest.approx(steps.reward.sum() / 6)
    for arguments, message in (
        (command, "exists; choose another"),
        ([*command, "--deterministic"], "--random and --deterministic exclude each other"),
        (["record", "tests/Turns", "--out", "x.npz"], "there is no run folder 'tests/Turns'"),
        (["record", "tests/Turnz", "--random", "--out", "x.npz"], "did you mean tests/Turns"),
        (["record", "tests/Turns", "--random"], "--out"),
        (
            ["record", "tests/Turns", "--random", "--out", str(tmp_path / "x.h5")],
            "x.h5 must end in .npz, the format of a data set",
        ),
        (["record", "tests/Turns", "--random", "--out", str(tmp_path / "x")], "name it x.npz"),
    ):
        assert launch.main(arguments) == 2
        assert message in capsys.readouterr().err
    assert launch.main(["record", "tests/Turns", "--random", "--episodes", "2", "--out", str(tmp_path / "b.npz")]) == 0
    assert "return mean" in capsys.readouterr().out


def test_episodes_of_a_gymnasium_environment_are_written(tmp_path):
    episode = {
        "observations": np.zeros((3, 4), np.float32),
        "actions": np.array([0, 1]),
        "rewards": np.ones(2),
        "terminations": np.array([False, True]),
        "truncations": np.array([False, False]),
    }
    about = write_episodes(tmp_path / "poles.npz", [episode], "gymnasium/CartPole-v1")
    assert (about.env, about.steps, about.episodes) == ("gymnasium/CartPole-v1", 3, 1)
